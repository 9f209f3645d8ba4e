-- The whole schema as it stands after every migration; a test holds the two equal.

CREATE SCHEMA holdfast;

-- The one clock for leases, timers and TTL. Tests move it with SET holdfast.now.
CREATE FUNCTION holdfast.now() RETURNS timestamptz
    LANGUAGE sql STABLE
    RETURN coalesce(nullif(current_setting('holdfast.now', true), '')::timestamptz, statement_timestamp());

CREATE SEQUENCE holdfast.fencing_token;

-- Emptied by every crash of Postgres, because it is not logged: whoever finds it empty gives the database a new name.
CREATE UNLOGGED TABLE holdfast.incarnation (
    name uuid NOT NULL DEFAULT gen_random_uuid(),
    single boolean PRIMARY KEY DEFAULT true CHECK (single)
);

-- One row per live process. has_lock: it holds the session advisory lock lock_key, which dies with it.
CREATE TABLE holdfast.workers (
    worker_id uuid PRIMARY KEY,
    host text NOT NULL,
    pid integer NOT NULL,
    lock_key integer NOT NULL,
    has_lock boolean NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL,
    lease_until timestamptz NOT NULL
);

CREATE TABLE holdfast.assistants (
    assistant_id uuid PRIMARY KEY,
    owner text,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb NOT NULL DEFAULT '{}',
    context jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    newest_version integer NOT NULL DEFAULT 1,
    declared jsonb
);
COMMENT ON COLUMN holdfast.assistants.owner IS 'NULL: a system assistant, visible to everybody';
COMMENT ON COLUMN holdfast.assistants.version IS 'the current one; older than newest_version after a step back';
COMMENT ON COLUMN holdfast.assistants.declared IS
    'system assistants: the name and description that langgraph.json last gave; what users changed since stays';
CREATE INDEX assistants_by_owner ON holdfast.assistants (owner, created_at, assistant_id);
CREATE INDEX assistants_by_graph ON holdfast.assistants (graph_id, created_at, assistant_id);
CREATE INDEX assistants_by_age ON holdfast.assistants (created_at, assistant_id);
CREATE INDEX assistants_by_metadata ON holdfast.assistants USING gin (metadata jsonb_path_ops);

-- What an assistant was after each change. Rows never change; they go with the assistant.
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

CREATE TABLE holdfast.threads (
    thread_id uuid PRIMARY KEY,
    owner text NOT NULL,
    status text NOT NULL DEFAULT 'idle' CHECK (status IN ('idle', 'busy', 'interrupted', 'error')),
    metadata jsonb NOT NULL DEFAULT '{}',
    config jsonb NOT NULL DEFAULT '{}',
    interrupts jsonb NOT NULL DEFAULT '{}',
    unfinished boolean NOT NULL DEFAULT false,
    error jsonb,
    checkpoint_id text,
    value_digests bytea NOT NULL DEFAULT '',
    event_seq bigint NOT NULL DEFAULT 0,
    edit_token bigint,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    state_updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    ttl interval,
    ttl_strategy text CHECK (ttl_strategy IN ('delete', 'keep_latest')),
    pruned_at timestamptz,
    ended_runs uuid[] NOT NULL DEFAULT '{}',
    CONSTRAINT a_ttl_says_what_goes CHECK ((ttl IS NULL) = (ttl_strategy IS NULL))
);
COMMENT ON COLUMN holdfast.threads.unfinished IS 'the latest checkpoint has tasks still to run';
COMMENT ON COLUMN holdfast.threads.deleted_at IS 'gone for every reader; the sweep removes the rows later';
COMMENT ON COLUMN holdfast.threads.ttl IS 'counted from updated_at, the last activity';
COMMENT ON COLUMN holdfast.threads.ended_runs IS 'ended without having run; told in the log with the next run that ends';
COMMENT ON COLUMN holdfast.threads.pruned_at IS 'when its history was last pruned to the latest state';
-- One index per sort key, the owner first; what is equal there comes in the order of the ids.
CREATE INDEX threads_by_owner ON holdfast.threads (owner, updated_at, thread_id) WHERE deleted_at IS NULL;
CREATE INDEX threads_by_creation ON holdfast.threads (owner, created_at, thread_id) WHERE deleted_at IS NULL;
CREATE INDEX threads_by_state_update ON holdfast.threads (owner, state_updated_at, thread_id) WHERE deleted_at IS NULL;
CREATE INDEX threads_by_status ON holdfast.threads (owner, status, updated_at, thread_id) WHERE deleted_at IS NULL;
-- In UTC without a zone, because an index takes only what no setting of a session changes.
CREATE INDEX threads_to_expire ON holdfast.threads (status, ((updated_at AT TIME ZONE 'UTC') + ttl))
    WHERE ttl IS NOT NULL AND deleted_at IS NULL AND (pruned_at IS NULL OR pruned_at < updated_at);
