-- Guards live in the WHERE clauses; a verb that changes no row was refused. `rules/run.py` is the same as a table.

-- name: active
SELECT run_id, thread_id, ephemeral, held
FROM holdfast.runs
WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running')
ORDER BY seq

-- name: insert
INSERT INTO holdfast.runs (
    run_id, thread_id, owner, assistant_id, graph_id, status, metadata, kwargs, multitask_strategy,
    resumable, logged, ephemeral, available_at, created_at, updated_at, webhook, priority,
    on_pending_interrupt, held, trace_id)
VALUES (
    %(run_id)s, %(thread_id)s, %(owner)s, %(assistant_id)s, %(graph_id)s, 'pending', %(metadata)s, %(kwargs)s,
    %(multitask_strategy)s, %(resumable)s, %(logged)s, %(ephemeral)s,
    holdfast.now() + make_interval(secs => %(after_seconds)s),
    holdfast.now() + make_interval(secs => %(after_seconds)s), holdfast.now(), %(webhook)s, %(priority)s,
    %(on_pending)s, %(held)s,
    CASE WHEN %(goes_on)s THEN %%went_before%% ELSE %(trace_id)s END)
ON CONFLICT (run_id) DO NOTHING

-- name: went_before
-- Part of `insert`: the trace of the run that asked what this one answers; otherwise of the last one that began.
coalesce(
        (SELECT coalesce(r.trace_id, a.run_id)
         FROM holdfast.approvals a LEFT JOIN holdfast.runs r USING (run_id)
         WHERE a.thread_id = %(thread_id)s AND a.interrupt_id = ANY(%(answers)s::text[])
           AND a.state IN ('pending', 'answering', 'expiring') AND a.run_id IS NOT NULL
         LIMIT 1),
        (SELECT coalesce(r.trace_id, r.run_id)
         FROM holdfast.runs r
         WHERE r.thread_id = %(thread_id)s AND r.started_at IS NOT NULL
         ORDER BY r.seq DESC
         LIMIT 1))

-- name: is_in
SELECT FROM holdfast.runs WHERE run_id = %(run_id)s

-- name: bind_answers
INSERT INTO holdfast.answers (thread_id, interrupt_id, run_id, checkpoint_id)
SELECT %(thread_id)s, interrupt_id, %(run_id)s, %(checkpoint_id)s
FROM unnest(%(interrupt_ids)s::text[]) AS interrupt_id
ON CONFLICT DO NOTHING
RETURNING interrupt_id

-- name: release_answers
-- Part of a run's end: from then on nothing of it can be rolled back. A task keeps an answer once it has read it, and would
-- act on it in the place of the next one; so what a run read for a question that may be answered again is taken back.
WITH settled AS (
    DELETE FROM holdfast.borrowed_writes WHERE run_id = ANY(%(run_ids)s::uuid[])
    RETURNING *
), released AS (
    DELETE FROM holdfast.answers
    WHERE run_id = ANY(%(run_ids)s::uuid[])
      AND (%(still_asked)s::text[] IS NULL OR interrupt_id = ANY(%(still_asked)s::text[]))
    RETURNING thread_id, interrupt_id
), read AS (
    SELECT a.thread_id::text, s.checkpoint_ns, s.checkpoint_id, s.task_id, s.idx, s.old_type, s.old_blob
    FROM released
    JOIN holdfast.approvals a USING (thread_id, interrupt_id)
    JOIN settled s ON s.task_id = a.task_id OR strpos(s.checkpoint_ns, a.task_id) > 0
), gone AS (
    DELETE FROM checkpoint_writes w
    USING read
    WHERE read.old_blob IS NULL AND w.channel = '__resume__'
      AND (w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx)
        = (read.thread_id, read.checkpoint_ns, read.checkpoint_id, read.task_id, read.idx)
)
UPDATE checkpoint_writes w
SET type = read.old_type, blob = read.old_blob
FROM read
WHERE read.old_blob IS NOT NULL AND w.channel = '__resume__'
  AND (w.thread_id, w.checkpoint_ns, w.checkpoint_id, w.task_id, w.idx)
    = (read.thread_id, read.checkpoint_ns, read.checkpoint_id, read.task_id, read.idx)

