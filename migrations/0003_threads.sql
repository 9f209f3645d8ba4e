-- Threads that go by themselves, and a search that stays on its indexes.

ALTER TABLE holdfast.threads
    ADD COLUMN ttl interval,
    ADD COLUMN ttl_strategy text CHECK (ttl_strategy IN ('delete', 'keep_latest')),
    ADD COLUMN pruned_at timestamptz,
    ADD CONSTRAINT a_ttl_says_what_goes CHECK ((ttl IS NULL) = (ttl_strategy IS NULL));
COMMENT ON COLUMN holdfast.threads.ttl IS 'counted from updated_at, the last activity';
COMMENT ON COLUMN holdfast.threads.pruned_at IS 'when its history was last pruned to the latest state';

-- One index per sort key, the owner first; what is equal there comes in the order of the ids.
DROP INDEX holdfast.threads_by_owner;
CREATE INDEX threads_by_owner ON holdfast.threads (owner, updated_at, thread_id) WHERE deleted_at IS NULL;
CREATE INDEX threads_by_creation ON holdfast.threads (owner, created_at, thread_id) WHERE deleted_at IS NULL;
CREATE INDEX threads_by_state_update ON holdfast.threads (owner, state_updated_at, thread_id) WHERE deleted_at IS NULL;
CREATE INDEX threads_by_status ON holdfast.threads (owner, status, updated_at, thread_id) WHERE deleted_at IS NULL;

-- In UTC without a zone, because an index takes only what no setting of a session changes.
CREATE INDEX threads_to_expire ON holdfast.threads (((updated_at AT TIME ZONE 'UTC') + ttl))
    WHERE ttl IS NOT NULL AND deleted_at IS NULL AND (pruned_at IS NULL OR pruned_at < updated_at);
