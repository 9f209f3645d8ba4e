-- Pruning keeps, of each namespace, the newest checkpoint. Two things make that more than one DELETE:
--
-- A subgraph's call has a namespace of its own (`node:task`). It goes with the checkpoint of the root graph that it was
-- called from, once a newer one stands there.
--
-- A delta channel is not stored with a checkpoint but as the writes of its ancestors, back to one where it is stored
-- whole. Which channels are of that kind stands in the metadata, as counters. Whoever prunes stores them whole first
-- (`write_out`); where that could not be done, the ancestors stay.

-- Nothing is deleted in one piece: a thread may have a million checkpoints, so that every statement here takes a bounded
-- number of rows, and whoever calls it comes back for the rest.

-- name: prunable
-- Those of the threads that may be pruned by this caller.
SELECT thread_id
FROM holdfast.threads t
WHERE thread_id = ANY(%(thread_ids)s::uuid[]) AND %%SEES(t)%% AND deleted_at IS NULL
  AND status <> 'busy' AND (%(interrupted)s OR status <> 'interrupted')
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))

-- name: hide
WITH gone AS (
    UPDATE holdfast.threads t
    SET deleted_at = holdfast.now(), edit_token = NULL
    WHERE thread_id = ANY(%(thread_ids)s::uuid[]) AND %%SEES(t)%% AND deleted_at IS NULL
      AND status <> 'busy' AND (%(interrupted)s OR status <> 'interrupted')
      AND NOT EXISTS (SELECT FROM holdfast.runs r
                      WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))
    RETURNING thread_id
), crons AS (
    DELETE FROM holdfast.crons c USING gone WHERE c.thread_id = gone.thread_id
)
SELECT thread_id FROM gone

-- name: unused
-- Threads of any owner that nobody has used for so long, in the order of their ids.
SELECT thread_id
FROM holdfast.threads
WHERE thread_id > %(after)s AND deleted_at IS NULL AND status <> 'busy' AND (%(interrupted)s OR status <> 'interrupted')
  AND updated_at < holdfast.now() - make_interval(secs => %(seconds)s)
ORDER BY thread_id
LIMIT %(limit)s

-- name: expire
WITH due AS (
    SELECT thread_id
    FROM holdfast.threads t
    WHERE ttl IS NOT NULL AND deleted_at IS NULL AND (pruned_at IS NULL OR pruned_at < updated_at)
      AND status = %(status)s
      AND (updated_at AT TIME ZONE 'UTC') + ttl < holdfast.now() AT TIME ZONE 'UTC'
      AND ttl_strategy = 'delete'
      AND NOT EXISTS (SELECT FROM holdfast.runs r
                      WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))
    ORDER BY (updated_at AT TIME ZONE 'UTC') + ttl
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE holdfast.threads t
SET deleted_at = holdfast.now(), edit_token = NULL
FROM due
WHERE t.thread_id = due.thread_id
RETURNING t.thread_id

-- name: expired
SELECT thread_id
FROM holdfast.threads
WHERE ttl IS NOT NULL AND deleted_at IS NULL AND (pruned_at IS NULL OR pruned_at < updated_at)
  AND status = %(status)s
  AND (updated_at AT TIME ZONE 'UTC') + ttl < holdfast.now() AT TIME ZONE 'UTC'
  AND ttl_strategy = %(strategy)s
ORDER BY (updated_at AT TIME ZONE 'UTC') + ttl
LIMIT %(limit)s

-- name: erase_some
-- Of threads that are hidden. A run goes after its events, so that its own deletion is small.
WITH writes AS (
    DELETE FROM checkpoint_writes WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM checkpoint_writes WHERE thread_id = ANY(%(names)s::text[]) LIMIT %(limit)s))
    RETURNING 1
), blobs AS (
    DELETE FROM checkpoint_blobs WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM checkpoint_blobs WHERE thread_id = ANY(%(names)s::text[]) LIMIT %(limit)s))
    RETURNING 1
), elements AS (
    DELETE FROM holdfast.elements WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM holdfast.elements WHERE thread_id = ANY(%(names)s::text[]) LIMIT %(limit)s))
    RETURNING 1
), states AS (
    DELETE FROM checkpoints WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM checkpoints WHERE thread_id = ANY(%(names)s::text[]) LIMIT %(limit)s))
    RETURNING 1
), events AS (
    DELETE FROM holdfast.event_blocks WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM holdfast.event_blocks WHERE thread_id = ANY(%(thread_ids)s::uuid[]) LIMIT %(limit)s))
    RETURNING 1
), ended AS (
    DELETE FROM holdfast.runs WHERE ctid = ANY(ARRAY(
        SELECT r.ctid FROM holdfast.runs r
        WHERE r.thread_id = ANY(%(thread_ids)s::uuid[]) AND r.status NOT IN ('pending', 'running')
          AND NOT EXISTS (SELECT FROM holdfast.event_blocks b WHERE b.run_id = r.run_id)
        LIMIT %(limit)s))
    RETURNING 1
)
SELECT greatest((SELECT count(*) FROM writes), (SELECT count(*) FROM blobs), (SELECT count(*) FROM elements),
                (SELECT count(*) FROM states), (SELECT count(*) FROM events), (SELECT count(*) FROM ended)) = %(limit)s AS is_more

