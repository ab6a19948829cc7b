SELECT max(version)::integer FROM public.refinery_schema_history