CREATE INDEX threads_by_metadata ON holdfast.threads USING gin (metadata jsonb_path_ops);
CREATE INDEX threads_to_sweep ON holdfast.threads (deleted_at) WHERE deleted_at IS NOT NULL;

-- JSONB keeps numbers by their value (1e20 comes back without its exponent, -0.0 without its sign) and no NUL at all,
-- so values are kept as JSON.
CREATE FUNCTION holdfast.as_jsonb(value json) RETURNS jsonb
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN strpos(value::text, '\u0000') = 0 THEN value::jsonb
    ELSE regexp_replace(value::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1' || chr(65533), 'g')::jsonb
END;
COMMENT ON FUNCTION holdfast.as_jsonb(json) IS 'to search in: NUL, which JSONB refuses, is U+FFFD';

-- A thread's values, one row per channel, or per element of a list channel, so that a longer conversation
-- rewrites nothing that was there before. idx -1 is a whole value.
CREATE TABLE holdfast.thread_values (
    thread_id uuid NOT NULL REFERENCES holdfast.threads ON DELETE CASCADE,
    channel text NOT NULL,
    idx integer NOT NULL,
    value json NOT NULL,
    PRIMARY KEY (thread_id, channel, idx)
);

-- The queue is the table: a pending run is a row.
CREATE TABLE holdfast.runs (
    run_id uuid PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    thread_id uuid NOT NULL REFERENCES holdfast.threads ON DELETE CASCADE,
    owner text NOT NULL,
    assistant_id uuid NOT NULL,
    status text NOT NULL
        CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'interrupted')),
    metadata jsonb NOT NULL DEFAULT '{}',
    kwargs bytea NOT NULL,
    multitask_strategy text NOT NULL
        CHECK (multitask_strategy IN ('reject', 'enqueue', 'interrupt', 'rollback')),
    resumable boolean NOT NULL,
    logged boolean NOT NULL,
    ephemeral boolean NOT NULL,
    available_at timestamptz NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    crashes integer NOT NULL DEFAULT 0,
    worker_id uuid,
    fencing_token bigint,
    cancel text CHECK (cancel IN ('interrupt', 'rollback')),
    command_saved boolean NOT NULL DEFAULT false,
    error jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    graph_id text NOT NULL,
    webhook text,
    started_at timestamptz,
    on_pending_interrupt text NOT NULL DEFAULT 'discard'
        CHECK (on_pending_interrupt IN ('discard', 'enqueue', 'reject')),
    held boolean NOT NULL DEFAULT false,
    priority smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -10 AND 10),
    isolated_until timestamptz,
    trace_id uuid,
    CONSTRAINT held_runs_wait_for_an_answer
        CHECK (NOT held OR (status = 'pending' AND on_pending_interrupt = 'enqueue')),
    CONSTRAINT running_runs_are_claimed
        CHECK ((status = 'running') = (worker_id IS NOT NULL) AND (status <> 'running' OR fencing_token IS NOT NULL))
);
COMMENT ON COLUMN holdfast.runs.kwargs IS 'the request as JSON bytes: text that JSONB refuses (NUL) stays exact';
COMMENT ON COLUMN holdfast.runs.logged IS 'its events are kept for followers in other processes and for later joins';
COMMENT ON COLUMN holdfast.runs.ephemeral IS 'stateless: its thread goes with it';
COMMENT ON COLUMN holdfast.runs.graph_id IS 'as admitted: the assistant may change or go while the run waits';
COMMENT ON COLUMN holdfast.runs.webhook IS 'who is told when the run has ended';
COMMENT ON COLUMN holdfast.runs.started_at IS 'when it was claimed for the first time';
COMMENT ON COLUMN holdfast.runs.on_pending_interrupt IS 'what becomes of the run while its thread asks something';
COMMENT ON COLUMN holdfast.runs.held IS 'waits until its thread asks nothing more; answers overtake it';
COMMENT ON COLUMN holdfast.runs.isolated_until IS 'a process of its own is being started for it; until then by nobody else';
COMMENT ON COLUMN holdfast.runs.trace_id IS 'the trace that it is part of; NULL: its own, whose id is run_id';
CREATE UNIQUE INDEX one_running_run_per_thread ON holdfast.runs (thread_id) WHERE status = 'running';
-- The queue of each owner by rank, which never changes: one step of priority is worth a minute of waiting.
CREATE INDEX runs_to_claim ON holdfast.runs
    (owner, ((available_at AT TIME ZONE 'UTC') - priority * interval '1 minute'), seq) WHERE status = 'pending';
