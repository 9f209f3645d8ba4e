-- What a graph was made of, by the fingerprint that stands in the metadata of its checkpoints.
CREATE TABLE holdfast.graph_revisions (
    graph_id text NOT NULL,
    revision text NOT NULL,
    nodes jsonb NOT NULL,
    channels jsonb NOT NULL,
    first_seen timestamptz NOT NULL,
    PRIMARY KEY (graph_id, revision)
);
