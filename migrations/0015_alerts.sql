-- What is wrong, and whether it was told. A row goes when it is over.
CREATE TABLE holdfast.alerts (
    kind text NOT NULL,
    subject text NOT NULL,
    title text NOT NULL,
    text text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('warning', 'critical')),
    once boolean NOT NULL,
    hold_seconds double precision NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'firing')),
    times integer NOT NULL DEFAULT 1,
    since timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    told_at timestamptz,
    look_at timestamptz NOT NULL,
    PRIMARY KEY (kind, subject),
    CONSTRAINT firing_alerts_were_told CHECK ((state = 'firing') = (told_at IS NOT NULL))
);
COMMENT ON COLUMN holdfast.alerts.subject IS 'what it is about, among others of its kind; empty where there is one only';
COMMENT ON COLUMN holdfast.alerts.once IS 'something happened, and is told once; otherwise something lasts, and its end is told';
COMMENT ON COLUMN holdfast.alerts.hold_seconds IS 'how long it has to last before it is told';
COMMENT ON COLUMN holdfast.alerts.times IS 'how often it was seen';
COMMENT ON COLUMN holdfast.alerts.look_at IS 'not before then can anything follow from it';
CREATE INDEX alerts_to_look_at ON holdfast.alerts (look_at);

-- One process looks at a time, however many there are: whoever moves looked_at on.
CREATE TABLE holdfast.alert_rounds (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    looked_at timestamptz NOT NULL
);
INSERT INTO holdfast.alert_rounds (looked_at) VALUES ('-infinity');

-- Alerts leave by the outbox of webhooks. Their URLs are credentials and stay in the configuration.
ALTER TABLE holdfast.deliveries ALTER COLUMN run_id DROP NOT NULL;
ALTER TABLE holdfast.deliveries ALTER COLUMN thread_id DROP NOT NULL;
ALTER TABLE holdfast.deliveries ALTER COLUMN assistant_id DROP NOT NULL;
ALTER TABLE holdfast.deliveries ALTER COLUMN status DROP NOT NULL;
ALTER TABLE holdfast.deliveries ALTER COLUMN metadata DROP NOT NULL;
ALTER TABLE holdfast.deliveries ALTER COLUMN multitask_strategy DROP NOT NULL;
ALTER TABLE holdfast.deliveries ADD CONSTRAINT deliveries_are_of_alerts_or_of_runs CHECK (
    starts_with(url, 'alert:') OR num_nulls(run_id, thread_id, assistant_id, status, metadata, multitask_strategy) = 0);
COMMENT ON COLUMN holdfast.deliveries.url IS 'alert:NAME is a webhook of the configuration';
CREATE INDEX deliveries_failed ON holdfast.deliveries (settled_at) WHERE state = 'failed';

CREATE INDEX approvals_waiting ON holdfast.approvals (asked_at) WHERE state = 'pending';
