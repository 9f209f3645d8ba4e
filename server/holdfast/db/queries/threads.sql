-- Whoever locks both a thread and a run locks the thread first. NO KEY UPDATE, because every foreign key check of an
-- event block takes KEY SHARE on the thread while it holds its fence on the run.

-- name: create
INSERT INTO holdfast.threads (thread_id, owner, metadata, created_at, updated_at, state_updated_at)
VALUES (%(thread_id)s, %(owner)s, %(metadata)s, holdfast.now(), holdfast.now(), holdfast.now())
ON CONFLICT (thread_id) DO NOTHING

-- name: lock
SELECT thread_id, status, metadata, interrupts, unfinished, checkpoint_id, event_seq
FROM holdfast.threads t
WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL
FOR NO KEY UPDATE

-- name: hold
SELECT FROM holdfast.threads WHERE thread_id = %(thread_id)s FOR NO KEY UPDATE

-- name: standing
SELECT status, metadata, config, interrupts, unfinished, checkpoint_id
FROM holdfast.threads t
WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL

-- name: view
SELECT thread_id, status, metadata, config, interrupts, error, checkpoint_id,
       created_at, updated_at, state_updated_at,
       CASE WHEN checkpoint_id IS NOT NULL THEN (
           SELECT coalesce(jsonb_object_agg(channel, value), '{}')
           FROM (SELECT channel,
                        CASE WHEN min(idx) = -1 THEN jsonb_agg(value) -> 0
                             ELSE jsonb_agg(value ORDER BY idx) END AS value
                 FROM holdfast.thread_values v
                 WHERE v.thread_id = t.thread_id
                 GROUP BY channel) AS channels
       )::json END AS values
FROM holdfast.threads t
WHERE %%SEES(t)%% AND deleted_at IS NULL

-- name: result
SELECT interrupts, error, status,
       coalesce((
           SELECT jsonb_object_agg(channel, value)
           FROM (SELECT channel,
                        CASE WHEN min(idx) = -1 THEN jsonb_agg(value) -> 0
                             ELSE jsonb_agg(value ORDER BY idx) END AS value
                 FROM holdfast.thread_values v
                 WHERE v.thread_id = t.thread_id
                 GROUP BY channel) AS channels), '{}')::json AS values
FROM holdfast.threads t
WHERE thread_id = %(thread_id)s AND %%SEES(t)%%

-- name: filters
  AND (%(ids)s::uuid[] IS NULL OR thread_id = ANY(%(ids)s::uuid[]))
  AND (%(status)s::text IS NULL OR status = %(status)s)
  AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s::jsonb)
  AND (%(values)s::jsonb IS NULL OR NOT EXISTS (
      SELECT FROM jsonb_each(%(values)s::jsonb) AS wanted
      WHERE NOT coalesce((
          SELECT CASE WHEN min(idx) = -1 THEN jsonb_agg(value) -> 0 ELSE jsonb_agg(value ORDER BY idx) END
          FROM holdfast.thread_values v
          WHERE v.thread_id = t.thread_id AND v.channel = wanted.key
      ) @> wanted.value, false)))

-- name: count
SELECT count(*) AS count
FROM holdfast.threads t
WHERE %%SEES(t)%% AND deleted_at IS NULL

-- name: patch
UPDATE holdfast.threads t
SET metadata = metadata || %(metadata)s, updated_at = holdfast.now()
WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL
RETURNING thread_id

-- name: delete
WITH gone AS (
    UPDATE holdfast.threads t
    SET deleted_at = holdfast.now()
    WHERE thread_id = %(thread_id)s AND %%SEES(t)%% AND deleted_at IS NULL
    RETURNING thread_id
), crons AS (
    DELETE FROM holdfast.crons c USING gone WHERE c.thread_id = gone.thread_id
)
SELECT thread_id FROM gone

-- name: hide
-- What a run does to the thread of its own when it ends: no caller is asked.
UPDATE holdfast.threads
SET deleted_at = holdfast.now()
WHERE thread_id = ANY(%(thread_ids)s::uuid[]) AND deleted_at IS NULL

-- name: erase
DELETE FROM holdfast.threads WHERE thread_id = %(thread_id)s

-- name: erase_checkpoints
WITH writes AS (
    DELETE FROM checkpoint_writes WHERE thread_id = ANY(%(thread_ids)s::text[])
), blobs AS (
    DELETE FROM checkpoint_blobs WHERE thread_id = ANY(%(thread_ids)s::text[])
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
UPDATE holdfast.threads
SET status = CASE
        WHEN EXISTS (SELECT FROM holdfast.runs r
                     WHERE r.thread_id = %(thread_id)s AND r.status IN ('pending', 'running')) THEN 'busy'
        ELSE %(resting)s END,
    error = %(error)s,
    interrupts = %(interrupts)s,
    unfinished = %(unfinished)s,
    checkpoint_id = %(checkpoint_id)s,
    value_digests = %(value_digests)s,
    event_seq = greatest(event_seq, %(event_seq)s),
    updated_at = holdfast.now(),
    state_updated_at = holdfast.now()
WHERE thread_id = %(thread_id)s

-- name: rest
UPDATE holdfast.threads t
SET status = CASE
        WHEN EXISTS (SELECT FROM holdfast.runs r
                     WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running')) THEN 'busy'
        WHEN %(error)s::jsonb IS NOT NULL AND %(failed)s THEN 'error'
        WHEN unfinished THEN 'interrupted'
        ELSE 'idle' END,
    error = coalesce(%(error)s, error),
    event_seq = greatest(event_seq, %(event_seq)s),
    updated_at = holdfast.now()
WHERE thread_id = ANY(%(thread_ids)s::uuid[])

-- name: digests
SELECT value_digests FROM holdfast.threads WHERE thread_id = %(thread_id)s

-- name: put_values
INSERT INTO holdfast.thread_values (thread_id, channel, idx, value)
SELECT %(thread_id)s, channel, idx, value::jsonb
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
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))
RETURNING edit_token

-- name: end_edit
SELECT thread_id
FROM holdfast.threads t
WHERE thread_id = %(thread_id)s AND edit_token = %(token)s AND deleted_at IS NULL
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))
FOR NO KEY UPDATE

-- name: sweep
DELETE FROM holdfast.threads
WHERE thread_id IN (
    SELECT thread_id FROM holdfast.threads
    WHERE deleted_at < holdfast.now() - make_interval(secs => %(grace)s)
    ORDER BY deleted_at
    LIMIT %(batch)s
    FOR UPDATE SKIP LOCKED)
RETURNING thread_id::text
