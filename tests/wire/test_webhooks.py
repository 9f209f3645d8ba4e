"""Webhooks on the wire: body, signature, headers."""

from __future__ import annotations

import base64
import hmac
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from holdfast.errors import ProjectError
from holdfast.sections import WebhooksSection
from holdfast.wire.webhooks import custom_headers, delivery_body, delivery_headers, retry_after

SENT = datetime(2026, 11, 21, 12, 0, 3, tzinfo=UTC)
ROW: dict[str, Any] = {
    "run_id": UUID(int=1),
    "thread_id": UUID(int=2),
    "assistant_id": UUID(int=3),
    "status": "success",
    "metadata": {"a": 1},
    "kwargs": b'{"input": {"secret": "s"}}',
    "multitask_strategy": "enqueue",
    "error": None,
    "body": None,
    "values": b'{"log":[1]}',
    "created_at": datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC),
    "started_at": datetime(2026, 11, 21, 12, 0, 1, tzinfo=UTC),
    "ended_at": datetime(2026, 11, 21, 12, 0, 2, tzinfo=UTC),
}
FIELDS = {
    *("run_id", "thread_id", "assistant_id", "created_at", "updated_at", "metadata", "status", "multitask_strategy"),
    *("langsmith_session_name", "run_started_at", "run_ended_at", "webhook_sent_at", "values"),
}


def told(allowed: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(delivery_body({**ROW, **changes}, sent_at=SENT, allowed=allowed))
    return body


def test_the_body_is_the_run_its_times_and_its_values() -> None:
    body = told()
    assert set(body) == FIELDS
    assert (body["status"], body["values"], body["metadata"]) == ("success", {"log": [1]}, {"a": 1})
    assert body["run_started_at"] == "2026-11-21T12:00:01.000000+00:00"
    assert body["run_ended_at"] == body["updated_at"] == "2026-11-21T12:00:02.000000+00:00"
    assert body["webhook_sent_at"] == "2026-11-21T12:00:03.000000+00:00"


def test_a_run_that_never_started_has_no_start_and_no_values() -> None:
    body = told(status="interrupted", started_at=None, values=None)
    assert (body["run_started_at"], body["values"]) == (None, None)
    assert "error" not in body


@pytest.mark.parametrize("status", ["error", "timeout"])
def test_a_failed_run_tells_its_error(status: str) -> None:
    error = {"error": "ValueError", "message": "as told"}
    assert told(status=status, error=error)["error"] == error


def test_inputs_and_config_are_told_only_where_allowed_fields_names_them() -> None:
    assert "secret" not in json.dumps(told())
    assert told(["kwargs", "run_id", "nothing"]) == {
        "run_id": str(ROW["run_id"]),
        "kwargs": {"input": {"secret": "s"}},
    }
    assert told(["values"]) == {"values": {"log": [1]}}
    assert told([]) == {}


def test_the_signature_is_that_of_the_standard_webhooks_specification() -> None:
    # The example of the specification's own libraries.
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    sent_at = datetime.fromtimestamp(1614265330, UTC)
    headers = delivery_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', sent_at=sent_at, secrets=[secret]
    )
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_secret_signs_and_without_one_nothing_does() -> None:
    headers = delivery_headers("i", b"{}", sent_at=SENT, secrets=[b"a" * 24, b"b" * 24])
    timestamp = headers["webhook-timestamp"]
    expected = [hmac.digest(key, f"i.{timestamp}.{{}}".encode(), "sha256") for key in (b"a" * 24, b"b" * 24)]
    signatures = [base64.b64decode(part.removeprefix("v1,")) for part in headers["webhook-signature"].split(" ")]
    assert signatures == expected
    assert "webhook-signature" not in delivery_headers("i", b"{}", sent_at=SENT, secrets=[])


ENVIRONMENT = {"LG_WEBHOOK_TOKEN": "t0k3n", "LG_WEBHOOK_CRLF": "a\r\nb: c", "HOME": "/root"}


def test_headers_are_filled_in_from_variables_with_the_prefix() -> None:
    section = WebhooksSection(headers={"Authorization": "Bearer ${{ env.LG_WEBHOOK_TOKEN }}", "X-From": "holdfast"})
    filled = custom_headers(section, ENVIRONMENT)
    assert filled == {"Authorization": "Bearer t0k3n", "X-From": "holdfast"}
    own = WebhooksSection(env_prefix="HO", headers={"X-Home": "${{env.HOME}}"})
    assert custom_headers(own, ENVIRONMENT) == {"X-Home": "/root"}


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"X-A": "${{ env.HOME }}"}, "HOME does not start with LG_WEBHOOK_"),
        ({"X-A": "${{ env.LG_WEBHOOK_MISSING }}"}, "LG_WEBHOOK_MISSING is not set"),
        ({"X-A": "${{ secrets.A }}"}, "not of the form"),
        ({"X-A": "${{ }}"}, "not of the form"),
        ({"X-A": "${{ env.LG_WEBHOOK_CRLF }}"}, "cannot be sent"),
        ({"X-A": "ключ"}, "cannot be sent"),
        ({"X A": "x"}, "cannot be set"),
        ({"": "x"}, "cannot be set"),
        ({"Host": "x"}, "cannot be set"),
        ({"Webhook-Signature": "x"}, "cannot be set"),
        ({"content-length": "5"}, "cannot be set"),
    ],
)
def test_a_header_that_cannot_be_is_an_error_that_names_it(headers: dict[str, str], why: str) -> None:
    with pytest.raises(ProjectError, match=why) as raised:
        custom_headers(WebhooksSection(headers=headers), ENVIRONMENT)
    assert "t0k3n" not in str(raised.value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        ("Sat, 21 Nov 2026 12:01:03 GMT", 60),
        ("Sat, 21 Nov 2020 12:01:03 GMT", 0),
        ("-5", None),
        ("1" * 40, None),
        ("soon", None),
        ("²", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=SENT) == seconds
