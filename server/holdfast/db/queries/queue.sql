-- Who executes what. `rules/run.py` has the states as a table, `rules/turns.py` whose turn it is.

-- name: may_start
-- Part of the claims and of the search for suspects: the run `r` is due, waits for no answer, is first of its thread, and
-- its thread is free.
r.status = 'pending' AND r.available_at <= holdfast.now() AND NOT r.held
      AND NOT EXISTS (
          SELECT FROM holdfast.runs earlier
          WHERE earlier.thread_id = r.thread_id AND earlier.seq < r.seq AND earlier.status IN ('pending', 'running')
            AND earlier.available_at <= holdfast.now() AND NOT earlier.held)
      AND NOT EXISTS (
          SELECT FROM holdfast.runs other
          WHERE other.thread_id = r.thread_id AND other.status = 'running')

-- name: take
-- Part of both claims: what `next` says is running from now on.
claimed AS (
    UPDATE holdfast.runs r
    SET status = 'running',
        worker_id = %(worker_id)s,
        fencing_token = nextval('holdfast.fencing_token'),
        attempt = attempt + 1,
        isolated_until = NULL,
        started_at = coalesce(started_at, holdfast.now()),
        updated_at = holdfast.now()
    FROM next
    WHERE r.run_id = next.run_id AND r.status = 'pending'
    RETURNING r.*
)
%%as_claimed%%

-- name: as_claimed
-- Part of whatever gives a claim: the runs `claimed` as their worker knows them.
SELECT c.run_id, c.thread_id, c.owner, c.assistant_id, c.graph_id, c.metadata, c.kwargs, c.resumable, c.logged,
       c.ephemeral, c.attempt, c.crashes, c.command_saved, c.fencing_token, c.cancel, c.created_at, c.webhook,
       c.trace_id,
       t.interrupts <> '{}' AS asks,
       t.unfinished OR t.error IS NOT NULL AS torn,
       t.value_digests, t.xmin::text AS thread_version,
       (SELECT newest.metadata ->> 'graph_revision'
        FROM checkpoints newest
        WHERE newest.thread_id = t.thread_id::text AND newest.checkpoint_ns = ''
          AND newest.checkpoint_id = t.checkpoint_id) AS graph_revision,
       greatest(t.event_seq, (
           SELECT b.last_seq FROM holdfast.event_blocks b
           WHERE b.thread_id = t.thread_id
           ORDER BY b.last_seq DESC
           LIMIT 1)) AS event_seq,
       extract(epoch FROM holdfast.now())::float AS claimed_at
FROM claimed c
JOIN holdfast.threads t USING (thread_id)

-- name: claim
-- Of one owner, by rank. No run is due whose rank is later than the lowest priority makes it.
WITH next AS (
    SELECT r.run_id
    FROM holdfast.runs r
    WHERE r.owner = %(owner)s AND r.crashes < %(suspect_after)s
      AND (r.available_at AT TIME ZONE 'UTC') - r.priority * interval '1 minute'
          <= (holdfast.now() AT TIME ZONE 'UTC') + interval '10 minutes'
      AND %%may_start%%
    ORDER BY (r.available_at AT TIME ZONE 'UTC') - r.priority * interval '1 minute', r.seq
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
), %%take%%

-- name: claim_this
WITH next AS (
    SELECT r.run_id
    FROM holdfast.runs r
    WHERE r.run_id = %(run_id)s AND %%may_start%%
    FOR UPDATE SKIP LOCKED
), %%take%%

-- name: claimed_by
-- A claim whose answer was lost.
WITH claimed AS (
    SELECT * FROM holdfast.runs WHERE run_id = %(run_id)s AND worker_id = %(worker_id)s AND status = 'running'
)
%%as_claimed%%

