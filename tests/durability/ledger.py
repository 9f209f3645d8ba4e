"""What the tables say about transitions that must happen once, for what no API shows."""

from __future__ import annotations

import psycopg
from psycopg.rows import dict_row

QUESTIONS = {
    "runs that are neither over nor in the queue": """
        SELECT run_id::text || ' ' || status FROM holdfast.runs WHERE status IN ('pending', 'running')""",
    "attempts or crashes counted without a crash": """
        SELECT format('%s: attempt %s, %s crashes', run_id, attempt, crashes)
        FROM holdfast.runs WHERE attempt > 1 OR crashes > 0""",
    "event blocks that overlap": """
        SELECT format('thread %s: %s begins before %s ends', thread_id, first_seq, earlier)
        FROM (SELECT *, lag(last_seq) OVER (PARTITION BY thread_id ORDER BY last_seq) AS earlier
              FROM holdfast.event_blocks) AS blocks
        WHERE first_seq <= earlier""",
    "frames of a run missing or twice": """
        SELECT format('run %s: %s after %s', run_id, first_in_run, earlier)
        FROM (SELECT *, lag(first_in_run + last_seq - first_seq + 1 - cardinality(ended_runs))
                            OVER (PARTITION BY run_id ORDER BY last_seq) AS earlier
              FROM holdfast.event_blocks WHERE run_id IS NOT NULL AND frames <> '') AS blocks
        WHERE first_in_run <> coalesce(earlier, 1)""",
    "runs whose end was told twice or never": """
        SELECT format('run %s of thread %s: %s times', run_id, thread_id, told)
        FROM (SELECT r.run_id, r.thread_id,
                     (SELECT count(*) FROM holdfast.event_blocks b
                      WHERE b.thread_id = r.thread_id AND r.run_id = ANY(b.ended_runs)) AS told
              FROM holdfast.runs r JOIN holdfast.threads t USING (thread_id)
              WHERE t.deleted_at IS NULL AND NOT r.ephemeral) AS ends
        WHERE told <> 1""",
    "threads whose status is not that of their runs": """
        SELECT format('thread %s: %s', thread_id, status)
        FROM holdfast.threads t
        WHERE deleted_at IS NULL AND (status = 'busy') <> EXISTS (
            SELECT FROM holdfast.runs r WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))""",
    "checkpoint forks": """
        SELECT format('thread %s: %s has %s children', thread_id, parent_checkpoint_id, count(*))
        FROM checkpoints WHERE checkpoint_ns = ''
        GROUP BY thread_id, parent_checkpoint_id HAVING count(*) > 1""",
}


def doubled(database_url: str, *but: str) -> dict[str, list[str]]:
    """What was found to each question, but those named."""
    with psycopg.connect(database_url, row_factory=dict_row) as conn:
        return {
            question: [str(next(iter(row.values()))) for row in conn.execute(query).fetchall()]  # type: ignore[arg-type]
            for question, query in QUESTIONS.items()
            if question not in but
        }
