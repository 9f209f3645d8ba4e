-- name: append
WITH fence AS (
    SELECT FROM holdfast.runs
    WHERE run_id = %(run_id)s AND fencing_token = %(token)s AND status = 'running'
    FOR SHARE
)
INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
SELECT %(thread_id)s, %(first_seq)s, %(last_seq)s, %(run_id)s, %(first_in_run)s, %(frames)s, holdfast.now()
FROM fence
ON CONFLICT (thread_id, first_seq) DO UPDATE SET frames = EXCLUDED.frames
RETURNING first_seq

-- name: append_last
INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
VALUES (%(thread_id)s, %(first_seq)s, %(last_seq)s, %(run_id)s, %(first_in_run)s, %(frames)s, holdfast.now())
ON CONFLICT (thread_id, first_seq) DO UPDATE SET frames = EXCLUDED.frames

-- name: read
SELECT first_seq, last_seq, frames
FROM holdfast.event_blocks
WHERE run_id = %(run_id)s AND last_seq > %(after)s
ORDER BY first_seq
LIMIT %(limit)s

-- name: count_in_run
SELECT coalesce(max(first_in_run + last_seq - first_seq + 1), 1) AS next_in_run
FROM holdfast.event_blocks
WHERE run_id = %(run_id)s

-- name: expire
DELETE FROM holdfast.event_blocks
WHERE ctid = ANY(ARRAY(
    SELECT b.ctid
    FROM holdfast.event_blocks b
    JOIN holdfast.runs r USING (run_id)
    WHERE b.created_at < holdfast.now() - make_interval(secs => %(ttl)s)
      AND r.status NOT IN ('pending', 'running')
    ORDER BY b.created_at
    LIMIT %(batch)s))

-- name: newest
SELECT coalesce(max(last_seq), 0) AS newest
FROM holdfast.event_blocks
WHERE run_id = %(run_id)s