-- name: end
-- The log's last block tells the thread's followers of every run that ended while this one held the numbers, and then of
-- its own end. The thread row is locked; the statement that settles it takes the numbers.
WITH ended AS (
    UPDATE holdfast.runs
    SET status = %(status)s, worker_id = NULL, error = %(error)s, updated_at = holdfast.now()
    WHERE run_id = %(run_id)s AND fencing_token = %(token)s AND status = 'running'
    RETURNING run_id, thread_id
), told AS (
    INSERT INTO holdfast.event_blocks
        (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at, ended_runs)
    SELECT thread_id,
           coalesce(%(first_seq)s::bigint, greatest(t.event_seq, %(last_seq)s) + 1),
           greatest(t.event_seq, %(last_seq)s) + cardinality(t.ended_runs) + 1,
           %(log_of)s::uuid, %(first_in_run)s, %(frames)s, holdfast.now(), t.ended_runs || ended.run_id
    FROM ended JOIN holdfast.threads t USING (thread_id)
    WHERE %(tells)s
)
SELECT FROM ended

-- name: ended_by
SELECT FROM holdfast.runs
WHERE run_id = %(run_id)s AND fencing_token = %(token)s AND status = %(status)s

-- name: cancel_pending
-- A pending run that ran before has checkpoints: a worker takes it up once more to end it properly (request_cancel).
UPDATE holdfast.runs
SET status = 'interrupted', held = false, cancel = %(action)s, updated_at = holdfast.now()
WHERE run_id = ANY(%(run_ids)s::uuid[]) AND status = 'pending' AND attempt = 0
RETURNING run_id, webhook

-- name: request_cancel
UPDATE holdfast.runs
SET cancel = CASE WHEN cancel = 'rollback' THEN cancel ELSE %(action)s END, updated_at = holdfast.now()
WHERE run_id = ANY(%(run_ids)s::uuid[]) AND (status = 'running' OR status = 'pending' AND attempt > 0)
RETURNING run_id

-- name: lock_active_threads
SELECT thread_id
FROM holdfast.threads
WHERE thread_id IN (
    SELECT DISTINCT r.thread_id
    FROM holdfast.runs r
    JOIN holdfast.threads t USING (thread_id)
    WHERE r.status IN ('pending', 'running') AND r.status = ANY(%(statuses)s::text[])
      AND r.thread_id >= %(first)s AND %%SEES(t)%% AND t.deleted_at IS NULL
    ORDER BY r.thread_id
    LIMIT %(limit)s)
ORDER BY thread_id
FOR NO KEY UPDATE

-- name: active_among
-- The runs of `lock_active_threads`, as they are now that the threads are locked.
SELECT run_id, thread_id, ephemeral
FROM holdfast.runs
WHERE status IN ('pending', 'running') AND status = ANY(%(statuses)s::text[])
  AND thread_id = ANY(%(thread_ids)s::uuid[])

-- name: view
-- A stateless run outlives its thread for those who still wait for its result.
SELECT r.run_id, r.thread_id, r.assistant_id, r.status, r.metadata, r.kwargs, r.multitask_strategy,
       r.created_at, r.updated_at
FROM holdfast.runs r
JOIN holdfast.threads t USING (thread_id)
WHERE %%SEES(t)%% AND (t.deleted_at IS NULL OR r.ephemeral)

-- name: one_of_thread
  AND r.run_id = %(run_id)s AND r.thread_id = %(thread_id)s

-- name: by_id
  AND r.run_id = ANY(%(run_ids)s::uuid[])

-- name: of_thread
  AND r.thread_id = %(thread_id)s
  AND (%(status)s::text IS NULL OR r.status = %(status)s)
