-- Every change is one statement: it writes the row as `changed`, and `recorded` adds the same as a version. Whoever waits
-- for the row's lock counts on from what the other left, so no version is lost and no number is given twice.
--
-- A system assistant (no owner) is everybody's to use. Only a caller who is alone may change it; it cannot be deleted.

-- name: create
WITH changed AS (
    INSERT INTO holdfast.assistants AS a (
        assistant_id, owner, graph_id, name, description, config, context, metadata, created_at, updated_at)
    VALUES (
        %(assistant_id)s, %(owner)s, %(graph_id)s, %(name)s, %(description)s, %(config)s, %(context)s, %(metadata)s,
        holdfast.now(), holdfast.now())
    ON CONFLICT (assistant_id) DO NOTHING
    RETURNING a.*
)

-- name: put_system
WITH changed AS (
    INSERT INTO holdfast.assistants AS a (
        assistant_id, graph_id, name, description, metadata, declared, created_at, updated_at)
    VALUES (
        %(assistant_id)s, %(graph_id)s, %(name)s, %(description)s, '{"created_by": "system"}',
        jsonb_build_object('name', %(name)s::text, 'description', %(description)s::text), holdfast.now(), holdfast.now())
    ON CONFLICT (assistant_id) DO UPDATE
    SET name = EXCLUDED.name, description = EXCLUDED.description, declared = EXCLUDED.declared,
        newest_version = a.newest_version + 1, version = a.newest_version + 1, updated_at = holdfast.now()
    WHERE a.owner IS NULL AND a.declared IS DISTINCT FROM EXCLUDED.declared
    RETURNING a.*
)

-- name: patch
-- A context that comes without a config becomes the configurable of the config that is there.
WITH changed AS (
    UPDATE holdfast.assistants a
    SET graph_id = coalesce(%(graph_id)s, graph_id),
        name = coalesce(%(name)s, name),
        description = coalesce(%(description)s, description),
        config = coalesce(%(config)s::jsonb, CASE WHEN %(context)s::jsonb IS NULL THEN config
                                                  ELSE config - 'configurable' || %(configurable)s::jsonb END),
        context = coalesce(%(context)s::jsonb, context),
        metadata = metadata || %(metadata)s::jsonb,
        newest_version = newest_version + 1,
        version = newest_version + 1,
        updated_at = holdfast.now()
    WHERE assistant_id = %(assistant_id)s AND graph_id = ANY(%(graph_ids)s::text[])
      AND (a.owner IS NOT NULL AND %%SEES(a)%%
           OR a.owner IS NULL AND %(alone)s AND graph_id = coalesce(%(graph_id)s, graph_id))
    RETURNING a.*
)

-- name: recorded
, recorded AS (
    INSERT INTO holdfast.assistant_versions (
        assistant_id, version, graph_id, name, description, config, context, metadata, created_at)
    SELECT assistant_id, version, graph_id, name, description, config, context, metadata, updated_at
    FROM changed
)
SELECT assistant_id, graph_id, name, description, config, context, metadata, version, created_at, updated_at
FROM changed

-- name: set_latest
UPDATE holdfast.assistants a
SET version = v.version, graph_id = v.graph_id, name = v.name, description = v.description, config = v.config,
    context = v.context, metadata = v.metadata, updated_at = holdfast.now()
FROM holdfast.assistant_versions v
WHERE a.assistant_id = %(assistant_id)s AND v.assistant_id = a.assistant_id AND v.version = %(version)s
  AND a.graph_id = ANY(%(graph_ids)s::text[]) AND v.graph_id = ANY(%(graph_ids)s::text[])
  AND (a.owner IS NOT NULL AND %%SEES(a)%% OR a.owner IS NULL AND %(alone)s)
RETURNING a.assistant_id, a.graph_id, a.name, a.description, a.config, a.context, a.metadata, a.version, a.created_at,
          a.updated_at

