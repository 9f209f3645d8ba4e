-- name: queue
-- Both counts are of a partial index's rows. A run waits from when it is due; one behind another run of its thread is
-- blocked, and no further worker could take it.
WITH pending AS (
    SELECT greatest(extract(epoch FROM holdfast.now() - r.available_at), 0)::float AS waited,
           r.available_at <= holdfast.now() AS is_due,
           r.held OR EXISTS (SELECT FROM holdfast.runs other
                   WHERE other.thread_id = r.thread_id AND other.status IN ('pending', 'running')
                     AND (other.seq < r.seq OR other.status = 'running')) AS is_blocked
    FROM holdfast.runs r
    WHERE r.status = 'pending'
)
SELECT count(*) AS n_pending,
       (SELECT count(*) FROM holdfast.runs WHERE status = 'running') AS n_running,
       max(waited) FILTER (WHERE is_due) AS pending_runs_wait_time_max_secs,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY waited) FILTER (WHERE is_due) AS pending_runs_wait_time_med_secs,
       max(waited) FILTER (WHERE is_due AND NOT is_blocked) AS pending_unblocked_runs_wait_time_max_secs
FROM pending

-- name: operations
-- Every subquery reads the rows of a small table or of a partial index.
SELECT (SELECT count(*) FROM holdfast.approvals WHERE state IN ('pending', 'answering', 'expiring'))
           AS approvals_pending,
       (SELECT extract(epoch FROM holdfast.now() - min(asked_at)) FROM holdfast.approvals
        WHERE state IN ('pending', 'answering', 'expiring')) AS approval_oldest_seconds,
       (SELECT count(*) FROM holdfast.deliveries WHERE state = 'waiting') AS webhooks_waiting,
       (SELECT extract(epoch FROM holdfast.now() - min(ended_at)) FROM holdfast.deliveries WHERE state = 'waiting')
           AS webhook_oldest_seconds,
       (SELECT count(*) FROM holdfast.deliveries WHERE state = 'failed') AS webhooks_failed,
       (SELECT count(*) FROM holdfast.workers WHERE lease_until > holdfast.now()) AS workers_alive,
       (SELECT extract(epoch FROM holdfast.now() - min(seen_at)) FROM holdfast.workers
        WHERE lease_until > holdfast.now()) AS lease_age_seconds,
       (SELECT extract(epoch FROM holdfast.now() - min(started_at)) FROM holdfast.runs WHERE status = 'running')
           AS run_oldest_seconds,
       (SELECT count(*) FROM holdfast.runs r WHERE status = 'running'
          AND NOT EXISTS (SELECT FROM holdfast.workers w WHERE w.worker_id = r.worker_id)) AS runs_without_worker

-- name: storage
SELECT measured_at, report, extract(epoch FROM holdfast.now() - measured_at)::float AS age
FROM holdfast.storage_report

-- name: publish
INSERT INTO holdfast.storage_report (measured_at, report)
VALUES (holdfast.now(), %(report)s)
ON CONFLICT (one) DO UPDATE SET measured_at = EXCLUDED.measured_at, report = EXCLUDED.report

-- name: measure
SELECT t.thread_id,
       (SELECT coalesce(sum(pg_column_size(c.checkpoint) + pg_column_size(c.metadata)), 0) FROM checkpoints c
        WHERE c.thread_id = t.thread_id::text)::bigint
     + (SELECT coalesce(sum(pg_column_size(b.blob)), 0) FROM checkpoint_blobs b
        WHERE b.thread_id = t.thread_id::text)::bigint
     + (SELECT coalesce(sum(pg_column_size(p.bytes)), 0) FROM holdfast.elements p
        WHERE p.thread_id = t.thread_id::text)::bigint
     + (SELECT coalesce(sum(pg_column_size(w.blob)), 0) FROM checkpoint_writes w
        WHERE w.thread_id = t.thread_id::text)::bigint
     + (SELECT coalesce(sum(pg_column_size(e.frames)), 0) FROM holdfast.event_blocks e
        WHERE e.thread_id = t.thread_id)::bigint
     + (SELECT coalesce(sum(pg_column_size(v.value)), 0) FROM holdfast.thread_values v
        WHERE v.thread_id = t.thread_id)::bigint
     + (SELECT coalesce(sum(pg_column_size(r.kwargs)), 0) FROM holdfast.runs r
        WHERE r.thread_id = t.thread_id)::bigint AS bytes
FROM (SELECT thread_id FROM holdfast.threads
      WHERE thread_id > %(after)s AND deleted_at IS NULL
      ORDER BY thread_id
      LIMIT %(limit)s) AS t
ORDER BY t.thread_id
