"""The header `Idempotency-Key`, and by what a request is known again."""

from __future__ import annotations

import pytest

from holdfast.errors import Invalid
from holdfast.wire.idempotency import key_name, request_digest
from holdfast.wire.runs import RunBatch, RunCreate


@pytest.mark.parametrize("name", ["a", "8e03978e-40d5-43e8-bc93-6894a57f9324", "cron:7:2026-01-01", "~!#", "x" * 255])
def test_a_key_is_taken_with_and_without_quotes(name: str) -> None:
    assert key_name([name]) == name
    assert key_name([f'"{name}"']) == name


def test_no_header_is_no_key() -> None:
    assert key_name([]) is None


@pytest.mark.parametrize(
    "given",
    [[""], ['""'], ["x" * 256], ["a b"], ["a\tb"], ["ü"], ["a\x00"], ['"a'], ['a"'], ['"a";b=1'], ["a", "b"], ["a, b"]],
)
def test_anything_else_is_refused(given: list[str]) -> None:
    with pytest.raises(Invalid, match="Idempotency-Key"):
        key_name(given)


def body(**given: object) -> RunCreate:
    return RunCreate.model_validate({"assistant_id": "a", **given})


def test_a_request_is_known_again_by_what_it_says_and_not_by_how() -> None:
    digest = request_digest("/runs", None, body(input={"a": 1, "b": [2]}))
    assert request_digest("/runs", None, body(input={"b": [2], "a": 1}, unknown=1, webhook=None)) == digest
    assert request_digest("/runs", None, body(input={"a": 1, "b": [2]}, stream_mode="values")) == digest
    others = [
        request_digest("/runs/wait", None, body(input={"a": 1, "b": [2]})),
        request_digest("/runs", "thread", body(input={"a": 1, "b": [2]})),
        request_digest("/runs", None, body(input={"a": 1, "b": ["2"]})),
        request_digest("/runs", None, body(input={"a": 1, "b": [2]}, metadata={"m": 1})),
        request_digest("/runs", None, body(input={"a": 1}), body(input={"b": [2]})),
        request_digest("/runs", None, RunBatch.model_validate([{"assistant_id": "a", "input": {"a": 1, "b": [2]}}])),
    ]
    assert len({digest, *others}) == 7