-- name: erase
DELETE FROM holdfast.threads WHERE thread_id = ANY(%(thread_ids)s::uuid[]) AND deleted_at IS NOT NULL

-- name: heads
newest AS (
    SELECT checkpoint_ns, max(checkpoint_id) AS checkpoint_id
    FROM checkpoints
    WHERE thread_id = %(thread_id)s::text
    GROUP BY checkpoint_ns
), heads AS (
    SELECT c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint
    FROM newest JOIN checkpoints c USING (checkpoint_ns, checkpoint_id)
    WHERE c.thread_id = %(thread_id)s::text
      AND NOT (strpos(c.checkpoint_ns, ':') > 0 AND EXISTS (
          SELECT FROM checkpoints root JOIN newest now ON now.checkpoint_ns = ''
          WHERE root.thread_id = %(thread_id)s::text AND root.checkpoint_ns = ''
            AND root.checkpoint_id = c.metadata -> 'parents' ->> '' AND root.checkpoint_id <> now.checkpoint_id))
), deltas AS (
    SELECT DISTINCT c.checkpoint_ns, counter.channel
    FROM checkpoints c CROSS JOIN LATERAL jsonb_object_keys(c.metadata -> 'counters_since_delta_snapshot')
        AS counter (channel)
    WHERE c.thread_id = %(thread_id)s::text
), scattered AS (
    SELECT h.checkpoint_ns, h.checkpoint_id, h.parent_checkpoint_id, d.channel
    FROM heads h JOIN deltas d USING (checkpoint_ns)
    WHERE h.checkpoint -> 'channel_versions' ? d.channel
      AND coalesce(h.checkpoint -> 'channel_values' -> d.channel, 'null') = 'null'
      AND NOT EXISTS (
          SELECT FROM checkpoint_blobs b
          WHERE b.thread_id = %(thread_id)s::text AND b.checkpoint_ns = h.checkpoint_ns AND b.channel = d.channel
            AND b.version = h.checkpoint -> 'channel_versions' ->> d.channel AND b.type <> 'empty')
)

-- name: scattered
WITH %%heads%%
SELECT checkpoint_ns, checkpoint_id, array_agg(channel ORDER BY channel) AS channels
FROM scattered
GROUP BY checkpoint_ns, checkpoint_id

-- name: hold
SELECT FROM holdfast.threads
WHERE thread_id = %(thread_id)s AND edit_token = %(token)s AND deleted_at IS NULL
FOR NO KEY UPDATE

-- name: write_out
WITH whole AS (
    SELECT %(channel)s::text AS channel, c.checkpoint -> 'channel_versions' ->> %(channel)s AS version
    FROM checkpoints c
    WHERE c.thread_id = %(thread_id)s::text AND c.checkpoint_ns = %(checkpoint_ns)s
      AND c.checkpoint_id = %(checkpoint_id)s
), blob AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT %(thread_id)s::text, %(checkpoint_ns)s, channel, version, %(type)s, %(blob)s
    FROM whole
    ON CONFLICT (thread_id, checkpoint_ns, channel, version)
    DO UPDATE SET type = EXCLUDED.type, blob = EXCLUDED.blob
)
UPDATE checkpoints
SET checkpoint = jsonb_set(checkpoint, '{channel_values}', coalesce(checkpoint -> 'channel_values', '{}')
                           || jsonb_build_object(%(channel)s::text, true)),
    metadata = metadata #- ARRAY['counters_since_delta_snapshot', %(channel)s]
WHERE thread_id = %(thread_id)s::text AND checkpoint_ns = %(checkpoint_ns)s AND checkpoint_id = %(checkpoint_id)s

