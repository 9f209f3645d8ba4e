-- name: claim
-- Waits for a request with the same key that is being carried out, and then says what that one made. The update changes
-- nothing; without it there would be no row to return. A row that was inserted has no xmax.
INSERT INTO holdfast.idempotency_keys AS k (owner, key, digest, thread_ids, run_ids, created_at)
VALUES (%(owner)s, %(key)s, %(digest)s, %(thread_ids)s, %(run_ids)s, holdfast.now())
ON CONFLICT (owner, key) DO UPDATE SET key = k.key
RETURNING digest, thread_ids, run_ids, xmax = 0 AS is_new

-- name: find
SELECT digest, thread_ids, run_ids
FROM holdfast.idempotency_keys
WHERE owner = %(owner)s AND key = %(key)s

-- name: sweep
DELETE FROM holdfast.idempotency_keys
WHERE (owner, key) IN (
    SELECT owner, key FROM holdfast.idempotency_keys
    WHERE created_at < holdfast.now() - make_interval(secs => %(kept)s)
    ORDER BY created_at
    LIMIT %(batch)s
    FOR UPDATE SKIP LOCKED)