CREATE INDEX running_runs_by_owner ON holdfast.runs (owner) WHERE status = 'running';
CREATE INDEX crashed_runs ON holdfast.runs (crashes) WHERE status = 'pending' AND crashes > 0;
CREATE INDEX runs_by_worker ON holdfast.runs (worker_id) WHERE status = 'running';
CREATE INDEX runs_by_thread ON holdfast.runs (thread_id, seq);
CREATE INDEX active_runs_by_thread ON holdfast.runs (thread_id, seq) WHERE status IN ('pending', 'running');

-- Which run answers which question. The key is invariant 3: one question, one answer.
CREATE TABLE holdfast.answers (
    thread_id uuid NOT NULL REFERENCES holdfast.threads ON DELETE CASCADE,
    interrupt_id text NOT NULL,
    run_id uuid NOT NULL REFERENCES holdfast.runs ON DELETE CASCADE,
    checkpoint_id text NOT NULL,
    PRIMARY KEY (thread_id, interrupt_id)
);
CREATE INDEX answers_by_run ON holdfast.answers (run_id);

-- Checkpoint writes that a run added to a checkpoint older than itself: what a rollback has to take back. old_*: the
-- write that it replaced there, if any, which has to come back.
CREATE TABLE holdfast.borrowed_writes (
    run_id uuid NOT NULL REFERENCES holdfast.runs ON DELETE CASCADE,
    checkpoint_ns text NOT NULL,
    checkpoint_id text NOT NULL,
    task_id text NOT NULL,
    idx integer NOT NULL,
    old_task_path text,
    old_channel text,
    old_type text,
    old_blob bytea,
    PRIMARY KEY (run_id, checkpoint_ns, checkpoint_id, task_id, idx)
);

-- The event log: ready wire frames in blocks, numbered within the thread (first_seq) and within the run (first_in_run).
-- The keys follow last_seq, so that whoever goes on after a number starts there.
CREATE TABLE holdfast.event_blocks (
    thread_id uuid NOT NULL REFERENCES holdfast.threads ON DELETE CASCADE,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    run_id uuid REFERENCES holdfast.runs ON DELETE CASCADE,
    first_in_run bigint NOT NULL,
    frames bytea NOT NULL,
    created_at timestamptz NOT NULL,
    ended_runs uuid[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (thread_id, last_seq)
);
COMMENT ON COLUMN holdfast.event_blocks.run_id IS 'NULL: said about the thread, in no run''s stream';
COMMENT ON COLUMN holdfast.event_blocks.ended_runs IS 'runs that ended here; each has a number after those of the frames';
CREATE INDEX event_blocks_by_run ON holdfast.event_blocks (run_id, last_seq);
CREATE INDEX event_blocks_by_age ON holdfast.event_blocks (created_at);

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

-- The outbox of webhooks: written in the transaction that ends the run, worked off by the workers. No foreign keys: what
-- is to be told outlives the run and its thread. Alerts leave by it as well; their URLs are credentials and stay in the
-- configuration.
CREATE TABLE holdfast.deliveries (
    delivery_id uuid PRIMARY KEY,
    url text NOT NULL,
    receiver text NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'delivered', 'failed')),
    attempt integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    sender uuid,
    last_error text,
    run_id uuid,
    thread_id uuid,
    assistant_id uuid,
    status text,
    metadata jsonb,
    kwargs bytea,
    multitask_strategy text,
    error jsonb,
    values bytea,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    ended_at timestamptz NOT NULL,
    settled_at timestamptz,
    body bytea,
    CONSTRAINT settled_deliveries_have_a_time CHECK ((state = 'waiting') = (settled_at IS NULL)),
    CONSTRAINT deliveries_are_of_alerts_or_of_runs CHECK (
        starts_with(url, 'alert:')
        OR num_nulls(run_id, thread_id, assistant_id, status, metadata, multitask_strategy) = 0)
);
COMMENT ON COLUMN holdfast.deliveries.url IS 'alert:NAME is a webhook of the configuration';
COMMENT ON COLUMN holdfast.deliveries.receiver IS 'host and port of the url: who is slow holds up nobody else';
COMMENT ON COLUMN holdfast.deliveries.due_at IS 'when to try next; while a try is under way, when it counts as lost';
COMMENT ON COLUMN holdfast.deliveries.sender IS 'the worker whose try is under way';
COMMENT ON COLUMN holdfast.deliveries.body IS 'what to send, where it is not the end of a run';
CREATE INDEX deliveries_to_send ON holdfast.deliveries (due_at) WHERE state = 'waiting';
CREATE INDEX deliveries_under_way ON holdfast.deliveries (sender) WHERE sender IS NOT NULL;
CREATE INDEX deliveries_to_sweep ON holdfast.deliveries (settled_at) WHERE settled_at IS NOT NULL;
CREATE INDEX deliveries_failed ON holdfast.deliveries (settled_at) WHERE state = 'failed';

