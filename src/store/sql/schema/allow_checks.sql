GRANT SELECT ON public.refinery_schema_history TO tertulia_service
