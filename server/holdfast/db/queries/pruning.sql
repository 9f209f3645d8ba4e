-- Pruning keeps, of each namespace, the newest checkpoint. Two things make that more than one DELETE:
--
-- A subgraph's call has a namespace of its own (`node:task`). It goes with the checkpoint of the root graph that it was
-- called from, once a newer one stands there.
--
-- A delta channel is not stored with a checkpoint but as the writes of its ancestors, back to one where it is stored
-- whole. Which channels are of that kind stands in the metadata, as counters. Whoever prunes stores them whole first
-- (`write_out`); where that could not be done, the ancestors stay.

-- name: delete
DELETE FROM holdfast.threads t
WHERE thread_id = ANY(%(thread_ids)s::uuid[]) AND %%SEES(t)%% AND deleted_at IS NULL AND status <> 'busy'
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))
RETURNING thread_id::text

-- name: expire
WITH due AS (
    SELECT thread_id
    FROM holdfast.threads t
    WHERE ttl IS NOT NULL AND deleted_at IS NULL AND (pruned_at IS NULL OR pruned_at < updated_at)
      AND (updated_at AT TIME ZONE 'UTC') + ttl < holdfast.now() AT TIME ZONE 'UTC'
      AND ttl_strategy = 'delete' AND status <> 'busy'
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

-- name: expired_histories
SELECT thread_id
FROM holdfast.threads
WHERE ttl IS NOT NULL AND deleted_at IS NULL AND (pruned_at IS NULL OR pruned_at < updated_at)
  AND (updated_at AT TIME ZONE 'UTC') + ttl < holdfast.now() AT TIME ZONE 'UTC'
  AND ttl_strategy = 'keep_latest' AND status <> 'busy'
ORDER BY (updated_at AT TIME ZONE 'UTC') + ttl
LIMIT %(limit)s

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
WITH %%HEADS%%
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

-- name: forget
WITH RECURSIVE %%HEADS%%, ancestors AS (
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
), kept AS (
    SELECT checkpoint_ns, checkpoint_id FROM heads
    UNION
    SELECT checkpoint_ns, checkpoint_id FROM ancestors WHERE checkpoint_id IS NOT NULL
    UNION
    -- Before version 4 a checkpoint's tasks stood among its parent's writes.
    SELECT checkpoint_ns, parent_checkpoint_id FROM heads
    WHERE (checkpoint ->> 'v')::integer < 4 AND parent_checkpoint_id IS NOT NULL
), used AS (
    SELECT c.checkpoint_ns, version.key AS channel, version.value AS version
    FROM kept JOIN checkpoints c USING (checkpoint_ns, checkpoint_id)
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') AS version
    WHERE c.thread_id = %(thread_id)s::text
), gone AS (
    DELETE FROM checkpoints
    WHERE thread_id = %(thread_id)s::text
      AND (checkpoint_ns, checkpoint_id) NOT IN (SELECT checkpoint_ns, checkpoint_id FROM kept)
), writes AS (
    DELETE FROM checkpoint_writes
    WHERE thread_id = %(thread_id)s::text
      AND (checkpoint_ns, checkpoint_id) NOT IN (SELECT checkpoint_ns, checkpoint_id FROM kept)
), blobs AS (
    DELETE FROM checkpoint_blobs
    WHERE thread_id = %(thread_id)s::text
      AND (checkpoint_ns, channel, version) NOT IN (SELECT checkpoint_ns, channel, version FROM used)
), orphans AS (
    UPDATE checkpoints c SET parent_checkpoint_id = NULL
    FROM kept k
    WHERE c.thread_id = %(thread_id)s::text
      AND c.checkpoint_ns = k.checkpoint_ns AND c.checkpoint_id = k.checkpoint_id
      AND (c.checkpoint_ns, c.parent_checkpoint_id) NOT IN (SELECT checkpoint_ns, checkpoint_id FROM kept)
)
UPDATE holdfast.threads
SET pruned_at = holdfast.now(), edit_token = NULL
WHERE thread_id = %(thread_id)s