-- A cron is due at next_run_date; the transaction that admits its run moves it on.
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

-- What threads take up, as the last whole round of measuring found it.
CREATE TABLE holdfast.storage_report (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    measured_at timestamptz NOT NULL,
    report jsonb NOT NULL
);
COMMENT ON COLUMN holdfast.storage_report.report IS
    'threads, bytes, how many threads have up to so many bytes, and the largest: {thread_id, bytes}';

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
    requested_by text,
    CONSTRAINT a_due_time_says_what_happens_then CHECK ((due_at IS NULL) = (outcome IS NULL))
);
COMMENT ON COLUMN holdfast.approvals.owner IS 'of the thread; with metadata, who sees it';
COMMENT ON COLUMN holdfast.approvals.metadata IS 'the thread''s, kept up with it while it is there';
COMMENT ON COLUMN holdfast.approvals.run_id IS 'the run that asked';
COMMENT ON COLUMN holdfast.approvals.question IS 'the interrupt''s value as JSON bytes';
COMMENT ON COLUMN holdfast.approvals.decided_by IS 'whose answer, input, update or deletion it was';
COMMENT ON COLUMN holdfast.approvals.due_answer IS 'what the deadline answers, as JSON bytes';
COMMENT ON COLUMN holdfast.approvals.acted_at IS 'when the deadline did what it was to do: it does it once';
COMMENT ON COLUMN holdfast.approvals.requested_by IS 'who started what the question is about; NULL, from before this was written down: the owner';
COMMENT ON COLUMN holdfast.approvals.problem IS 'why the deadline, or an answer, came to nothing';
CREATE UNIQUE INDEX one_open_approval_per_question ON holdfast.approvals (thread_id, interrupt_id)
    WHERE state IN ('pending', 'answering', 'expiring');
CREATE INDEX approvals_by_owner ON holdfast.approvals (owner, asked_at, approval_id);
CREATE INDEX approvals_by_thread ON holdfast.approvals (thread_id, asked_at, approval_id);
CREATE INDEX approvals_by_metadata ON holdfast.approvals USING gin (metadata jsonb_path_ops);
CREATE INDEX approvals_being_decided ON holdfast.approvals (decided_run_id) WHERE state IN ('answering', 'expiring');
CREATE INDEX approvals_due ON holdfast.approvals (due_at) WHERE state = 'pending' AND acted_at IS NULL AND problem IS NULL;
CREATE INDEX approvals_waiting ON holdfast.approvals (asked_at) WHERE state = 'pending';
CREATE INDEX approvals_to_sweep ON holdfast.approvals (decided_at)
    WHERE state IN ('answered', 'expired', 'discarded', 'withdrawn');

-- What a graph was made of, by the fingerprint that stands in the metadata of its checkpoints.
CREATE TABLE holdfast.graph_revisions (
    graph_id text NOT NULL,
    revision text NOT NULL,
    nodes jsonb NOT NULL,
    channels jsonb NOT NULL,
    first_seen timestamptz NOT NULL,
    PRIMARY KEY (graph_id, revision)
);

-- The parts of lists that checkpoint_blobs keeps by element, by the digest of their bytes.
CREATE TABLE holdfast.elements (
    thread_id text NOT NULL,
    digest bytea NOT NULL,
    level smallint NOT NULL,
    bytes bytea NOT NULL,
    PRIMARY KEY (thread_id, digest)
);
COMMENT ON COLUMN holdfast.elements.level IS '0: elements as msgpack has them; otherwise digests, of what is one level below';

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
