-- The parts of lists that checkpoint_blobs keeps by element, by the digest of their bytes.
CREATE TABLE holdfast.elements (
    thread_id text NOT NULL,
    digest bytea NOT NULL,
    level smallint NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (thread_id, digest)
);
COMMENT ON COLUMN holdfast.elements.level IS '0: elements as msgpack has them; otherwise digests, of what is one level below';
