-- Assistants that people make: every change is a version, and the row is the current one.

ALTER TABLE holdfast.assistants ADD COLUMN newest_version integer NOT NULL DEFAULT 1;
ALTER TABLE holdfast.assistants ADD COLUMN declared jsonb;
COMMENT ON COLUMN holdfast.assistants.version IS 'the current one; older than newest_version after a step back';
COMMENT ON COLUMN holdfast.assistants.declared IS
    'system assistants: the name and description that langgraph.json last gave; what users changed since stays';

CREATE INDEX assistants_by_owner ON holdfast.assistants (owner, created_at, assistant_id);
CREATE INDEX assistants_by_graph ON holdfast.assistants (graph_id, created_at, assistant_id);
CREATE INDEX assistants_by_age ON holdfast.assistants (created_at, assistant_id);
CREATE INDEX assistants_by_metadata ON holdfast.assistants USING gin (metadata jsonb_path_ops);

CREATE TABLE holdfast.assistant_versions (
    assistant_id uuid NOT NULL REFERENCES holdfast.assistants ON DELETE CASCADE,
    version integer NOT NULL,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb NOT NULL,
    context jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (assistant_id, version)
);

INSERT INTO holdfast.assistant_versions
SELECT assistant_id, version, graph_id, name, description, config, context, metadata, created_at
FROM holdfast.assistants;

UPDATE holdfast.assistants
SET declared = jsonb_build_object('name', name, 'description', description)
WHERE owner IS NULL;

-- A run keeps the graph that it was admitted for, whatever becomes of its assistant.
ALTER TABLE holdfast.runs ADD COLUMN graph_id text;
UPDATE holdfast.runs r
SET graph_id = coalesce((SELECT a.graph_id FROM holdfast.assistants a WHERE a.assistant_id = r.assistant_id), '');
ALTER TABLE holdfast.runs ALTER COLUMN graph_id SET NOT NULL;
COMMENT ON COLUMN holdfast.runs.graph_id IS 'as admitted: the assistant may change or go while the run waits';