-- name: turns
-- Whose runs wait, in a circle that begins behind one owner, and how many they have running: hops through the index from
-- one owner to the next, however many runs they have.
WITH RECURSIVE turn (owner, first, n) AS (
    SELECT %(after)s::text, NULL::text, 0
    UNION ALL
    SELECT following.owner, coalesce(turn.first, following.owner), turn.n + 1
    FROM turn CROSS JOIN LATERAL (
        (SELECT r.owner FROM holdfast.runs r WHERE r.status = 'pending' AND r.owner > turn.owner ORDER BY r.owner LIMIT 1)
        UNION ALL
        (SELECT r.owner FROM holdfast.runs r WHERE r.status = 'pending' ORDER BY r.owner LIMIT 1)
        LIMIT 1) AS following
    WHERE turn.n < %(owners)s AND following.owner IS DISTINCT FROM turn.first
)
SELECT owner, (SELECT count(*) FROM holdfast.runs r WHERE r.owner = turn.owner AND r.status = 'running') AS running
FROM turn
WHERE n > 0
ORDER BY n

-- name: reserve_suspect
-- The words `crashes > 0` are those of the index.
WITH next AS (
    SELECT r.run_id FROM holdfast.runs r
    WHERE r.crashes > 0 AND r.crashes >= %(suspect_after)s
      AND (r.isolated_until IS NULL OR r.isolated_until <= holdfast.now())
      AND %%may_start%%
    ORDER BY r.seq
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)
UPDATE holdfast.runs r
SET isolated_until = holdfast.now() + make_interval(secs => %(seconds)s)
FROM next
WHERE r.run_id = next.run_id AND r.status = 'pending'
RETURNING r.run_id

-- name: next_due
SELECT extract(epoch FROM min(available_at) - holdfast.now())::float AS seconds
FROM holdfast.runs
WHERE status = 'pending' AND available_at > holdfast.now()

-- name: hand_back
UPDATE holdfast.runs r
SET status = 'pending', worker_id = NULL, updated_at = holdfast.now(),
    crashes = CASE WHEN %%got_on%% THEN 0 ELSE r.crashes END
WHERE r.run_id = %(run_id)s AND r.fencing_token = %(token)s AND r.status = 'running'
RETURNING r.run_id

-- name: got_on
-- A run that has saved a checkpoint in the attempt that ends here gets on: what it was suspected of before is forgotten.
EXISTS (
    SELECT FROM checkpoints c
    WHERE c.thread_id = r.thread_id::text AND c.metadata ->> 'run_id' = r.run_id::text
      AND c.metadata ->> 'run_attempt' = r.attempt::text)

-- name: requeue_dead
WITH dead AS (
    DELETE FROM holdfast.workers w
    WHERE w.worker_id = ANY(%(dead)s::uuid[])
    RETURNING w.worker_id
)
UPDATE holdfast.runs r
SET status = 'pending', worker_id = NULL, updated_at = holdfast.now(),
    crashes = CASE WHEN %%got_on%% THEN 1 ELSE r.crashes + 1 END
FROM dead
WHERE r.worker_id = dead.worker_id AND r.status = 'running'
RETURNING r.run_id, r.crashes

-- name: requeue_orphans
UPDATE holdfast.runs r
SET status = 'pending', worker_id = NULL, updated_at = holdfast.now(),
    crashes = CASE WHEN %%got_on%% THEN 1 ELSE r.crashes + 1 END
WHERE r.status = 'running'
  AND NOT EXISTS (SELECT FROM holdfast.workers w WHERE w.worker_id = r.worker_id)
RETURNING r.run_id, r.crashes

-- name: requeue_lost
-- Nobody executed them, so they have taken nobody down.
UPDATE holdfast.runs
SET status = 'pending', worker_id = NULL, updated_at = holdfast.now()
WHERE worker_id = %(worker_id)s AND run_id = ANY(%(run_ids)s::uuid[]) AND status = 'running'
RETURNING run_id

-- name: held
SELECT run_id, fencing_token
FROM holdfast.runs
WHERE worker_id = %(worker_id)s AND status = 'running'

-- name: cancelled_here
SELECT run_id, cancel
FROM holdfast.runs
WHERE worker_id = %(worker_id)s AND status = 'running' AND cancel IS NOT NULL
