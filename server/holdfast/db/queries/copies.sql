-- name: copy
-- One statement, so one snapshot: what is committed at this moment, and nothing of what a run writes meanwhile.
WITH source AS (
    SELECT * FROM holdfast.threads t
    WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL
), copied_thread AS (
    INSERT INTO holdfast.threads (
        thread_id, owner, status, metadata, config, interrupts, unfinished, error, checkpoint_id, value_digests,
        ttl, ttl_strategy, created_at, updated_at, state_updated_at)
    SELECT %(copy_id)s, %(owner)s,
           CASE WHEN status <> 'busy' THEN status WHEN unfinished THEN 'interrupted' ELSE 'idle' END,
           metadata, config, interrupts, unfinished, CASE WHEN status <> 'busy' THEN error END, checkpoint_id,
           value_digests, ttl, ttl_strategy, holdfast.now(), holdfast.now(), holdfast.now()
    FROM source
), copied_values AS (
    INSERT INTO holdfast.thread_values (thread_id, channel, idx, value)
    SELECT %(copy_id)s, v.channel, v.idx, v.value
    FROM source JOIN holdfast.thread_values v USING (thread_id)
), copied_checkpoints AS (
    INSERT INTO checkpoints
        (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT %(copy_id)s::text, c.checkpoint_ns, c.checkpoint_id, c.parent_checkpoint_id, c.type, c.checkpoint,
           CASE WHEN c.metadata ? 'thread_id'
                THEN c.metadata || jsonb_build_object('thread_id', %(copy_id)s::text) ELSE c.metadata END
    FROM source JOIN checkpoints c ON c.thread_id = source.thread_id::text
), copied_blobs AS (
    INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
    SELECT %(copy_id)s::text, b.checkpoint_ns, b.channel, b.version, b.type, b.blob
    FROM source JOIN checkpoint_blobs b ON b.thread_id = source.thread_id::text
), copied_writes AS (
    INSERT INTO checkpoint_writes
        (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
    SELECT %(copy_id)s::text, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.task_path, w.idx, w.channel, w.type, w.blob
    FROM source JOIN checkpoint_writes w ON w.thread_id = source.thread_id::text
), copied_elements AS (
    INSERT INTO holdfast.elements (thread_id, digest, level, bytes)
    SELECT %(copy_id)s::text, e.digest, e.level, e.bytes
    FROM source JOIN holdfast.elements e ON e.thread_id = source.thread_id::text
), copied_questions AS (
    INSERT INTO holdfast.approvals (
        approval_id, owner, metadata, thread_id, interrupt_id, task_id, checkpoint_id, graph_id, assistant_id, question,
        asked_at, state, requested_by)
    SELECT gen_random_uuid(), %(owner)s, a.metadata, %(copy_id)s, a.interrupt_id, a.task_id, a.checkpoint_id, a.graph_id,
           a.assistant_id, a.question, holdfast.now(), 'pending', coalesce(a.requested_by, a.owner)
    FROM source JOIN holdfast.approvals a USING (thread_id)
    WHERE a.state IN ('pending', 'answering', 'expiring')
)
SELECT status = 'busy' AS was_busy FROM source

-- name: storage
-- Bytes as Postgres keeps them, compressed where it compressed them.
SELECT 'checkpoints' AS part, NULL AS channel, count(*) AS count,
       coalesce(sum(pg_column_size(checkpoint) + pg_column_size(metadata)), 0)::bigint AS bytes
FROM checkpoints
WHERE thread_id = %(thread_id)s::text
UNION ALL
SELECT 'channel_values', channel, count(*), coalesce(sum(pg_column_size(blob)), 0)::bigint
FROM checkpoint_blobs
WHERE thread_id = %(thread_id)s::text
GROUP BY channel
UNION ALL
-- What lists by element are made of: bytes of values, of whichever channel.
SELECT 'channel_values', NULL, 0, coalesce(sum(pg_column_size(bytes)), 0)::bigint
FROM holdfast.elements
WHERE thread_id = %(thread_id)s::text
UNION ALL
SELECT 'pending_writes', NULL, count(*), coalesce(sum(pg_column_size(blob)), 0)::bigint
FROM checkpoint_writes
WHERE thread_id = %(thread_id)s::text
