-- name: queue
-- Both counts are of a partial index's rows. A run waits from when it is due; one behind another run of its thread is
-- blocked, and no further worker could take it.
WITH pending AS (
    SELECT greatest(extract(epoch FROM holdfast.now() - r.available_at), 0)::float AS waited,
           r.available_at <= holdfast.now() AS is_due,
           EXISTS (SELECT FROM holdfast.runs other
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
