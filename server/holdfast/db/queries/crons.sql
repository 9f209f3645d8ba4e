-- name: now
SELECT holdfast.now() AS now

-- name: create
INSERT INTO holdfast.crons (
    cron_id, owner, caller, assistant_id, thread_id, schedule, timezone, end_time, enabled, on_run_completed,
    metadata, payload, next_run_date, created_at, updated_at)
SELECT %(cron_id)s, %(owner)s, %(acting)s, %(assistant_id)s, %(thread_id)s, %(schedule)s, %(timezone)s, %(end_time)s,
       %(enabled)s, %(on_run_completed)s, %(metadata)s, %(payload)s, %(due)s, holdfast.now(), holdfast.now()
WHERE %(thread_id)s::uuid IS NULL OR EXISTS (
    SELECT FROM holdfast.threads t WHERE t.thread_id = %(thread_id)s AND t.deleted_at IS NULL AND %%SEES(t)%%)
RETURNING cron_id

-- name: view
SELECT cron_id, owner, assistant_id, thread_id, schedule, timezone, end_time, enabled, on_run_completed, metadata,
       payload, next_run_date, last_error, created_at, updated_at, holdfast.now() AS now
FROM holdfast.crons c
WHERE %%SEES(c)%%

-- name: count
SELECT count(*) AS count
FROM holdfast.crons c
WHERE %%SEES(c)%%

-- name: filters
  AND (%(cron_id)s::uuid IS NULL OR cron_id = %(cron_id)s)
  AND (%(assistant_id)s::uuid IS NULL OR assistant_id = %(assistant_id)s)
  AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
  AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s)
  AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s::jsonb)

-- name: update
-- The row was read, and locked, as the caller's.
UPDATE holdfast.crons
SET schedule = %(schedule)s, timezone = %(timezone)s, end_time = %(end_time)s, enabled = %(enabled)s,
    on_run_completed = %(on_run_completed)s, metadata = %(metadata)s::jsonb, payload = %(payload)s,
    next_run_date = %(next_run_date)s, updated_at = holdfast.now()
WHERE cron_id = %(cron_id)s

-- name: delete
DELETE FROM holdfast.crons c
WHERE cron_id = %(cron_id)s AND %%SEES(c)%%
RETURNING cron_id

-- name: due
SELECT cron_id, caller, assistant_id, thread_id, schedule, timezone, end_time, on_run_completed, payload,
       next_run_date AS due, holdfast.now() AS now
FROM holdfast.crons
WHERE next_run_date <= holdfast.now()
ORDER BY next_run_date
LIMIT %(limit)s

-- name: next_due
SELECT extract(epoch FROM min(next_run_date) - holdfast.now())::float AS seconds
FROM holdfast.crons
WHERE next_run_date IS NOT NULL

-- name: advance
-- The guard is the exactly-once: of all who saw this due time, one moves it on.
UPDATE holdfast.crons
SET next_run_date = %(next_due)s, last_error = %(error)s
WHERE cron_id = %(cron_id)s AND next_run_date = %(due)s
RETURNING cron_id
