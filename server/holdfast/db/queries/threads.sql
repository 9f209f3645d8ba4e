-- Whoever locks both a thread and a run locks the thread first. NO KEY UPDATE, because every foreign key check of an
-- event block takes KEY SHARE on the thread while it holds its fence on the run.

-- name: create
INSERT INTO holdfast.threads (thread_id, owner, metadata, ttl, ttl_strategy, created_at, updated_at, state_updated_at)
VALUES (%(thread_id)s, %(owner)s, %(metadata)s, make_interval(secs => %(ttl_seconds)s), %(ttl_strategy)s,
        holdfast.now(), holdfast.now(), holdfast.now())
ON CONFLICT (thread_id) DO NOTHING

-- name: draft
-- A thread whose first states are still being written, under its edit token: nobody sees it before `end_edit`, and if
-- that never comes, the sweep removes it.
INSERT INTO holdfast.threads (thread_id, owner, metadata, ttl, ttl_strategy, created_at, updated_at, state_updated_at,
                              edit_token, deleted_at)
VALUES (%(thread_id)s, %(owner)s, %(metadata)s, make_interval(secs => %(ttl_seconds)s), %(ttl_strategy)s,
        holdfast.now(), holdfast.now(), holdfast.now(), nextval('holdfast.fencing_token'), holdfast.now())
ON CONFLICT (thread_id) DO NOTHING
RETURNING edit_token

-- name: discard
DELETE FROM holdfast.threads
WHERE thread_id = %(thread_id)s AND edit_token = %(token)s AND deleted_at IS NOT NULL
RETURNING thread_id

-- name: lock
SELECT thread_id, status, metadata, interrupts, unfinished, checkpoint_id, event_seq
FROM holdfast.threads t
WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL
FOR NO KEY UPDATE

-- name: hold
SELECT interrupts <> '{}' AS asks FROM holdfast.threads WHERE thread_id = %(thread_id)s FOR NO KEY UPDATE

-- name: standing
SELECT status, metadata, config, interrupts, unfinished, checkpoint_id
FROM holdfast.threads t
WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL

-- name: result
SELECT interrupts, error, status,
       coalesce((
           SELECT json_object_agg(channel, value)
           FROM (SELECT channel,
                        CASE WHEN min(idx) = -1 THEN (array_agg(value))[1]
                             ELSE json_agg(value ORDER BY idx) END AS value
                 FROM holdfast.thread_values v
                 WHERE v.thread_id = t.thread_id
                 GROUP BY channel) AS channels), '{}') AS values
FROM holdfast.threads t
WHERE thread_id = %(thread_id)s AND %%SEES(t)%%

-- name: patch
WITH patched AS (
    UPDATE holdfast.threads t
    SET metadata = metadata || %(metadata)s,
        ttl = coalesce(make_interval(secs => %(ttl_seconds)s), ttl),
        ttl_strategy = coalesce(%(ttl_strategy)s, ttl_strategy),
        updated_at = holdfast.now()
    WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL
    RETURNING thread_id, metadata
), approvals AS (
    UPDATE holdfast.approvals a SET metadata = patched.metadata FROM patched WHERE a.thread_id = patched.thread_id
)
SELECT thread_id FROM patched

-- name: delete
WITH gone AS (
    UPDATE holdfast.threads t
    SET deleted_at = holdfast.now(), edit_token = NULL
    WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL
    RETURNING thread_id
), crons AS (
    DELETE FROM holdfast.crons c USING gone WHERE c.thread_id = gone.thread_id
), withdrawn AS (
    UPDATE holdfast.approvals a
    SET state = 'withdrawn', decided_at = holdfast.now(), decided_by = %(owner)s, decided_run_id = NULL, answer = NULL
    FROM gone
    WHERE a.thread_id = gone.thread_id AND a.state IN ('pending', 'answering', 'expiring')
)
SELECT thread_id FROM gone

-- name: hide
-- What a run does to the thread of its own when it ends: no caller is asked.
UPDATE holdfast.threads
SET deleted_at = holdfast.now()
WHERE thread_id = ANY(%(thread_ids)s::uuid[]) AND deleted_at IS NULL

-- name: erase_checkpoints
WITH writes AS (
    DELETE FROM checkpoint_writes WHERE thread_id = ANY(%(thread_ids)s::text[])
), blobs AS (
    DELETE FROM checkpoint_blobs WHERE thread_id = ANY(%(thread_ids)s::text[])
), elements AS (
    DELETE FROM holdfast.elements WHERE thread_id = ANY(%(thread_ids)s::text[])
)
DELETE FROM checkpoints WHERE thread_id = ANY(%(thread_ids)s::text[])

