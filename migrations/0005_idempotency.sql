-- Idempotency keys: a request that is sent twice is carried out once.

CREATE TABLE holdfast.idempotency_keys (
    owner text NOT NULL,
    key text NOT NULL,
    digest bytea NOT NULL,
    thread_ids uuid[] NOT NULL,
    run_ids uuid[] NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (owner, key)
);
COMMENT ON COLUMN holdfast.idempotency_keys.digest IS 'of the request: the same key with another one is refused';
COMMENT ON COLUMN holdfast.idempotency_keys.run_ids IS
    'what the request started, on thread_ids; empty: it made the thread. No foreign key: a run that is gone stays done';
CREATE INDEX idempotency_keys_by_age ON holdfast.idempotency_keys (created_at);
