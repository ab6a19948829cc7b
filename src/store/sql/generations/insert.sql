INSERT INTO embedding_generations (tenant_id, knowledge_base_id, id, encoder, dimensions, state)
VALUES (tertulia_tenant_id(), $1, $2, $3, $4, 'building')
