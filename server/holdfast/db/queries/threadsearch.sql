-- A search is put together from these parts: only the terms that were given stand in it, so that each combination has a
-- plan of its own. Values are JSON, which says exactly what the graph did; Postgres looks inside only as JSONB.

-- name: view
-- What is costly is read for the rows of the page alone, not for those that an offset passes over.
SELECT thread_id, status, metadata, config, interrupts, error, checkpoint_id, created_at, updated_at, state_updated_at,
       ttl_strategy, extract(epoch FROM ttl)::float / 60 AS ttl_minutes, updated_at + ttl AS expires_at,
       CASE WHEN %(with_values)s AND checkpoint_id IS NOT NULL THEN %%values%% END AS values,
       %%EXTRACTED%%::json AS extracted
FROM (%%FOUND%%) AS t

-- name: found
SELECT * FROM holdfast.threads t WHERE %%SEES(t)%% AND deleted_at IS NULL

-- name: count
SELECT count(*) AS count FROM holdfast.threads t WHERE %%SEES(t)%% AND deleted_at IS NULL

-- name: by_id
AND thread_id = %(thread_id)s

-- name: by_ids
AND thread_id = ANY(%(ids)s::uuid[])

-- name: by_status
AND status = %(status)s

-- name: by_metadata
AND metadata @> %(metadata)s::jsonb

-- name: by_values
AND NOT EXISTS (
    SELECT FROM jsonb_each(%(values)s::jsonb) AS wanted
    WHERE NOT coalesce((
        SELECT CASE WHEN min(idx) = -1 THEN jsonb_agg(holdfast.as_jsonb(value)) -> 0
                    ELSE jsonb_agg(holdfast.as_jsonb(value) ORDER BY idx) END
        FROM holdfast.thread_values v
        WHERE v.thread_id = t.thread_id AND v.channel = wanted.key
    ) @> wanted.value, false))

-- name: values
(SELECT coalesce(json_object_agg(channel, value), '{}')
 FROM (SELECT channel,
              CASE WHEN min(idx) = -1 THEN (array_agg(value))[1] ELSE json_agg(value ORDER BY idx) END AS value
       FROM holdfast.thread_values v
       WHERE v.thread_id = t.thread_id
       GROUP BY channel) AS channels)

-- name: channel
(SELECT CASE WHEN min(idx) = -1 THEN (array_agg(value))[1] ELSE json_agg(value ORDER BY idx) END
 FROM holdfast.thread_values v
 WHERE v.thread_id = t.thread_id AND v.channel = %(channel)s)

-- name: element
-- One element of a list channel, from its end if `place` is negative, without reading the others.
(SELECT CASE WHEN v.idx = -1 THEN (holdfast.as_jsonb(v.value) #> ARRAY[%(place)s::text])::json ELSE v.value END
 FROM holdfast.thread_values v
 WHERE v.thread_id = t.thread_id AND v.channel = %(channel)s
   AND v.idx IN (-1, CASE WHEN %(place)s >= 0 THEN %(place)s::integer ELSE (
       SELECT max(idx) + 1 + %(place)s::integer
       FROM holdfast.thread_values w
       WHERE w.thread_id = t.thread_id AND w.channel = %(channel)s) END))