-- name: kept
-- What stays: the heads, and what they need.
WITH RECURSIVE %%heads%%, ancestors AS (
    SELECT checkpoint_ns, parent_checkpoint_id AS checkpoint_id, channel FROM scattered
    UNION
    SELECT a.checkpoint_ns, c.parent_checkpoint_id, a.channel
    FROM ancestors a JOIN checkpoints c USING (checkpoint_ns, checkpoint_id)
    WHERE c.thread_id = %(thread_id)s::text
      AND coalesce(c.checkpoint -> 'channel_values' -> a.channel, 'null') = 'null'
      AND NOT EXISTS (
          SELECT FROM checkpoint_blobs b
          WHERE b.thread_id = %(thread_id)s::text AND b.checkpoint_ns = c.checkpoint_ns AND b.channel = a.channel
            AND b.version = c.checkpoint -> 'channel_versions' ->> a.channel AND b.type <> 'empty')
)
SELECT checkpoint_ns, checkpoint_id FROM heads
UNION
SELECT checkpoint_ns, checkpoint_id FROM ancestors WHERE checkpoint_id IS NOT NULL
UNION
-- Before version 4 a checkpoint's tasks stood among its parent's writes.
SELECT checkpoint_ns, parent_checkpoint_id FROM heads
WHERE (checkpoint ->> 'v')::integer < 4 AND parent_checkpoint_id IS NOT NULL

-- name: cut_off
-- What stays has no parents among what goes.
WITH kept AS (
    SELECT * FROM unnest(%(namespaces)s::text[], %(checkpoint_ids)s::text[]) AS kept (checkpoint_ns, checkpoint_id)
)
UPDATE checkpoints c SET parent_checkpoint_id = NULL
FROM kept k
WHERE c.thread_id = %(thread_id)s::text
  AND c.checkpoint_ns = k.checkpoint_ns AND c.checkpoint_id = k.checkpoint_id
  AND (c.checkpoint_ns, c.parent_checkpoint_id) NOT IN (SELECT checkpoint_ns, checkpoint_id FROM kept)

-- name: forget_states
-- The newest first: of what is left for now, every state still has the ancestors that it needs.
WITH kept AS (
    SELECT * FROM unnest(%(namespaces)s::text[], %(checkpoint_ids)s::text[]) AS kept (checkpoint_ns, checkpoint_id)
), gone AS (
    DELETE FROM checkpoints WHERE ctid = ANY(ARRAY(
        SELECT c.ctid FROM checkpoints c
        WHERE c.thread_id = %(thread_id)s::text
          AND NOT EXISTS (SELECT FROM kept k
                          WHERE k.checkpoint_ns = c.checkpoint_ns AND k.checkpoint_id = c.checkpoint_id)
        ORDER BY c.checkpoint_ns DESC, c.checkpoint_id DESC
        LIMIT %(limit)s))
    RETURNING checkpoint_ns, checkpoint_id
), writes AS (
    DELETE FROM checkpoint_writes w USING gone
    WHERE w.thread_id = %(thread_id)s::text
      AND w.checkpoint_ns = gone.checkpoint_ns AND w.checkpoint_id = gone.checkpoint_id
)
SELECT count(*) = %(limit)s AS is_more FROM gone

-- name: forget_values
-- Once the states are gone: what none of the others uses.
WITH kept AS (
    SELECT * FROM unnest(%(namespaces)s::text[], %(checkpoint_ids)s::text[]) AS kept (checkpoint_ns, checkpoint_id)
), used AS (
    SELECT c.checkpoint_ns, version.key AS channel, version.value AS version
    FROM kept JOIN checkpoints c USING (checkpoint_ns, checkpoint_id)
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS version
    WHERE c.thread_id = %(thread_id)s::text
), writes AS (
    DELETE FROM checkpoint_writes WHERE ctid = ANY(ARRAY(
        SELECT w.ctid FROM checkpoint_writes w
        WHERE w.thread_id = %(thread_id)s::text
          AND (w.checkpoint_ns, w.checkpoint_id) NOT IN (SELECT checkpoint_ns, checkpoint_id FROM kept)
        LIMIT %(limit)s))
    RETURNING 1
), blobs AS (
    DELETE FROM checkpoint_blobs WHERE ctid = ANY(ARRAY(
        SELECT b.ctid FROM checkpoint_blobs b
        WHERE b.thread_id = %(thread_id)s::text
          AND (b.checkpoint_ns, b.channel, b.version) NOT IN (SELECT checkpoint_ns, channel, version FROM used)
        LIMIT %(limit)s))
    RETURNING 1
)
SELECT greatest((SELECT count(*) FROM writes), (SELECT count(*) FROM blobs)) = %(limit)s AS is_more

