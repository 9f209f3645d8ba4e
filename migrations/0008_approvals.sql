ALTER TABLE holdfast.runs
    ADD COLUMN on_pending_interrupt text NOT NULL DEFAULT 'discard'
        CHECK (on_pending_interrupt IN ('discard', 'enqueue', 'reject')),
    ADD COLUMN held boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT held_runs_wait_for_an_answer
        CHECK (NOT held OR (status = 'pending' AND on_pending_interrupt = 'enqueue'));
COMMENT ON COLUMN holdfast.runs.on_pending_interrupt IS 'what becomes of the run while its thread asks something';
COMMENT ON COLUMN holdfast.runs.held IS 'waits until its thread asks nothing more; answers overtake it';

-- Every question that interrupt() asked, and what became of it. No foreign keys: it outlives run and thread.
CREATE TABLE holdfast.approvals (
    approval_id uuid PRIMARY KEY,
    owner text NOT NULL,
    metadata jsonb NOT NULL,
    thread_id uuid NOT NULL,
    interrupt_id text NOT NULL,
    task_id text NOT NULL,
    checkpoint_id text,
    graph_id text,
    assistant_id uuid,
    run_id uuid,
    question bytea NOT NULL,
    asked_at timestamptz NOT NULL,
    state text NOT NULL
        CHECK (state IN ('pending', 'answering', 'expiring', 'answered', 'expired', 'discarded', 'withdrawn')),
    answer bytea,
    decided_by text,
    decided_run_id uuid,
    decided_at timestamptz,
    due_at timestamptz,
    outcome text CHECK (outcome IN ('reject', 'answer', 'escalate')),
    due_answer bytea,
    webhook text,
    acted_at timestamptz,
    problem text,
    CONSTRAINT a_due_time_says_what_happens_then CHECK ((due_at IS NULL) = (outcome IS NULL))
);
COMMENT ON COLUMN holdfast.approvals.owner IS 'of the thread; with metadata, who sees it';
COMMENT ON COLUMN holdfast.approvals.metadata IS 'the thread''s, kept up with it while it is there';
COMMENT ON COLUMN holdfast.approvals.run_id IS 'the run that asked';
COMMENT ON COLUMN holdfast.approvals.question IS 'the interrupt''s value as JSON bytes';
COMMENT ON COLUMN holdfast.approvals.decided_by IS 'whose answer, input, update or deletion it was';
COMMENT ON COLUMN holdfast.approvals.due_answer IS 'what the deadline answers, as JSON bytes';
COMMENT ON COLUMN holdfast.approvals.acted_at IS 'when the deadline did what it was to do: it does it once';
COMMENT ON COLUMN holdfast.approvals.problem IS 'why the deadline, or an answer, came to nothing';
CREATE UNIQUE INDEX one_open_approval_per_question ON holdfast.approvals (thread_id, interrupt_id)
    WHERE state IN ('pending', 'answering', 'expiring');
CREATE INDEX approvals_by_owner ON holdfast.approvals (owner, asked_at, approval_id);
CREATE INDEX approvals_by_thread ON holdfast.approvals (thread_id, asked_at, approval_id);
CREATE INDEX approvals_by_metadata ON holdfast.approvals USING gin (metadata jsonb_path_ops);
CREATE INDEX approvals_being_decided ON holdfast.approvals (decided_run_id) WHERE state IN ('answering', 'expiring');
CREATE INDEX approvals_due ON holdfast.approvals (due_at) WHERE state = 'pending' AND acted_at IS NULL AND problem IS NULL;
CREATE INDEX approvals_to_sweep ON holdfast.approvals (decided_at)
    WHERE state IN ('answered', 'expired', 'discarded', 'withdrawn');

ALTER TABLE holdfast.deliveries ADD COLUMN body bytea;
COMMENT ON COLUMN holdfast.deliveries.body IS 'what to send, where it is not the end of a run';

-- What threads ask already.
INSERT INTO holdfast.approvals (
    approval_id, owner, metadata, thread_id, interrupt_id, task_id, checkpoint_id, graph_id, assistant_id, question,
    asked_at, state, decided_by, decided_run_id, decided_at)
SELECT gen_random_uuid(), t.owner, t.metadata, t.thread_id, question ->> 'id', task.key, t.checkpoint_id,
       t.metadata ->> 'graph_id',
       CASE WHEN t.metadata ->> 'assistant_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
            THEN (t.metadata ->> 'assistant_id')::uuid END,
       convert_to((question -> 'value')::text, 'UTF8'), t.state_updated_at,
       CASE WHEN a.run_id IS NULL THEN 'pending' ELSE 'answering' END, r.owner, a.run_id, r.created_at
FROM holdfast.threads t
CROSS JOIN LATERAL jsonb_each(t.interrupts) AS task
CROSS JOIN LATERAL jsonb_array_elements(task.value) AS question
LEFT JOIN holdfast.answers a ON a.thread_id = t.thread_id AND a.interrupt_id = question ->> 'id'
LEFT JOIN holdfast.runs r ON r.run_id = a.run_id
WHERE t.deleted_at IS NULL
ON CONFLICT DO NOTHING;