-- name: delete
DELETE FROM holdfast.assistants a
WHERE assistant_id = %(assistant_id)s AND graph_id = ANY(%(graph_ids)s::text[])
  AND a.owner IS NOT NULL AND %%SEES(a)%%
RETURNING assistant_id

-- name: threads
SELECT thread_id
FROM holdfast.threads t
WHERE %%SEES(t)%% AND deleted_at IS NULL AND metadata @> jsonb_build_object('assistant_id', %(assistant_id)s::text)
LIMIT %(limit)s

-- name: get
SELECT assistant_id, owner, graph_id, name, description, config, context, metadata, version, created_at, updated_at
FROM holdfast.assistants a
WHERE assistant_id = %(assistant_id)s AND (a.owner IS NULL OR %%SEES(a)%%)
  AND graph_id = ANY(%(graph_ids)s::text[])

-- name: on_thread
SELECT a.assistant_id, a.graph_id, a.config, a.context, a.metadata,
       coalesce(t.config, '{}') AS thread_config, coalesce(t.metadata, '{}') AS thread_metadata
FROM holdfast.assistants a
LEFT JOIN holdfast.threads t ON t.thread_id = %(thread_id)s AND %%ALSO_SEES(t)%% AND t.deleted_at IS NULL
WHERE a.assistant_id = %(assistant_id)s AND (a.owner IS NULL OR %%SEES(a)%%)
  AND a.graph_id = ANY(%(graph_ids)s::text[])

-- name: on_threads
-- The same for a group of callers who see what is their own.
SELECT asked.lookup_id, a.assistant_id, a.graph_id, a.config, a.context, a.metadata,
       coalesce(t.config, '{}') AS thread_config, coalesce(t.metadata, '{}') AS thread_metadata
FROM unnest(%(lookup_ids)s, %(assistant_ids)s, %(thread_ids)s, %(owners)s)
    AS asked (lookup_id, assistant_id, thread_id, owner)
CROSS JOIN LATERAL (SELECT * FROM holdfast.assistants WHERE assistant_id = asked.assistant_id OFFSET 0) AS a
LEFT JOIN LATERAL (SELECT * FROM holdfast.threads WHERE thread_id = asked.thread_id OFFSET 0) AS t
    ON t.owner = asked.owner AND t.deleted_at IS NULL
WHERE (a.owner IS NULL OR a.owner = asked.owner) AND a.graph_id = ANY(%(graph_ids)s)

-- name: versions
SELECT v.assistant_id, v.version, v.graph_id, v.name, v.description, v.config, v.context, v.metadata, v.created_at
FROM holdfast.assistant_versions v
WHERE v.assistant_id = %(assistant_id)s
  AND (%(metadata)s::jsonb IS NULL OR v.metadata @> %(metadata)s::jsonb)
  AND EXISTS (SELECT FROM holdfast.assistants a
              WHERE a.assistant_id = v.assistant_id AND (a.owner IS NULL OR %%SEES(a)%%)
                AND a.graph_id = ANY(%(graph_ids)s::text[]))
ORDER BY v.version DESC
LIMIT %(limit)s OFFSET %(offset)s

-- name: of_graph
-- This and the other search terms are there only if asked for: one plan that served them all could use no index.
  AND graph_id = %(graph_id)s

-- name: of_name
  AND name ILIKE '%%' || %(name)s || '%%'

-- name: of_metadata
  AND metadata @> %(metadata)s

-- name: view
SELECT assistant_id, graph_id, name, description, config, context, metadata, version, created_at, updated_at
FROM holdfast.assistants a
WHERE (a.owner IS NULL OR %%SEES(a)%%) AND graph_id = ANY(%(graph_ids)s::text[])

-- name: count
SELECT count(*) AS count
FROM holdfast.assistants a
WHERE (a.owner IS NULL OR %%SEES(a)%%) AND graph_id = ANY(%(graph_ids)s::text[])