ORDER BY r.seq DESC
LIMIT %(limit)s OFFSET %(offset)s

-- name: find
SELECT r.run_id, r.thread_id, r.status, r.error, r.ephemeral, r.resumable, r.logged, r.started_at IS NOT NULL AS has_run
FROM holdfast.runs r
JOIN holdfast.threads t USING (thread_id)
WHERE %%SEES(t)%% AND r.run_id = %(run_id)s
  AND (%(thread_id)s::uuid IS NULL OR r.thread_id = %(thread_id)s)

-- name: delete
DELETE FROM holdfast.runs r
WHERE run_id = %(run_id)s AND thread_id = %(thread_id)s AND status NOT IN ('pending', 'running')
  AND EXISTS (SELECT FROM holdfast.threads t WHERE t.thread_id = r.thread_id AND %%SEES(t)%%)
RETURNING run_id

-- name: erase
DELETE FROM holdfast.runs WHERE run_id = ANY(%(run_ids)s::uuid[]) AND status NOT IN ('pending', 'running')

-- name: return_writes
-- Takes back what the run wrote to checkpoints older than itself, and brings back what it had replaced there.
WITH borrowed AS (
    DELETE FROM holdfast.borrowed_writes WHERE run_id = %(run_id)s
    RETURNING *
), gone AS (
    DELETE FROM checkpoint_writes w USING borrowed b
    WHERE b.old_channel IS NULL AND w.thread_id = %(thread_id)s::text
      AND w.checkpoint_ns = b.checkpoint_ns AND w.checkpoint_id = b.checkpoint_id
      AND w.task_id = b.task_id AND w.idx = b.idx
)
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob)
SELECT %(thread_id)s::text, checkpoint_ns, checkpoint_id, task_id, old_task_path, idx, old_channel, old_type, old_blob
FROM borrowed
WHERE old_channel IS NOT NULL
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
DO UPDATE SET task_path = EXCLUDED.task_path, channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob

-- name: drop_checkpoints
WITH gone AS (
    DELETE FROM checkpoints
    WHERE thread_id = %(thread_id)s::text
      AND (metadata ->> 'run_id' = %(run_id)s::text OR metadata ->> 'repaired_for' = %(run_id)s::text)
    RETURNING checkpoint_ns, checkpoint_id, checkpoint -> 'channel_versions' AS versions
), writes AS (
    DELETE FROM checkpoint_writes w USING gone
    WHERE w.thread_id = %(thread_id)s::text
      AND w.checkpoint_ns = gone.checkpoint_ns AND w.checkpoint_id = gone.checkpoint_id
)
DELETE FROM checkpoint_blobs bl
USING (SELECT DISTINCT gone.checkpoint_ns, v.key AS channel, v.value AS version
       FROM gone CROSS JOIN LATERAL jsonb_each_text(gone.versions) AS v) AS freed
WHERE bl.thread_id = %(thread_id)s::text AND bl.checkpoint_ns = freed.checkpoint_ns
  AND bl.channel = freed.channel AND bl.version = freed.version
  AND NOT EXISTS (
      SELECT FROM checkpoints c
      WHERE c.thread_id = bl.thread_id AND c.checkpoint_ns = bl.checkpoint_ns
        AND coalesce(c.metadata ->> 'run_id', c.metadata ->> 'repaired_for', '') <> %(run_id)s::text
        AND c.checkpoint -> 'channel_versions' ->> bl.channel = bl.version)

-- name: count_active
SELECT (SELECT count(*) FROM (SELECT FROM holdfast.runs WHERE owner = %(owner)s AND status = 'running'
                              LIMIT %(up_to)s) AS running)
     + (SELECT count(*) FROM (SELECT FROM holdfast.runs WHERE owner = %(owner)s AND status = 'pending'
                              LIMIT %(up_to)s) AS pending) AS active