-- name: occupy
UPDATE holdfast.threads
SET status = 'busy',
    edit_token = NULL,
    metadata = CASE WHEN status = 'busy' THEN metadata ELSE metadata || %(stamp)s END,
    updated_at = holdfast.now()
WHERE thread_id = %(thread_id)s

-- name: settle
-- event_seq: the last number of the run that ended, whose end is told under the next one; NULL: no run did.
UPDATE holdfast.threads
SET status = CASE
        WHEN EXISTS (SELECT FROM holdfast.runs r
                     WHERE r.thread_id = %(thread_id)s AND r.status IN ('pending', 'running') AND NOT r.held) THEN 'busy'
        ELSE %(resting)s END,
    error = %(error)s,
    interrupts = %(interrupts)s,
    unfinished = %(unfinished)s,
    checkpoint_id = %(checkpoint_id)s,
    value_digests = %(value_digests)s,
    event_seq = CASE WHEN %(event_seq)s::bigint IS NULL THEN event_seq
        ELSE greatest(event_seq, %(event_seq)s::bigint) + cardinality(ended_runs) + 1 END,
    ended_runs = CASE WHEN %(event_seq)s::bigint IS NULL THEN ended_runs ELSE '{}' END,
    updated_at = holdfast.now(),
    state_updated_at = holdfast.now()
WHERE thread_id = %(thread_id)s

-- name: rest
UPDATE holdfast.threads t
SET status = CASE
        WHEN EXISTS (SELECT FROM holdfast.runs r
                     WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held) THEN 'busy'
        WHEN %(error)s::jsonb IS NOT NULL AND %(failed)s THEN 'error'
        WHEN unfinished THEN 'interrupted'
        ELSE 'idle' END,
    error = coalesce(%(error)s, error),
    event_seq = CASE WHEN %(event_seq)s::bigint IS NULL THEN event_seq
        ELSE greatest(event_seq, %(event_seq)s::bigint) + cardinality(ended_runs) + 1 END,
    ended_runs = CASE WHEN %(event_seq)s::bigint IS NULL THEN ended_runs ELSE '{}' END,
    updated_at = holdfast.now()
WHERE thread_id = ANY(%(thread_ids)s::uuid[])

-- name: digests
SELECT value_digests FROM holdfast.threads WHERE thread_id = %(thread_id)s

-- name: put_values
INSERT INTO holdfast.thread_values (thread_id, channel, idx, value)
SELECT %(thread_id)s, channel, idx, value::json
FROM unnest(%(channels)s::text[], %(idxs)s::integer[], %(values)s::text[]) AS new (channel, idx, value)
ON CONFLICT (thread_id, channel, idx) DO UPDATE SET value = EXCLUDED.value

-- name: drop_values
DELETE FROM holdfast.thread_values v
USING unnest(%(channels)s::text[], %(idxs)s::integer[]) AS gone (channel, idx)
WHERE v.thread_id = %(thread_id)s AND v.channel = gone.channel AND v.idx = gone.idx

-- name: begin_edit
-- A statement that waited for an admission sees the thread's new row, but not the new run (EvalPlanQual): hence the status
-- here, and the token that `occupy` takes away.
UPDATE holdfast.threads t
SET edit_token = nextval('holdfast.fencing_token')
WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL AND status <> 'busy'
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
RETURNING edit_token

-- name: end_edit
-- Whoever deletes a thread takes the token, so that only a draft is brought to light here.
UPDATE holdfast.threads t
SET deleted_at = NULL
WHERE thread_id = %(thread_id)s AND edit_token = %(token)s
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
RETURNING interrupts <> '{}' AS asks

-- name: sweep
-- What is to be erased; from then on no draft comes to light. A CTE, because Postgres may execute a subquery in IN more than
-- once, and SKIP LOCKED finds other rows each time.
WITH gone AS (
    SELECT thread_id
    FROM holdfast.threads
    WHERE deleted_at < holdfast.now() - make_interval(secs => %(grace)s)
    ORDER BY deleted_at
    LIMIT %(batch)s
    FOR UPDATE SKIP LOCKED
)
UPDATE holdfast.threads t
SET edit_token = NULL
FROM gone
WHERE t.thread_id = gone.thread_id
RETURNING t.thread_id
