-- name: fetch
-- By digests that stand side by side: ten thousand of them as an array would take the client longer than the look-up.
SELECT e.digest, e.level, e.bytes
FROM (SELECT substring(%(digests)s::bytea FROM n * 16 + 1 FOR 16) AS digest
      FROM generate_series(0, length(%(digests)s::bytea) / 16 - 1) AS n) AS asked
JOIN holdfast.elements e ON e.thread_id = %(thread_id)s AND e.digest = asked.digest
