-- name: register
INSERT INTO holdfast.workers (worker_id, host, pid, lock_key, has_lock, started_at, seen_at, lease_until)
VALUES (%(worker_id)s, %(host)s, %(pid)s, %(lock_key)s, %(has_lock)s, holdfast.now(), holdfast.now(),
        holdfast.now() + make_interval(secs => %(lease)s))
ON CONFLICT (worker_id) DO UPDATE
SET has_lock = EXCLUDED.has_lock, seen_at = EXCLUDED.seen_at, lease_until = EXCLUDED.lease_until
RETURNING xmax = 0 AS is_new

-- name: beat
UPDATE holdfast.workers
SET seen_at = holdfast.now(), lease_until = holdfast.now() + make_interval(secs => %(lease)s)
WHERE worker_id = %(worker_id)s
RETURNING worker_id

-- name: others
SELECT w.worker_id, w.host, w.pid,
       w.lease_until < holdfast.now() AS lease_over,
       w.has_lock
       AND w.seen_at < holdfast.now() - make_interval(secs => %(lock_grace)s)
       AND pg_postmaster_start_time() < statement_timestamp() - make_interval(secs => %(restart_grace)s)
       AND NOT EXISTS (
           SELECT FROM pg_locks l
           WHERE l.locktype = 'advisory' AND l.classid = %(lock_class)s AND l.objid = w.lock_key::bigint::oid
             AND l.objsubid = 2
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
       AS lock_free
FROM holdfast.workers w
WHERE w.worker_id <> %(worker_id)s

-- name: leave
DELETE FROM holdfast.workers WHERE worker_id = %(worker_id)s