-- name: reached
-- The rows that lists are made of (see elements.py), from the roots in `held` downwards.
reached AS (
    SELECT substring(h.blob FROM 7 + 16 * n FOR 16) AS digest
    FROM held h, generate_series(0, 256 * get_byte(h.blob, 4) + get_byte(h.blob, 5) - 1) AS n
    UNION
    SELECT substring(e.bytes FROM 1 + 16 * n FOR 16)
    FROM reached r
    JOIN holdfast.elements e ON e.thread_id = %(thread_id)s::text AND e.digest = r.digest AND e.level > 0,
    generate_series(0, length(e.bytes) / 16 - 1) AS n
)

-- name: forget_elements
-- Once the values are gone: what no list is made of any more.
WITH RECURSIVE held AS (
    SELECT blob FROM checkpoint_blobs WHERE thread_id = %(thread_id)s::text AND type = 'holdfast-elements'
), %%reached%%, gone AS (
    DELETE FROM holdfast.elements WHERE ctid = ANY(ARRAY(
        SELECT e.ctid FROM holdfast.elements e
        WHERE e.thread_id = %(thread_id)s::text AND NOT EXISTS (SELECT FROM reached r WHERE r.digest = e.digest)
        LIMIT %(limit)s))
    RETURNING 1
)
SELECT count(*) = %(limit)s AS is_more FROM gone

-- name: pruned
UPDATE holdfast.threads
SET pruned_at = holdfast.now(), edit_token = NULL
WHERE thread_id = %(thread_id)s

-- name: bytes
-- What threads take up, as Postgres keeps it.
SELECT coalesce((SELECT sum(pg_column_size(c.checkpoint) + pg_column_size(c.metadata)) FROM checkpoints c
                 WHERE c.thread_id = ANY(%(names)s::text[])), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(b.blob)) FROM checkpoint_blobs b
                 WHERE b.thread_id = ANY(%(names)s::text[])), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(p.bytes)) FROM holdfast.elements p
                 WHERE p.thread_id = ANY(%(names)s::text[])), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(w.blob)) FROM checkpoint_writes w
                 WHERE w.thread_id = ANY(%(names)s::text[])), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(e.frames)) FROM holdfast.event_blocks e
                 WHERE e.thread_id = ANY(%(thread_ids)s::uuid[])), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(v.value)) FROM holdfast.thread_values v
                 WHERE v.thread_id = ANY(%(thread_ids)s::uuid[])), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(r.kwargs)) FROM holdfast.runs r
                 WHERE r.thread_id = ANY(%(thread_ids)s::uuid[])), 0)::bigint AS bytes

-- name: kept_bytes
-- What stays of a history.
WITH RECURSIVE kept AS (
    SELECT * FROM unnest(%(namespaces)s::text[], %(checkpoint_ids)s::text[]) AS kept (checkpoint_ns, checkpoint_id)
), states AS (
    SELECT c.* FROM kept JOIN checkpoints c USING (checkpoint_ns, checkpoint_id)
    WHERE c.thread_id = %(thread_id)s::text
), held AS (
    SELECT b.blob FROM checkpoint_blobs b
    WHERE b.thread_id = %(thread_id)s::text AND b.type = 'holdfast-elements' AND EXISTS (
        SELECT FROM states s WHERE s.checkpoint_ns = b.checkpoint_ns
          AND s.checkpoint -> 'channel_versions' ->> b.channel = b.version)
), %%reached%%
SELECT coalesce((SELECT sum(pg_column_size(checkpoint) + pg_column_size(metadata)) FROM states), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(p.bytes)) FROM holdfast.elements p JOIN reached r USING (digest)
                 WHERE p.thread_id = %(thread_id)s::text), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(w.blob)) FROM kept JOIN checkpoint_writes w USING (checkpoint_ns, checkpoint_id)
                 WHERE w.thread_id = %(thread_id)s::text), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(b.blob)) FROM checkpoint_blobs b
                 WHERE b.thread_id = %(thread_id)s::text AND EXISTS (
                     SELECT FROM states s WHERE s.checkpoint_ns = b.checkpoint_ns
                       AND s.checkpoint -> 'channel_versions' ->> b.channel = b.version)), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(e.frames)) FROM holdfast.event_blocks e
                 WHERE e.thread_id = %(thread_id)s), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(v.value)) FROM holdfast.thread_values v
                 WHERE v.thread_id = %(thread_id)s), 0)::bigint
     + coalesce((SELECT sum(pg_column_size(r.kwargs)) FROM holdfast.runs r
                 WHERE r.thread_id = %(thread_id)s), 0)::bigint AS bytes
