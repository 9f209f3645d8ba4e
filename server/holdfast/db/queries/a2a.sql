-- A task of A2A is a run, together with the runs that answered what it asked: these name it in their metadata. Nothing of
-- it is stored anywhere else.

-- name: tasks
WITH tasks AS (
    SELECT root.thread_id, root.run_id AS task_id, last.run_id, last.error, last.updated_at, last.newest,
           t.interrupts,
           CASE
               WHEN last.status = 'pending' THEN 'submitted'
               WHEN last.status = 'running' THEN 'working'
               WHEN last.status = 'interrupted' THEN 'canceled'
               WHEN last.status <> 'success' THEN 'failed'
               WHEN last.newest AND t.unfinished THEN 'input-required'
               ELSE 'completed'
           END AS state
    FROM holdfast.runs root
    JOIN holdfast.threads t USING (thread_id)
    CROSS JOIN LATERAL (
        SELECT r.run_id, r.status, r.error, r.updated_at,
               NOT EXISTS (
                   SELECT FROM holdfast.runs later
                   WHERE later.thread_id = r.thread_id AND later.seq > r.seq
                     AND later.status NOT IN ('pending', 'running')) AS newest
        FROM holdfast.runs r
        WHERE r.thread_id = root.thread_id
          AND (r.run_id = root.run_id OR r.metadata ->> 'a2a_task_id' = root.run_id::text)
        ORDER BY r.seq DESC
        LIMIT 1) AS last
    WHERE %%SEES(t)%% AND t.deleted_at IS NULL
      AND root.assistant_id = %(assistant_id)s
      AND NOT root.metadata ? 'a2a_task_id'
      AND (%(thread_id)s::uuid IS NULL OR root.thread_id = %(thread_id)s)
      AND (%(task_id)s::uuid IS NULL OR root.run_id = %(task_id)s)
      AND (%(since)s::timestamptz IS NULL OR last.updated_at >= %(since)s)
)
SELECT *, (SELECT count(*) FROM tasks WHERE %(state)s::text IS NULL OR state = %(state)s) AS total
FROM tasks
WHERE (%(state)s::text IS NULL OR state = %(state)s)
  AND (%(after)s::timestamptz IS NULL OR (updated_at, task_id) < (%(after)s, %(after_id)s))
ORDER BY updated_at DESC, task_id DESC
LIMIT %(limit)s

-- name: task_of_message
SELECT coalesce((r.metadata ->> 'a2a_task_id')::uuid, r.run_id) AS task_id
FROM holdfast.runs r
JOIN holdfast.threads t USING (thread_id)
WHERE %%SEES(t)%% AND t.deleted_at IS NULL AND r.thread_id = %(thread_id)s
  AND r.assistant_id = %(assistant_id)s AND r.metadata ->> 'a2a_message_id' = %(message_id)s
ORDER BY r.seq
LIMIT 1
