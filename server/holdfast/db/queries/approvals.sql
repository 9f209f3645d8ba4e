-- Whoever changes what a thread asks holds its row. `rules/approval.py` has the states as a table.

-- name: open
SELECT interrupt_id, state, decided_run_id, question
FROM holdfast.approvals
WHERE thread_id = %(thread_id)s AND state IN ('pending', 'answering', 'expiring')

-- name: bind
-- Part of an admission; its answers are bound already, so whatever is pending here was found pending under the lock.
UPDATE holdfast.approvals a
SET state = 'answering', answer = given.answer, decided_by = %(by)s, decided_run_id = %(run_id)s,
    decided_at = holdfast.now()
FROM unnest(%(interrupt_ids)s::text[], %(answers)s::bytea[]) AS given (interrupt_id, answer)
WHERE a.thread_id = %(thread_id)s AND a.interrupt_id = given.interrupt_id AND a.state = 'pending'
RETURNING a.graph_id, coalesce(a.requested_by, a.owner) AS requested_by

-- name: expire
-- The guard is the exactly-once: of all who saw that this question was due, one admits the run that answers it.
UPDATE holdfast.approvals
SET state = 'expiring', answer = due_answer, decided_by = %(by)s, decided_run_id = %(run_id)s,
    decided_at = holdfast.now(), acted_at = holdfast.now()
WHERE approval_id = %(approval_id)s AND state = 'pending' AND acted_at IS NULL AND due_at <= holdfast.now()

-- name: close
-- The questions that a run or a state update answered, or made go.
UPDATE holdfast.approvals a
SET state = now.state,
    answer = CASE WHEN now.state IN ('answered', 'expired') THEN answer END,
    decided_by = CASE WHEN now.state = 'discarded' THEN %(by)s ELSE decided_by END,
    decided_run_id = CASE WHEN now.state = 'discarded' THEN %(run_id)s ELSE decided_run_id END,
    decided_at = holdfast.now(),
    problem = CASE WHEN a.interrupt_id = ANY(%(unread)s::text[]) THEN %(unread_means)s ELSE problem END
FROM unnest(%(interrupt_ids)s::text[], %(states)s::text[]) AS now (interrupt_id, state)
WHERE a.thread_id = %(thread_id)s AND a.interrupt_id = now.interrupt_id
  AND a.state IN ('pending', 'answering', 'expiring')

-- name: release
-- A deadline acts once: what it could not bring about is left to people.
UPDATE holdfast.approvals
SET state = 'pending', answer = NULL, decided_by = NULL, decided_run_id = NULL, decided_at = NULL,
    problem = CASE WHEN state = 'expiring' THEN %(unanswered_means)s ELSE problem END
WHERE decided_run_id = ANY(%(run_ids)s::uuid[]) AND state IN ('answering', 'expiring')
  AND (%(still_asked)s::text[] IS NULL OR interrupt_id = ANY(%(still_asked)s::text[]))

-- name: ask
-- What an answer leads to was requested by whoever requested what it answers.
INSERT INTO holdfast.approvals (
    approval_id, owner, metadata, thread_id, interrupt_id, task_id, checkpoint_id, graph_id, assistant_id, run_id,
    question, asked_at, state, due_at, outcome, due_answer, webhook, problem, requested_by)
SELECT gen_random_uuid(), t.owner, t.metadata, t.thread_id, q.interrupt_id, q.task_id, %(checkpoint_id)s,
       coalesce(r.graph_id, t.metadata ->> 'graph_id'),
       CASE WHEN r.run_id IS NOT NULL THEN r.assistant_id
            WHEN t.metadata ->> 'assistant_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
            THEN (t.metadata ->> 'assistant_id')::uuid END,
       r.run_id, q.question, holdfast.now(), 'pending',
       holdfast.now() + make_interval(secs => %(after_seconds)s), %(outcome)s, q.due_answer, %(webhook)s, q.problem,
       coalesce((SELECT coalesce(before.requested_by, before.owner)
                 FROM holdfast.approvals before
                 WHERE before.thread_id = t.thread_id AND before.decided_run_id = %(run_id)s
                   AND before.state IN ('answered', 'expired')
                 LIMIT 1),
                r.owner, %(by)s, t.owner)
FROM unnest(%(interrupt_ids)s::text[], %(task_ids)s::text[], %(questions)s::bytea[], %(due_answers)s::bytea[],
            %(problems)s::text[]) AS q (interrupt_id, task_id, question, due_answer, problem)
CROSS JOIN holdfast.threads t
LEFT JOIN holdfast.runs r ON r.run_id = %(run_id)s
WHERE t.thread_id = %(thread_id)s
ON CONFLICT DO NOTHING

