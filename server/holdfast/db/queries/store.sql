-- LangGraph's tables `store` and `store_vectors`. A namespace is its labels joined by dots (`prefix`). WITHIN becomes
-- the namespace asked for and all below it; see db/store.py.

-- name: get
WITH refreshed AS (
    UPDATE store SET expires_at = holdfast.now() + ttl_minutes * interval '1 minute'
    WHERE %(refresh)s AND prefix = %(prefix)s AND key = %(key)s
      AND ttl_minutes IS NOT NULL AND expires_at > holdfast.now()
)
SELECT prefix, key, value, created_at, updated_at
FROM store
WHERE prefix = %(prefix)s AND key = %(key)s AND (expires_at IS NULL OR expires_at > holdfast.now())

-- name: put
-- An item that has expired is gone, swept or not: what replaces it is new. ttl_minutes is an integer in LangGraph's
-- table; it is what a read prolongs by, so it is rounded up.
INSERT INTO store AS s (prefix, key, value, created_at, updated_at, expires_at, ttl_minutes)
VALUES (%(prefix)s, %(key)s, %(value)s, holdfast.now(), holdfast.now(),
        holdfast.now() + %(ttl)s::float8 * interval '1 minute', ceil(%(ttl)s::float8))
ON CONFLICT (prefix, key) DO UPDATE
SET value = excluded.value, updated_at = excluded.updated_at,
    expires_at = excluded.expires_at, ttl_minutes = excluded.ttl_minutes,
    created_at = CASE WHEN s.expires_at <= holdfast.now() THEN excluded.created_at ELSE s.created_at END

-- name: index
-- After `put`, in its transaction: the vectors of what the item says now, and no others.
WITH stale AS (
    DELETE FROM store_vectors
    WHERE prefix = %(prefix)s AND key = %(key)s AND field_name <> ALL (%(fields)s::text[])
)
INSERT INTO store_vectors (prefix, key, field_name, embedding, created_at, updated_at)
SELECT %(prefix)s, %(key)s, field_name, embedding::vector, holdfast.now(), holdfast.now()
FROM unnest(%(fields)s::text[], %(vectors)s::text[]) AS given (field_name, embedding)
ON CONFLICT (prefix, key, field_name) DO UPDATE
SET embedding = excluded.embedding, updated_at = excluded.updated_at

-- name: delete
DELETE FROM store WHERE prefix = %(prefix)s AND key = %(key)s

-- name: latest
WITH found AS (
    SELECT prefix, key, value, created_at, updated_at, NULL::float8 AS score
    FROM store s
    WHERE %%WITHIN%% AND (expires_at IS NULL OR expires_at > holdfast.now()) AND %%MATCHES%%
    ORDER BY updated_at DESC, prefix, key
    LIMIT %(limit)s OFFSET %(offset)s
)

-- name: nearest
-- Exact, and materialized so that it stays exact: an approximate index knows no namespaces, and its few dozen
-- candidates may all be in other ones.
WITH scored AS MATERIALIZED (
    SELECT s.prefix, s.key, s.updated_at, nullif(1 - min(v.embedding <=> %(vector)s::vector), 'NaN') AS score
    FROM store s JOIN store_vectors v ON v.prefix = s.prefix AND v.key = s.key
    WHERE %%WITHIN%% AND (expires_at IS NULL OR expires_at > holdfast.now()) AND %%MATCHES%%
    GROUP BY s.prefix, s.key
), best AS (
    SELECT prefix, key, score FROM scored
    ORDER BY score DESC NULLS LAST, updated_at DESC, prefix, key
    LIMIT %(limit)s OFFSET %(offset)s
), found AS (
    SELECT prefix, key, value, created_at, store.updated_at, score FROM best JOIN store USING (prefix, key)
)

-- name: refreshed
-- Behind `latest` and `nearest`, for those who prolong what they find. Rows that somebody else is writing or prolonging
-- are passed over.
, refreshed AS (
    UPDATE store SET expires_at = holdfast.now() + ttl_minutes * interval '1 minute'
    WHERE (prefix, key) IN (
        SELECT s.prefix, s.key FROM found JOIN store s USING (prefix, key)
        WHERE s.ttl_minutes IS NOT NULL
        FOR NO KEY UPDATE OF s SKIP LOCKED)
)

-- name: found
SELECT prefix, key, value, created_at, updated_at, score
FROM found
ORDER BY score DESC NULLS LAST, updated_at DESC, prefix, key

-- name: namespaces
SELECT DISTINCT (string_to_array(prefix, '.') COLLATE "C")[1:%(max_depth)s] AS namespace
FROM (SELECT DISTINCT prefix FROM store s
      WHERE %%WITHIN%% AND (expires_at IS NULL OR expires_at > holdfast.now())
        AND prefix ~ ALL (%(patterns)s::text[])) AS used
ORDER BY namespace
LIMIT %(limit)s OFFSET %(offset)s

-- name: sweep
DELETE FROM store WHERE (prefix, key) IN (
    SELECT prefix, key FROM store WHERE expires_at <= holdfast.now()
    LIMIT %(batch)s FOR UPDATE SKIP LOCKED)
