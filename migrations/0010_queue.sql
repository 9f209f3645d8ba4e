ALTER TABLE holdfast.runs
    ADD COLUMN priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -10 AND 10);
DROP INDEX holdfast.runs_to_claim;
CREATE INDEX runs_to_claim ON holdfast.runs
    (owner, ((available_at AT TIME ZONE 'UTC') - priority * interval '1 minute'), seq) WHERE status = 'pending';
CREATE INDEX running_runs_by_owner ON holdfast.runs (owner) WHERE status = 'running';
CREATE INDEX crashed_runs ON holdfast.runs (crashes) WHERE status = 'pending' AND crashes > 0;
DROP INDEX holdfast.threads_to_expire;
CREATE INDEX threads_to_expire ON holdfast.threads (status, ((updated_at AT TIME ZONE 'UTC') + ttl))
    WHERE ttl IS NOT NULL AND deleted_at IS NULL AND (pruned_at IS NULL OR pruned_at < updated_at);
-- What threads take up, as the last whole round of measuring found it.
CREATE TABLE holdfast.storage_report (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    measured_at timestamptz NOT NULL,
    report jsonb NOT NULL
);
COMMENT ON COLUMN holdfast.storage_report.report IS
    'threads, bytes, how many threads have up to so many bytes, and the largest: {thread_id, bytes}';