-- name: hold_or_let_go
-- New input that is to wait for answers does so exactly while its thread asks something. What ran before is past that.
UPDATE holdfast.runs
SET held = %(asks)s, updated_at = holdfast.now()
WHERE thread_id = %(thread_id)s AND status = 'pending' AND attempt = 0 AND on_pending_interrupt = 'enqueue'
  AND held <> %(asks)s

-- name: due
SELECT a.approval_id, a.owner, a.thread_id, a.assistant_id, a.interrupt_id, a.outcome, a.due_answer, a.webhook,
       r.kwargs, a.graph_id, a.checkpoint_id, a.task_id, a.run_id, a.question, a.asked_at, a.state, a.answer,
       a.decided_by, a.decided_run_id, a.decided_at, a.due_at, a.acted_at, a.problem,
       coalesce(a.requested_by, a.owner) AS requested_by
FROM holdfast.approvals a
JOIN holdfast.threads t USING (thread_id)
LEFT JOIN holdfast.runs r USING (run_id)
WHERE a.state = 'pending' AND a.acted_at IS NULL AND a.problem IS NULL AND a.due_at <= holdfast.now()
  AND t.deleted_at IS NULL
ORDER BY a.due_at
LIMIT %(limit)s

-- name: next_due
SELECT extract(epoch FROM min(due_at) - holdfast.now())::float AS seconds
FROM holdfast.approvals
WHERE state = 'pending' AND acted_at IS NULL AND problem IS NULL AND due_at > holdfast.now()

-- name: escalate
WITH due AS (
    UPDATE holdfast.approvals
    SET acted_at = holdfast.now()
    WHERE approval_id = %(approval_id)s AND state = 'pending' AND acted_at IS NULL AND due_at <= holdfast.now()
    RETURNING *
)
INSERT INTO holdfast.deliveries (
    delivery_id, url, receiver, state, due_at, run_id, thread_id, assistant_id, status, metadata, multitask_strategy,
    created_at, ended_at, body)
SELECT gen_random_uuid(), webhook, lower(substring(webhook FROM '^[^:]*://([^/?#]*)')), 'waiting', holdfast.now(),
       coalesce(run_id, approval_id), thread_id, coalesce(assistant_id, approval_id), state, metadata, 'enqueue',
       asked_at, due_at, %(body)s
FROM due

-- name: give_up
UPDATE holdfast.approvals
SET problem = %(problem)s
WHERE approval_id = %(approval_id)s AND state = 'pending' AND acted_at IS NULL

-- name: to_answer
-- As `due`, for somebody who answers in the place of the thread's owner.
SELECT a.approval_id, a.owner, a.thread_id, a.assistant_id, a.interrupt_id, a.state, r.kwargs
FROM holdfast.approvals a
JOIN holdfast.threads t USING (thread_id)
LEFT JOIN holdfast.runs r USING (run_id)
WHERE a.approval_id = %(approval_id)s AND %%SEES(a)%% AND t.deleted_at IS NULL

-- name: view
SELECT approval_id, owner, thread_id, interrupt_id, task_id, checkpoint_id, graph_id, assistant_id, run_id, question,
       asked_at, state, answer, decided_by, decided_run_id, decided_at, due_at, outcome, acted_at, problem,
       coalesce(requested_by, owner) AS requested_by
FROM holdfast.approvals a
WHERE %%SEES(a)%%
  AND (%(approval_id)s::uuid IS NULL OR approval_id = %(approval_id)s)
  AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s::text[]))
  AND (%(thread_id)s::uuid IS NULL OR thread_id = %(thread_id)s)
  AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
  AND (%(assistant_id)s::uuid IS NULL OR assistant_id = %(assistant_id)s)
  AND (%(asked_after)s::timestamptz IS NULL OR asked_at >= %(asked_after)s)
  AND (%(asked_before)s::timestamptz IS NULL OR asked_at < %(asked_before)s)
  AND (%(due_before)s::timestamptz IS NULL OR due_at < %(due_before)s)
ORDER BY asked_at DESC, approval_id DESC
LIMIT %(limit)s OFFSET %(offset)s

-- name: withdraw
-- Questions of threads that expired, were pruned, or ended with their run. Whoever deletes a thread withdraws at once.
UPDATE holdfast.approvals a
SET state = 'withdrawn', decided_at = holdfast.now(), answer = NULL
WHERE state IN ('pending', 'answering', 'expiring')
  AND NOT EXISTS (SELECT FROM holdfast.threads t WHERE t.thread_id = a.thread_id AND t.deleted_at IS NULL)

-- name: sweep
DELETE FROM holdfast.approvals
WHERE approval_id IN (
    SELECT approval_id FROM holdfast.approvals
    WHERE state IN ('answered', 'expired', 'discarded', 'withdrawn')
      AND decided_at < holdfast.now() - make_interval(secs => %(keep)s)
    ORDER BY decided_at
    LIMIT %(batch)s
    FOR UPDATE SKIP LOCKED)
