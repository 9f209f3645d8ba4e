ALTER TABLE holdfast.runs ADD COLUMN webhook text;
ALTER TABLE holdfast.runs ADD COLUMN started_at timestamptz;
COMMENT ON COLUMN holdfast.runs.webhook IS 'who is told when the run has ended';
COMMENT ON COLUMN holdfast.runs.started_at IS 'when it was claimed for the first time';

-- The outbox of webhooks: written in the transaction that ends the run, worked off by the workers. No foreign keys: what
-- is to be told outlives the run and its thread.
CREATE TABLE holdfast.deliveries (
    delivery_id uuid PRIMARY KEY,
    url text NOT NULL,
    receiver text NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempt integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    sender uuid,
    last_error text,
    run_id uuid NOT NULL,
    thread_id uuid NOT NULL,
    assistant_id uuid NOT NULL,
    status text NOT NULL,
    metadata jsonb NOT NULL,
    kwargs bytea,
    multitask_strategy text NOT NULL,
    error jsonb,
    values bytea,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    ended_at timestamptz NOT NULL,
    settled_at timestamptz,
    CONSTRAINT settled_deliveries_have_a_time CHECK ((state = 'waiting') = (settled_at IS NULL))
);
COMMENT ON COLUMN holdfast.deliveries.receiver IS 'host and port of the url: who is slow holds up nobody else';
COMMENT ON COLUMN holdfast.deliveries.due_at IS 'when to try next; while a try is under way, when it counts as lost';
COMMENT ON COLUMN holdfast.deliveries.sender IS 'the worker whose try is under way';
CREATE INDEX deliveries_to_send ON holdfast.deliveries (due_at) WHERE state = 'waiting';
CREATE INDEX deliveries_under_way ON holdfast.deliveries (sender) WHERE sender IS NOT NULL;
CREATE INDEX deliveries_to_sweep ON holdfast.deliveries (settled_at) WHERE settled_at IS NOT NULL;
