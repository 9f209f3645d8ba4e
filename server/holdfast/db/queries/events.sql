-- name: append
WITH fence AS (
    SELECT FROM holdfast.runs
    WHERE run_id = %(run_id)s AND fencing_token = %(token)s AND status = 'running'
    FOR SHARE
)
INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, run_id, first_in_run, frames, created_at)
SELECT %(thread_id)s, %(first_seq)s, %(last_seq)s, %(run_id)s, %(first_in_run)s, %(frames)s, holdfast.now()
FROM fence
ON CONFLICT (thread_id, last_seq) DO UPDATE SET frames = EXCLUDED.frames
RETURNING first_seq

-- name: note_ended
-- Runs ended without having run. The next number may be a running run's, so their ends are told later.
UPDATE holdfast.threads t
SET ended_runs = t.ended_runs || over.run_ids
FROM (SELECT thread_id, array_agg(run_id ORDER BY seq) AS run_ids
      FROM holdfast.runs
      WHERE run_id = ANY(%(run_ids)s::uuid[])
      GROUP BY thread_id) AS over
WHERE t.thread_id = over.thread_id
RETURNING t.thread_id

-- name: tell_ended
-- Where nothing is active on a thread nobody else gives numbers, and nobody's end would tell these.
WITH quiet AS (
    SELECT thread_id, event_seq, ended_runs
    FROM holdfast.threads t
    WHERE thread_id = ANY(%(thread_ids)s::uuid[]) AND ended_runs <> '{}'
      AND NOT EXISTS (SELECT FROM holdfast.runs r
                      WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running') AND NOT r.held)
), told AS (
    INSERT INTO holdfast.event_blocks
        (thread_id, first_seq, last_seq, first_in_run, frames, created_at, ended_runs)
    SELECT thread_id, event_seq + 1, event_seq + cardinality(ended_runs), 0, '', holdfast.now(), ended_runs
    FROM quiet
)
UPDATE holdfast.threads t
SET event_seq = t.event_seq + cardinality(t.ended_runs), ended_runs = '{}'
FROM quiet
WHERE t.thread_id = quiet.thread_id
RETURNING t.thread_id

-- name: say
-- Something about the thread itself; its row is locked and nothing is active on it.
WITH numbered AS (
    UPDATE holdfast.threads SET event_seq = event_seq + 1 WHERE thread_id = %(thread_id)s
    RETURNING event_seq
)
INSERT INTO holdfast.event_blocks (thread_id, first_seq, last_seq, first_in_run, frames, created_at)
SELECT %(thread_id)s, event_seq, event_seq, 0, %(frame)s, holdfast.now()
FROM numbered

-- name: read
-- The size counts, too: what a slow reader has not taken yet stays in memory.
SELECT first_seq, last_seq, frames
FROM (SELECT first_seq, last_seq, frames,
             sum(octet_length(frames)) OVER (ORDER BY last_seq) - octet_length(frames) AS bytes_before
      FROM holdfast.event_blocks
      WHERE run_id = %(run_id)s AND last_seq > %(after)s
      ORDER BY last_seq
      LIMIT %(limit)s) AS next
WHERE bytes_before < %(bytes)s
ORDER BY last_seq

-- name: read_thread
-- One row without a block where there is nothing new, no row where there is no such thread (any more). A thread that was
-- deleted says what it has to say: a stateless run's thread goes in the transaction that ends the run. Where all blocks
-- have expired, all that can be said is which run ended last.
SELECT b.first_seq, b.last_seq, b.frames, b.ended_runs, (extract(epoch FROM b.created_at) * 1000)::bigint AS at_ms,
       t.deleted_at IS NOT NULL AS gone, t.event_seq, (extract(epoch FROM t.updated_at) * 1000)::bigint AS ended_ms,
       CASE WHEN b.last_seq IS NULL AND t.event_seq > %(after)s
                 AND NOT EXISTS (SELECT FROM holdfast.event_blocks any_block WHERE any_block.thread_id = t.thread_id)
            THEN ARRAY(SELECT r.run_id FROM holdfast.runs r
                       WHERE r.thread_id = t.thread_id AND r.status NOT IN ('pending', 'running')
                       ORDER BY r.seq DESC
                       LIMIT 1) END AS ended_last
FROM holdfast.threads t
LEFT JOIN LATERAL (
    SELECT *, sum(octet_length(frames)) OVER (ORDER BY last_seq) - octet_length(frames) AS bytes_before
    FROM holdfast.event_blocks
    WHERE thread_id = t.thread_id AND last_seq > %(after)s
    ORDER BY last_seq
    LIMIT %(limit)s) AS b ON b.bytes_before < %(bytes)s
WHERE t.thread_id = %(thread_id)s AND %%SEES(t)%%
ORDER BY b.last_seq

-- name: count_in_run
SELECT first_in_run + last_seq - first_seq + 1 AS next_in_run
FROM holdfast.event_blocks
WHERE run_id = %(run_id)s
ORDER BY last_seq DESC
LIMIT 1

-- name: expire
DELETE FROM holdfast.event_blocks
WHERE ctid = ANY(ARRAY(
    SELECT b.ctid
    FROM holdfast.event_blocks b
    WHERE b.created_at < holdfast.now() - make_interval(secs => %(ttl)s)
      AND NOT EXISTS (SELECT FROM holdfast.runs r
                      WHERE r.run_id = b.run_id AND r.status IN ('pending', 'running'))
    ORDER BY b.created_at
    LIMIT %(batch)s))

-- name: newest
SELECT coalesce(max(last_seq), 0) AS newest
FROM holdfast.event_blocks
WHERE run_id = %(run_id)s

-- name: newest_of_thread
-- What the thread knows of itself counts where the blocks have expired.
SELECT greatest((SELECT max(last_seq) FROM holdfast.event_blocks WHERE thread_id = %(thread_id)s),
                (SELECT event_seq FROM holdfast.threads WHERE thread_id = %(thread_id)s), 0) AS newest

-- name: grown_runs
-- Of these runs, those that said something after what their followers know, or that are over. Serves no caller: it only
-- says where to look. LIMIT keeps the planner from reading whole tables.
SELECT known.id
FROM unnest(%(ids)s::uuid[], %(after)s::bigint[]) AS known (id, after)
LEFT JOIN LATERAL (SELECT true AS said FROM holdfast.event_blocks b
                   WHERE b.run_id = known.id AND b.last_seq > known.after LIMIT 1) AS newer ON true
LEFT JOIN LATERAL (SELECT true AS goes_on FROM holdfast.runs r
                   WHERE r.run_id = known.id AND r.status IN ('pending', 'running') LIMIT 1) AS run ON true
WHERE said OR goes_on IS NULL

-- name: grown_threads
SELECT known.id
FROM unnest(%(ids)s::uuid[], %(after)s::bigint[]) AS known (id, after)
LEFT JOIN LATERAL (SELECT true AS said FROM holdfast.event_blocks b
                   WHERE b.thread_id = known.id AND b.last_seq > known.after LIMIT 1) AS newer ON true
LEFT JOIN LATERAL (SELECT true AS is_there FROM holdfast.threads t
                   WHERE t.thread_id = known.id AND t.deleted_at IS NULL LIMIT 1) AS thread ON true
WHERE said OR is_there IS NULL
