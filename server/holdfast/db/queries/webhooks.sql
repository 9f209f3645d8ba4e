-- name: post
-- Part of the transaction that ends the run.
INSERT INTO holdfast.deliveries (
    delivery_id, url, receiver, state, due_at, run_id, thread_id, assistant_id, status, metadata, kwargs,
    multitask_strategy, error, values, created_at, started_at, ended_at)
SELECT gen_random_uuid(), webhook, lower(substring(webhook FROM '^[^:]*://([^/?#]*)')), 'waiting', holdfast.now(),
       run_id, thread_id, assistant_id, status, metadata, kwargs, multitask_strategy, error, %(values)s,
       created_at, started_at, updated_at
FROM holdfast.runs
WHERE run_id = %(run_id)s AND webhook IS NOT NULL

-- name: take
-- While a try is under way, due_at is when it counts as lost.
WITH next AS (
    SELECT delivery_id
    FROM holdfast.deliveries
    WHERE state = 'waiting' AND due_at <= holdfast.now() AND receiver <> ALL(%(busy)s::text[])
      AND CASE WHEN starts_with(url, 'alert:') THEN url = ANY(%(channels)s::text[])
               ELSE %(sender)s::uuid IS NOT NULL END
    ORDER BY due_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE holdfast.deliveries d
SET attempt = attempt + 1, due_at = holdfast.now() + make_interval(secs => %(lease)s), sender = %(sender)s
FROM next
WHERE d.delivery_id = next.delivery_id
RETURNING d.*, holdfast.now() AS sent_at

-- name: deliver
-- Whichever try got through: there is nothing left to tell.
UPDATE holdfast.deliveries
SET state = 'delivered', sender = NULL, last_error = NULL, values = NULL, kwargs = NULL, body = NULL, settled_at = holdfast.now()
WHERE delivery_id = %(delivery_id)s AND state = 'waiting'

-- name: postpone
UPDATE holdfast.deliveries
SET due_at = holdfast.now() + make_interval(secs => %(pause)s), sender = NULL, last_error = %(error)s
WHERE delivery_id = %(delivery_id)s AND attempt = %(attempt)s AND state = 'waiting'

-- name: give_up
UPDATE holdfast.deliveries
SET state = 'failed', sender = NULL, last_error = %(error)s, settled_at = holdfast.now()
WHERE delivery_id = %(delivery_id)s AND attempt = %(attempt)s AND state = 'waiting'

-- name: release
-- Tries whose worker is gone are due at once.
UPDATE holdfast.deliveries d
SET due_at = least(due_at, holdfast.now()), sender = NULL
WHERE d.sender IS NOT NULL AND d.state = 'waiting'
  AND NOT EXISTS (SELECT FROM holdfast.workers w WHERE w.worker_id = d.sender)

-- name: give_up_unknown
UPDATE holdfast.deliveries
SET state = 'failed', sender = NULL, last_error = 'no process knows this alert webhook', settled_at = holdfast.now()
WHERE state = 'waiting' AND starts_with(url, 'alert:') AND due_at < holdfast.now() - make_interval(secs => %(keep)s)

-- name: sweep
DELETE FROM holdfast.deliveries
WHERE delivery_id IN (
    SELECT delivery_id FROM holdfast.deliveries
    WHERE settled_at < holdfast.now() - make_interval(secs => %(keep)s)
    ORDER BY settled_at
    LIMIT %(batch)s
    FOR UPDATE SKIP LOCKED)
