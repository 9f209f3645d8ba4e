CREATE TABLE holdfast.crons (
    cron_id uuid PRIMARY KEY,
    owner text NOT NULL,
    caller jsonb NOT NULL,
    assistant_id uuid NOT NULL,
    thread_id uuid REFERENCES holdfast.threads ON DELETE CASCADE,
    schedule text NOT NULL,
    timezone text,
    end_time timestamptz,
    enabled boolean NOT NULL,
    on_run_completed text CHECK (on_run_completed IN ('delete', 'keep')),
    metadata jsonb NOT NULL DEFAULT '{}',
    payload bytea NOT NULL,
    next_run_date timestamptz,
    last_error jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CONSTRAINT threads_are_left_by_stateless_crons_only CHECK ((thread_id IS NULL) = (on_run_completed IS NOT NULL)),
    CONSTRAINT disabled_crons_are_never_due CHECK (enabled OR next_run_date IS NULL)
);
COMMENT ON COLUMN holdfast.crons.caller IS 'in whose name its runs start';
COMMENT ON COLUMN holdfast.crons.payload IS 'the request as JSON bytes';
COMMENT ON COLUMN holdfast.crons.next_run_date IS 'NULL: never again, or not while it is disabled';
COMMENT ON COLUMN holdfast.crons.last_error IS 'why the last due time started no run';
CREATE INDEX crons_due ON holdfast.crons (next_run_date) WHERE next_run_date IS NOT NULL;
CREATE INDEX crons_by_owner ON holdfast.crons (owner, created_at DESC);
CREATE INDEX crons_by_thread ON holdfast.crons (thread_id) WHERE thread_id IS NOT NULL;
