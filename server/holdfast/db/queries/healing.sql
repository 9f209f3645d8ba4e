-- What transactions that belong together leave in agreement, and only a hand or a defect takes apart. `find_*` looks, on
-- one thread or on all; `heal_*` looks again at these threads, with their rows locked by `lock`, and mends. Each answers
-- the threads' ids.

-- name: lock
-- A statement of its own: what comes after it sees everything that was committed before the lock was had.
SELECT thread_id
FROM holdfast.threads
WHERE thread_id = ANY(%(thread_ids)s::uuid[])
ORDER BY thread_id
FOR NO KEY UPDATE SKIP LOCKED

-- name: find_busy_without_runs
SELECT t.thread_id
FROM holdfast.threads t
WHERE (%(thread_id)s::uuid IS NULL OR t.thread_id = %(thread_id)s) AND t.status = 'busy'
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
LIMIT %(limit)s

-- name: heal_busy_without_runs
UPDATE holdfast.threads t
SET status = CASE
        WHEN error ->> 'error' NOT IN ('UserInterrupt', 'UserRollback') THEN 'error'
        WHEN unfinished THEN 'interrupted'
        ELSE 'idle' END
WHERE t.thread_id = ANY(%(thread_ids)s::uuid[]) AND t.status = 'busy'
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
RETURNING t.thread_id

-- name: find_resting_with_runs
SELECT t.thread_id
FROM holdfast.threads t
WHERE (%(thread_id)s::uuid IS NULL OR t.thread_id = %(thread_id)s) AND t.status <> 'busy'
  AND EXISTS (SELECT FROM holdfast.runs r
              WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
LIMIT %(limit)s

-- name: heal_resting_with_runs
UPDATE holdfast.threads t
SET status = 'busy', edit_token = NULL
WHERE t.thread_id = ANY(%(thread_ids)s::uuid[]) AND t.status <> 'busy'
  AND EXISTS (SELECT FROM holdfast.runs r
              WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
RETURNING t.thread_id

-- name: find_held_answers
-- Questions that are still asked, and cannot be answered because a run that is over is on record as their answer.
SELECT DISTINCT t.thread_id
FROM holdfast.threads t
JOIN holdfast.answers a USING (thread_id)
JOIN holdfast.runs r USING (run_id)
WHERE (%(thread_id)s::uuid IS NULL OR t.thread_id = %(thread_id)s) AND t.interrupts <> '{}'
  AND r.status NOT IN ('pending', 'running')
  AND EXISTS (SELECT FROM jsonb_each(t.interrupts) AS task, jsonb_array_elements(task.value) AS asked
              WHERE asked ->> 'id' = a.interrupt_id)
  AND NOT EXISTS (SELECT FROM holdfast.runs other
                  WHERE other.thread_id = t.thread_id AND other.status IN ('pending', 'running')
                    AND NOT other.held)
LIMIT %(limit)s

-- name: heal_held_answers
DELETE FROM holdfast.answers a
USING holdfast.threads t, holdfast.runs r
WHERE t.thread_id = ANY(%(thread_ids)s::uuid[]) AND a.thread_id = t.thread_id AND r.run_id = a.run_id
  AND r.status NOT IN ('pending', 'running')
  AND EXISTS (SELECT FROM jsonb_each(t.interrupts) AS task, jsonb_array_elements(task.value) AS asked
              WHERE asked ->> 'id' = a.interrupt_id)
  AND NOT EXISTS (SELECT FROM holdfast.runs other
                  WHERE other.thread_id = t.thread_id AND other.status IN ('pending', 'running')
                    AND NOT other.held)
RETURNING t.thread_id

-- name: find_untold_ends
SELECT t.thread_id
FROM holdfast.threads t
WHERE (%(thread_id)s::uuid IS NULL OR t.thread_id = %(thread_id)s) AND t.ended_runs <> '{}'
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
LIMIT %(limit)s

-- name: resting
-- Threads that a state can be read of, the newest first; `live_only`: those that wait for something.
SELECT t.thread_id, t.metadata ->> 'graph_id' AS graph_id, t.status, t.error
FROM holdfast.threads t
WHERE t.deleted_at IS NULL AND t.metadata ? 'graph_id'
  AND (NOT %(live_only)s OR t.unfinished OR t.status = 'busy')
ORDER BY t.updated_at DESC, t.thread_id
LIMIT %(limit)s

-- name: mark_unreadable
UPDATE holdfast.threads t
SET status = 'error', error = %(error)s, updated_at = holdfast.now()
WHERE t.thread_id = %(thread_id)s AND (t.status <> 'error' OR t.error IS DISTINCT FROM %(error)s)
  AND NOT EXISTS (SELECT FROM holdfast.runs r
                  WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
RETURNING t.thread_id
