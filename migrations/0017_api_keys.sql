-- The keys that `holdfast keys` gave out. A secret of 256 random bits is stored as its SHA-256 alone.
CREATE TABLE holdfast.api_keys (
    key_id text PRIMARY KEY,
    owner text NOT NULL,
    scopes text[] NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    old_digest bytea CHECK (length(old_digest) = 32),
    old_until timestamptz,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CONSTRAINT an_old_secret_has_an_end CHECK ((old_digest IS NULL) = (old_until IS NULL))
);
COMMENT ON COLUMN holdfast.api_keys.key_id IS 'the part of the key that is no secret';
COMMENT ON COLUMN holdfast.api_keys.scopes IS 'what the key may do, and permissions that approval policies ask for';
COMMENT ON COLUMN holdfast.api_keys.old_digest IS 'of the secret before the last rotation, good until old_until';
COMMENT ON COLUMN holdfast.api_keys.last_used_at IS 'to the minute';
CREATE INDEX api_keys_by_owner ON holdfast.api_keys (owner, created_at);

ALTER TABLE holdfast.approvals ADD COLUMN requested_by text;
COMMENT ON COLUMN holdfast.approvals.requested_by IS 'who started what the question is about; NULL, from before this was written down: the owner';
