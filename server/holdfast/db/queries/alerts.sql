-- Alerts: what is wrong (one statement for each kind, all answer the same columns), and what is remembered of it. The
-- statements that look are run every few seconds by one process of all, so each has an index that holds only what waits.

-- name: claim_round
UPDATE holdfast.alert_rounds
SET looked_at = holdfast.now()
WHERE one = (SELECT one FROM holdfast.alert_rounds
             WHERE looked_at <= holdfast.now() - make_interval(secs => %(every)s)
             FOR UPDATE SKIP LOCKED)

-- name: summary
-- Part of the statements that look: `found` are names and times.
SELECT count(*)::int AS count,
       coalesce(extract(epoch FROM holdfast.now() - min(since)), 0)::float AS seconds,
       coalesce((array_agg(name ORDER BY since))[1:5], '{}') AS some
FROM found

-- name: stuck_run
-- Claimed long ago, and since then neither event nor checkpoint. The ids of checkpoints are UUIDv6: their order is that of
-- time, so the key itself says whether there is a newer one.
WITH limits AS (
    SELECT holdfast.now() - make_interval(secs => %(limit)s) AS before
), ticks AS (
    SELECT before, lpad(to_hex((extract(epoch FROM before) * 10000000)::bigint + 122192928000000000), 15, '0') AS hex
    FROM limits
), found AS (
    SELECT r.run_id::text AS name, greatest(r.updated_at, said.at) AS since
    FROM ticks CROSS JOIN holdfast.runs r
    LEFT JOIN LATERAL (
        SELECT b.created_at AS at FROM holdfast.event_blocks b
        WHERE b.run_id = r.run_id
        ORDER BY b.last_seq DESC
        LIMIT 1) AS said ON true
    WHERE r.status = 'running' AND r.updated_at < ticks.before
      AND (said.at IS NULL OR said.at < ticks.before)
      AND NOT EXISTS (
          SELECT FROM checkpoints c
          WHERE c.thread_id = r.thread_id::text
            AND c.checkpoint_id > substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-6' || substr(hex, 13, 3))
    LIMIT %(most)s
)
%%summary%%

-- name: queue_wait
-- Due, first of its thread, the thread free, and not started.
WITH found AS (
    SELECT r.run_id::text AS name, r.available_at AS since
    FROM holdfast.runs r
    WHERE r.status = 'pending' AND NOT r.held
      AND r.available_at < holdfast.now() - make_interval(secs => %(limit)s)
      AND r.updated_at < holdfast.now() - make_interval(secs => %(limit)s)
      AND NOT EXISTS (
          SELECT FROM holdfast.runs other
          WHERE other.thread_id = r.thread_id AND other.status IN ('pending', 'running')
            AND (other.seq < r.seq OR other.status = 'running'))
    LIMIT %(most)s
)
%%summary%%

-- name: approval_wait
WITH found AS (
    SELECT thread_id::text AS name, asked_at AS since
    FROM holdfast.approvals
    WHERE state = 'pending'
      AND asked_at < holdfast.now() - make_interval(secs => %(limit)s)
      AND asked_at > holdfast.now() - make_interval(days => %(abandoned)s)
    ORDER BY asked_at
    LIMIT %(most)s
)
%%summary%%

-- name: webhook_failing
-- Given up within the hour, or tried in vain again and again.
WITH failed AS (
    SELECT receiver, settled_at AS since
    FROM holdfast.deliveries
    WHERE state = 'failed' AND settled_at > holdfast.now() - interval '1 hour'
    UNION ALL
    SELECT receiver, created_at
    FROM holdfast.deliveries
    WHERE state = 'waiting' AND attempt >= %(attempts)s
), found AS (
    SELECT receiver AS name, min(since) AS since, count(*) AS deliveries FROM failed GROUP BY receiver
)
SELECT coalesce(sum(deliveries), 0)::int AS count,
       coalesce(extract(epoch FROM holdfast.now() - min(since)), 0)::float AS seconds,
       coalesce((array_agg(name ORDER BY since))[1:5], '{}') AS some
FROM found

-- name: no_worker
SELECT (NOT EXISTS (SELECT FROM holdfast.workers WHERE lease_until > holdfast.now()))::int AS count,
       0.0::float AS seconds, '{}'::text[] AS some

-- name: see
-- What happened once is pending until the next round; a repeated sighting changes nothing but when and how often.
INSERT INTO holdfast.alerts AS a (
    kind, subject, title, text, severity, once, hold_seconds, state, since, seen_at, look_at)
SELECT kind, subject, title, text, severity, once, hold_seconds, 'pending', holdfast.now(), holdfast.now(), holdfast.now()
FROM unnest(%(kinds)s::text[], %(subjects)s::text[], %(titles)s::text[], %(texts)s::text[], %(severities)s::text[],
            %(onces)s::boolean[], %(holds)s::float[])
     AS seen (kind, subject, title, text, severity, once, hold_seconds)
ORDER BY kind, subject
ON CONFLICT (kind, subject) DO UPDATE
SET seen_at = EXCLUDED.seen_at, text = EXCLUDED.text, severity = EXCLUDED.severity, times = a.times + 1

-- name: due
-- What somebody is writing down just now is looked at in the next round: a round waits for nobody.
SELECT *, holdfast.now() AS now
FROM holdfast.alerts
WHERE look_at <= holdfast.now()
ORDER BY look_at
LIMIT %(most)s
FOR UPDATE SKIP LOCKED

-- name: told
UPDATE holdfast.alerts a
SET state = 'firing', told_at = %(now)s, look_at = moved.look_at
FROM unnest(%(kinds)s::text[], %(subjects)s::text[], %(look_ats)s::timestamptz[]) AS moved (kind, subject, look_at)
WHERE a.kind = moved.kind AND a.subject = moved.subject

-- name: over
DELETE FROM holdfast.alerts a
USING unnest(%(kinds)s::text[], %(subjects)s::text[]) AS gone (kind, subject)
WHERE a.kind = gone.kind AND a.subject = gone.subject

-- name: post
INSERT INTO holdfast.deliveries (delivery_id, url, receiver, state, due_at, created_at, ended_at, body)
SELECT gen_random_uuid(), channel.url, channel.receiver, 'waiting', holdfast.now(), holdfast.now(), holdfast.now(), body
FROM unnest(%(urls)s::text[], %(receivers)s::text[]) AS channel (url, receiver)
CROSS JOIN unnest(%(bodies)s::bytea[]) AS body

-- name: firing
SELECT kind, count(*)::int AS count FROM holdfast.alerts WHERE state = 'firing' GROUP BY kind
