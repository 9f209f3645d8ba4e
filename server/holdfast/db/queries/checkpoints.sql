-- Writes to LangGraph's own tables, one statement each. %%FENCE%% is one of the two fences below: when it yields no row,
-- nothing is written, and the count that comes back is 0.

-- name: run_fence
SELECT FROM holdfast.runs
WHERE run_id = %(fence_id)s AND fencing_token = %(fence_token)s AND status = 'running'
FOR SHARE

-- name: edit_fence
-- A deleted thread has no token; the draft of a thread has.
SELECT FROM holdfast.threads t
WHERE thread_id = %(fence_id)s AND edit_token = %(fence_token)s
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
FOR SHARE

-- name: note_command
-- Of checkpoints elsewhere: the command's update is about to be saved.
UPDATE holdfast.runs SET command_saved = true
WHERE run_id = %(fence_id)s AND fencing_token = %(fence_token)s AND status = 'running'
RETURNING run_id

-- name: put
WITH fence AS (%%FENCE%%), blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT %(thread_id)s, %(checkpoint_ns)s, new.channel, new.version, new.type, new.blob
    FROM fence, unnest(%(channels)s::text[], %(versions)s::text[], %(types)s::text[], %(blobs)s::bytea[])
        AS new (channel, version, type, blob)
    ON CONFLICT (thread_id, checkpoint_ns, channel, version) DO NOTHING
), elements AS (
    INSERT INTO holdfast.elements (thread_id, digest, level, bytes)
    SELECT %(thread_id)s, new.digest, new.level, new.bytes
    FROM fence, unnest(%(digests)s::bytea[], %(levels)s::smallint[], %(elements)s::bytea[])
        AS new (digest, level, bytes)
    ON CONFLICT DO NOTHING
), saved AS (
    INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
    SELECT %(thread_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(parent_id)s, %(checkpoint)s::jsonb, %(metadata)s::jsonb
    FROM fence
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id)
    DO UPDATE SET checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
    RETURNING 1
)
SELECT count(*) AS saved FROM saved

-- name: put_writes
WITH fence AS (%%FENCE%%), command AS (
    UPDATE holdfast.runs SET command_saved = true
    FROM fence
    WHERE run_id = %(fence_id)s AND %(is_command)s AND NOT command_saved
), stale AS (
    DELETE FROM checkpoint_writes w
    USING fence
    WHERE w.thread_id = %(thread_id)s AND w.checkpoint_ns = %(checkpoint_ns)s
      AND w.checkpoint_id = %(checkpoint_id)s AND w.task_id = %(task_id)s AND w.idx >= %(length)s
    RETURNING w.idx
), saved AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT %(thread_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(task_id)s, %(task_path)s,
           new.idx, new.channel, new.type, new.blob
    FROM fence, unnest(%(idxs)s::integer[], %(channels)s::text[], %(types)s::text[], %(blobs)s::bytea[])
        AS new (idx, channel, type, blob)
    ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
    DO UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob
    RETURNING idx
), borrowed AS (
    -- What stood there before comes from the statement's snapshot, which none of the parts above has changed.
    INSERT INTO holdfast.borrowed_writes
        (run_id, checkpoint_ns, checkpoint_id, task_id, idx, old_task_path, old_channel, old_type, old_blob)
    SELECT %(fence_id)s, %(checkpoint_ns)s, %(checkpoint_id)s, %(task_id)s, touched.idx,
           old.task_path, old.channel, old.type, old.blob
    FROM (SELECT idx FROM saved UNION ALL SELECT idx FROM stale) AS touched
    LEFT JOIN checkpoint_writes old
        ON old.thread_id = %(thread_id)s AND old.checkpoint_ns = %(checkpoint_ns)s
       AND old.checkpoint_id = %(checkpoint_id)s AND old.task_id = %(task_id)s AND old.idx = touched.idx
    WHERE %(is_borrowed)s
    ON CONFLICT DO NOTHING
)
SELECT count(*) AS saved FROM saved

-- name: newest_id
SELECT checkpoint_id FROM checkpoints
WHERE thread_id = %(thread_id)s AND checkpoint_ns = %(checkpoint_ns)s
ORDER BY checkpoint_id DESC
LIMIT 1
