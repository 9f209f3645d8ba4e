-- name: put_system
INSERT INTO holdfast.assistants (assistant_id, graph_id, name, description, metadata, created_at, updated_at)
VALUES (%(assistant_id)s, %(graph_id)s, %(name)s, %(description)s, %(metadata)s, holdfast.now(), holdfast.now())
ON CONFLICT (assistant_id) DO UPDATE
SET name = EXCLUDED.name, description = EXCLUDED.description, updated_at = holdfast.now()
WHERE (assistants.name, assistants.description) IS DISTINCT FROM (EXCLUDED.name, EXCLUDED.description)

-- name: get
SELECT assistant_id, graph_id, name, description, config, context, metadata, version, created_at, updated_at
FROM holdfast.assistants a
WHERE assistant_id = %(assistant_id)s AND (a.owner IS NULL OR %%SEES(a)%%)
  AND graph_id = ANY(%(graph_ids)s::text[])

-- name: search
SELECT assistant_id, graph_id, name, description, config, context, metadata, version, created_at, updated_at
FROM holdfast.assistants a
WHERE (a.owner IS NULL OR %%SEES(a)%%)
  AND graph_id = ANY(%(graph_ids)s::text[])
  AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
  AND (%(name)s::text IS NULL OR name ILIKE '%%' || %(name)s || '%%')
  AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s::jsonb)
ORDER BY created_at DESC, assistant_id
LIMIT %(limit)s OFFSET %(offset)s
