-- name: lineage
-- Checkpoints from one on backwards, a bounded number, once for each channel: its version where its value is stored
-- beside the checkpoint, or the value where that stands in the checkpoint itself. (A snapshot leaves `true` there.)
SELECT c.checkpoint_id, c.parent_checkpoint_id, asked.channel, b.version,
       CASE WHEN b.version IS NULL THEN c.checkpoint -> 'channel_values' -> asked.channel END AS inline
FROM (SELECT checkpoint_id, parent_checkpoint_id, checkpoint
      FROM checkpoints
      WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s
        AND checkpoint_id <= %(start)s AND checkpoint_id IS DISTINCT FROM %(before)s::text
      ORDER BY checkpoint_id DESC
      LIMIT %(limit)s) AS c
CROSS JOIN unnest(%(channels)s::text[]) AS asked (channel)
LEFT JOIN LATERAL (
    -- By primary key: a join of two sets may be planned from estimates, which are worst for the longest threads.
    SELECT bl.version FROM checkpoint_blobs bl
    WHERE bl.thread_id = %(thread_id)s AND bl.checkpoint_ns = %(checkpoint_ns)s AND bl.channel = asked.channel
      AND bl.version = c.checkpoint -> 'channel_versions' ->> asked.channel AND bl.type <> 'empty'
    LIMIT 1) AS b ON true
ORDER BY c.checkpoint_id DESC

-- name: written
-- What was written to a channel between two checkpoints, on branches in between too.
SELECT checkpoint_id, task_id, type, blob, task_path, idx
FROM checkpoint_writes
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s AND channel = %(channel)s
  AND checkpoint_id BETWEEN %(oldest)s AND %(start)s

-- name: seeds
SELECT b.channel, b.type, b.blob
FROM unnest(%(channels)s::text[], %(versions)s::text[]) AS held (channel, version)
JOIN checkpoint_blobs b USING (channel, version)
WHERE b.thread_id = %(thread_id)s AND b.checkpoint_ns = %(checkpoint_ns)s
