-- A key that is revoked stays as a row: so that it is known what it was, and its id is never given again.

-- name: create
INSERT INTO holdfast.api_keys (key_id, owner, scopes, digest, created_at, expires_at)
VALUES (%(key_id)s, %(owner)s, %(scopes)s, %(digest)s, holdfast.now(),
        holdfast.now() + make_interval(secs => %(expires_in)s))

-- name: find
-- `lives` and `old_lives` are seconds, by the database's clock; the asking process counts on by its own.
SELECT owner, scopes, digest, old_digest,
       extract(epoch FROM expires_at - holdfast.now())::float AS lives,
       extract(epoch FROM old_until - holdfast.now())::float AS old_lives,
       coalesce(extract(epoch FROM holdfast.now() - last_used_at)::float, 'infinity') AS unused
FROM holdfast.api_keys
WHERE key_id = %(key_id)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > holdfast.now())

-- name: used
-- Of all processes that see a key used, one writes it down, once in a while.
UPDATE holdfast.api_keys
SET last_used_at = holdfast.now()
WHERE key_id = %(key_id)s
  AND (last_used_at IS NULL OR last_used_at < holdfast.now() - make_interval(secs => %(every)s))

-- name: rotate
UPDATE holdfast.api_keys
SET digest = %(digest)s, rotated_at = holdfast.now(),
    old_digest = CASE WHEN %(grace)s > 0 THEN digest END,
    old_until = CASE WHEN %(grace)s > 0 THEN holdfast.now() + make_interval(secs => %(grace)s) END
WHERE key_id = %(key_id)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > holdfast.now())

-- name: revoke
UPDATE holdfast.api_keys
SET revoked_at = holdfast.now(), old_digest = NULL, old_until = NULL
WHERE key_id = %(key_id)s AND revoked_at IS NULL

-- name: all
SELECT key_id, owner, scopes, created_at, rotated_at, expires_at, revoked_at, last_used_at,
       CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
            WHEN expires_at <= holdfast.now() THEN 'expired'
            WHEN old_until > holdfast.now() THEN 'rotating'
            ELSE 'valid' END AS condition
FROM holdfast.api_keys
ORDER BY owner, created_at, key_id
