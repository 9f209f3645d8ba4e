-- The way in and the way out of runs whose threads are quiet: each asks nothing, nothing else is active on it, and nobody
-- holds its row. Then an admission decides nothing, and an end changes nothing that anybody waits for, so a group of them is
-- one statement. Whatever does not hold for a run leaves it out, and it goes the long way, which decides.
--
-- A statement sees what was committed before it began, and a row that it locks as it is then. So the row has to tell what
-- the statement may have missed: a run is let in only where the locked row still is not busy, and ended only where it is
-- the very version (xmin) that its claim saw, since every admission writes the row.
--
-- One plan serves all groups, made when the tables are empty or tiny; so rows are looked up one by one, by their keys, in ways
-- that leave the planner no other choice (no join with a table, and no EXISTS, for which it might be read whole), and
-- everything else is asked of the row that was locked.

-- name: admit
WITH new AS (
    SELECT *
    FROM unnest(%(run_ids)s, %(thread_ids)s, %(owners)s, %(see_all)s, %(assistant_ids)s, %(graph_ids)s, %(metadata)s,
                %(kwargs)s, %(strategies)s, %(resumable)s, %(logged)s, %(ephemeral)s, %(webhooks)s, %(priorities)s,
                %(on_pending)s, %(worker_ids)s, %(new_threads)s, %(stamps)s, %(trace_ids)s)
        AS new (run_id, thread_id, owner, sees_all, assistant_id, graph_id, metadata, kwargs, strategy, resumable, logged,
                ephemeral, webhook, priority, on_pending, worker_id, new_thread, stamp, trace_id)
), made AS (
    INSERT INTO holdfast.threads
        (thread_id, owner, status, metadata, ttl, ttl_strategy, created_at, updated_at, state_updated_at)
    SELECT thread_id, owner, 'busy', new_thread || stamp, make_interval(secs => %(ttl_seconds)s::float),
           %(ttl_strategy)s::text, holdfast.now(), holdfast.now(), holdfast.now()
    FROM new
    WHERE new_thread IS NOT NULL
    ON CONFLICT (thread_id) DO NOTHING
    RETURNING thread_id
), quiet AS (
    SELECT new.run_id, new.stamp, t.thread_id, t.event_seq, t.checkpoint_id, t.value_digests,
           t.error IS NOT NULL AS torn
    FROM new
    CROSS JOIN LATERAL (SELECT * FROM holdfast.threads WHERE thread_id = new.thread_id OFFSET 0
                        FOR NO KEY UPDATE SKIP LOCKED) AS t
    WHERE (new.sees_all OR t.owner = new.owner) AND t.deleted_at IS NULL
      AND t.status <> 'busy' AND t.interrupts = '{}' AND NOT t.unfinished
      AND (SELECT count(*) FROM holdfast.runs r
           WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running')) = 0
), occupied AS (
    UPDATE holdfast.threads t
    SET status = 'busy', edit_token = NULL, updated_at = holdfast.now(),
        metadata = t.metadata || (SELECT stamp FROM quiet WHERE quiet.thread_id = t.thread_id)
    WHERE t.thread_id = ANY(ARRAY(SELECT thread_id FROM quiet))
), admitted AS (
    INSERT INTO holdfast.runs (
        run_id, thread_id, owner, assistant_id, graph_id, status, metadata, kwargs, multitask_strategy,
        resumable, logged, ephemeral, available_at, created_at, updated_at, webhook, priority, on_pending_interrupt,
        trace_id, worker_id, fencing_token, attempt, started_at)
    SELECT new.run_id, new.thread_id, new.owner, new.assistant_id, new.graph_id,
           CASE WHEN new.worker_id IS NULL THEN 'pending' ELSE 'running' END,
           new.metadata, new.kwargs, new.strategy, new.resumable, new.logged, new.ephemeral,
           holdfast.now(), holdfast.now(), holdfast.now(), new.webhook, new.priority, new.on_pending,
           new.trace_id, new.worker_id, CASE WHEN new.worker_id IS NOT NULL THEN nextval('holdfast.fencing_token') END,
           CASE WHEN new.worker_id IS NULL THEN 0 ELSE 1 END,
           CASE WHEN new.worker_id IS NOT NULL THEN holdfast.now() END
    FROM new
    WHERE new.thread_id IN (SELECT thread_id FROM quiet UNION ALL SELECT thread_id FROM made)
    RETURNING run_id, thread_id, fencing_token, created_at
)
SELECT admitted.run_id, admitted.fencing_token, admitted.created_at,
       (SELECT count(*) FROM (SELECT FROM checkpoints c WHERE c.thread_id = admitted.thread_id::text LIMIT 1) AS one) = 0
           AS is_new,
       coalesce(quiet.torn, false) AS torn,
       coalesce(quiet.value_digests, '') AS value_digests,
       (pg_current_xact_id()::xid)::text AS thread_version,
       (SELECT newest.metadata ->> 'graph_revision'
        FROM checkpoints newest
        WHERE newest.thread_id = quiet.thread_id::text AND newest.checkpoint_ns = ''
          AND newest.checkpoint_id = quiet.checkpoint_id) AS graph_revision,
       coalesce(greatest(quiet.event_seq, (
           SELECT b.last_seq FROM holdfast.event_blocks b
           WHERE b.thread_id = quiet.thread_id
           ORDER BY b.last_seq DESC
           LIMIT 1)), 0) AS event_seq,
       extract(epoch FROM holdfast.now())::float AS claimed_at
FROM admitted
LEFT JOIN quiet USING (run_id)

-- name: end
-- Rows are locked in no order, as nobody is waited for. Numbers as in `runs.sql: end` and `threads.sql: settle`.
WITH over AS (
    SELECT *
    FROM unnest(%(run_ids)s, %(thread_ids)s, %(tokens)s, %(versions)s, %(checkpoint_ids)s, %(digests)s, %(hides)s,
                %(tells)s, %(logs)s, %(last_used)s, %(first_seqs)s, %(first_in_run)s, %(frames)s)
        AS over (run_id, thread_id, token, version, checkpoint_id, digests, hides, tells, is_logged, last_used,
                 first_seq, first_in_run, frames)
), quiet AS (
    SELECT over.*, greatest(t.event_seq, over.last_used) AS newest
    FROM over
    CROSS JOIN LATERAL (SELECT *, xmin::text AS version FROM holdfast.threads WHERE thread_id = over.thread_id OFFSET 0
                        FOR NO KEY UPDATE SKIP LOCKED) AS t
    CROSS JOIN LATERAL (SELECT * FROM holdfast.runs WHERE run_id = over.run_id OFFSET 0
                        FOR NO KEY UPDATE SKIP LOCKED) AS r
    WHERE r.fencing_token = over.token AND r.status = 'running'
      AND t.version = over.version AND t.interrupts = '{}' AND t.ended_runs = '{}' AND t.deleted_at IS NULL
      AND (SELECT count(*) FROM holdfast.runs active
           WHERE active.thread_id = t.thread_id AND active.status IN ('pending', 'running')) = 1
), ended AS (
    UPDATE holdfast.runs r
    SET status = 'success', worker_id = NULL, updated_at = holdfast.now()
    WHERE r.run_id = ANY(ARRAY(SELECT run_id FROM quiet))
    RETURNING r.run_id
), told AS (
    INSERT INTO holdfast.event_blocks
        (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at, ended_runs)
    SELECT quiet.thread_id, coalesce(quiet.first_seq, quiet.newest + 1), quiet.newest + 1,
           CASE WHEN quiet.is_logged THEN quiet.run_id END, quiet.first_in_run, quiet.frames, holdfast.now(),
           ARRAY[quiet.run_id]
    FROM quiet
    WHERE quiet.tells
), dropped AS (
    DELETE FROM holdfast.thread_values v
    WHERE v.ctid = ANY(ARRAY(
        SELECT old.ctid
        FROM quiet
        JOIN unnest(%(drop_run_ids)s, %(drop_channels)s, %(drop_idxs)s) AS gone (run_id, channel, idx) USING (run_id)
        CROSS JOIN LATERAL (SELECT ctid FROM holdfast.thread_values
                            WHERE thread_id = quiet.thread_id AND channel = gone.channel AND idx = gone.idx
                            OFFSET 0) AS old))
), put AS (
    INSERT INTO holdfast.thread_values (thread_id, channel, idx, value)
    SELECT quiet.thread_id, new.channel, new.idx, new.value
    FROM quiet
    JOIN unnest(%(put_run_ids)s, %(put_channels)s, %(put_idxs)s, %(put_values)s) AS new (run_id, channel, idx, value)
        USING (run_id)
    ON CONFLICT (thread_id, channel, idx) DO UPDATE SET value = EXCLUDED.value
), settled AS (
    UPDATE holdfast.threads t
    SET status = 'idle', error = NULL, unfinished = false, updated_at = holdfast.now(), state_updated_at = holdfast.now(),
        (checkpoint_id, value_digests, event_seq, deleted_at) = (
            SELECT quiet.checkpoint_id, quiet.digests, quiet.newest + 1, CASE WHEN quiet.hides THEN holdfast.now() END
            FROM quiet
            WHERE quiet.thread_id = t.thread_id)
    WHERE t.thread_id = ANY(ARRAY(SELECT thread_id FROM quiet))
)
SELECT run_id FROM ended
