"""The judgements by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tests.durability.chaos.evidence import Evidence
from tests.durability.chaos.judging import answers, effects, runs, states, streams

JUDGEMENTS: Mapping[str, Callable[[Evidence], Iterator[str]]] = {
    "acknowledged runs lost": runs.lost_runs,
    "threads lost": runs.lost_threads,
    "runs or threads stuck": runs.stuck,
    "runs that ended for no reason": runs.wrong_ends,
    "cancellations that led elsewhere": runs.cancelled_otherwise,
    "inputs lost": runs.lost_inputs,
    "inputs doubled": runs.doubled_inputs,
    "idempotent requests carried out twice": runs.repeats_that_ran,
    "effects doubled though nothing stopped them": effects.doubled,
    "effects repeated after their commit": effects.repeated_after_commit,
    "ledgered effects doubled": effects.ledgered_doubled,
    "wrong states": effects.wrong_states,
    "tools run without an answer": answers.without_answer,
    "answers misapplied": answers.misapplied,
    "answers applied twice": answers.applied_twice,
    "questions with two accepted answers": answers.accepted_twice,
    "answers lost": answers.lost_answers,
    "checkpoint forks": states.forks,
    "streams out of order": streams.out_of_order,
    "frames that differ from the replay": streams.different,
    "frames missed in between": streams.holes,
    "frames that are not in the log": streams.vanished,
    "streams that ended early": streams.ended_early,
    "streams that never ended": streams.never_ended,
    "wrong results of wait": streams.wrong_results,
    "wrong thread status": states.wrong_thread_status,
    "questions shown wrongly": states.wrong_questions,
    "5xx other than 503": states.bad_answers,
    "refusals without a reason": states.wrong_refusals,
}


def judged(evidence: Evidence) -> dict[str, list[str]]:
    """What every judgement has found; nothing, if all is well."""
    return {name: list(judge(evidence)) for name, judge in JUDGEMENTS.items()}
