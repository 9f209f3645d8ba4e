"""What the services are sent, held against what their documentation says that they take."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import pytest

from holdfast.errors import ProjectError, SettingsError
from holdfast.sections import AlertsSection, AlertWebhook
from holdfast.settings import load_settings
from holdfast.wire.alerts import (
    LONGEST_TEXT,
    Channel,
    Request,
    alert_plan,
    alert_request,
    channels,
    from_environment,
    message,
    refusal,
)

URL = "https://hooks.example/t/TOKEN?access_token=T"
SENT_AT = datetime(2026, 12, 1, 12, 0, 0, 250_000, tzinfo=UTC)
NOTICE = {
    "kind": "budget",
    "state": "firing",
    "severity": "warning",
    "title": "budget",
    "count": 7,
    "since": "2026-12-01T11:00:00+00:00",
    "at": "2026-12-01T12:00:00+00:00",
    "items": [{"subject": "t1", "text": '<!channel> <at user_id="all"> a & b', "times": 2}],
}
TEXT = {"type": "string", "minLength": 1}

SCHEMAS: dict[str, dict[str, Any]] = {
    # https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
    "slack": {
        "type": "object",
        "required": ["text"],
        "additionalProperties": False,
        "properties": {
            "text": {**TEXT, "maxLength": 40_000},
            "blocks": {"type": "array"},
            "mrkdwn": {"type": "boolean"},
        },
    },
    # https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
    "feishu": {
        "type": "object",
        "required": ["msg_type", "content"],
        "dependentRequired": {"sign": ["timestamp"], "timestamp": ["sign"]},
        "additionalProperties": False,
        "properties": {
            "timestamp": {"type": "string", "pattern": "^[0-9]{10}$"},
            "sign": TEXT,
            "msg_type": {"const": "text"},
            "content": {"type": "object", "required": ["text"], "properties": {"text": TEXT}},
        },
    },
    # https://open.dingtalk.com/document/orgapp/custom-robot-access
    "dingtalk": {
        "type": "object",
        "required": ["msgtype", "text"],
        "additionalProperties": False,
        "properties": {
            "msgtype": {"const": "text"},
            "text": {"type": "object", "required": ["content"], "properties": {"content": TEXT}},
            "at": {
                "type": "object",
                "properties": {
                    "isAtAll": {"type": "boolean"},
                    "atMobiles": {"type": "array"},
                    "atUserIds": {"type": "array"},
                },
                "additionalProperties": False,
            },
        },
    },
    # docs/alerts.md
    "json": {
        "type": "object",
        "required": ["kind", "state", "severity", "title", "text", "count", "since", "at", "items", "server"],
        "additionalProperties": False,
        "properties": {
            **{key: {"type": "string"} for key in ("kind", "title", "text", "since", "at", "server")},
            "state": {"enum": ["firing", "reminder", "resolved"]},
            "severity": {"enum": ["warning", "critical"]},
            "count": {"type": "integer", "minimum": 1},
            "items": {
                "type": "array",
                "maxItems": 5,
                "items": {"type": "object", "required": ["subject", "text", "times"]},
            },
        },
    },
}


def channel(shape: str, *, url: str = URL, secret: str | None = None) -> Channel:
    webhook = AlertWebhook.model_validate({"url": url, "shape": shape, "secret": secret})
    [made] = channels([webhook], [b"k" * 24]).values()
    return made


def sent(made: Channel, **changes: Any) -> Request:
    return alert_request(made, {**NOTICE, **changes}, server="prod", delivery_id="d-1", sent_at=SENT_AT)


@pytest.mark.parametrize("secret", [None, "s3cret"])
@pytest.mark.parametrize("shape", ["slack", "feishu", "dingtalk", "json"])
def test_a_body_is_what_the_service_documents(shape: str, secret: str | None) -> None:
    if shape == "json" and secret:
        secret = "whsec_" + base64.b64encode(b"z" * 24).decode()
    request = sent(channel(shape, secret=secret))
    jsonschema.validate(json.loads(request.body), SCHEMAS[shape])
    assert request.headers["content-type"] == "application/json"


def test_what_others_wrote_calls_nobody() -> None:
    assert "<!" not in json.loads(sent(channel("slack")).body)["text"]
    assert "&lt;!channel&gt;" in json.loads(sent(channel("slack")).body)["text"]
    assert "<at" not in json.loads(sent(channel("feishu")).body)["content"]["text"]
    assert json.loads(sent(channel("dingtalk")).body)["at"] == {"isAtAll": False}


def test_feishus_signature_is_over_time_and_secret() -> None:
    body = json.loads(sent(channel("feishu", secret="s3cret")).body)
    assert body["timestamp"] == "1796126400"
    # As its documentation computes it: the text to sign is the key, of nothing.
    made = hmac.new(b"1796126400\ns3cret", digestmod=hashlib.sha256).digest()
    assert body["sign"] == base64.b64encode(made).decode()


@pytest.mark.parametrize("url", ["https://oapi.example/send?access_token=T", "https://oapi.example/send"])
def test_dingtalks_signature_is_in_the_url(url: str) -> None:
    query = parse_qs(urlsplit(sent(channel("dingtalk", url=url, secret="SECabc")).url).query)
    assert query["timestamp"] == ["1796126400250"]
    made = hmac.new(b"SECabc", b"1796126400250\nSECabc", hashlib.sha256).digest()
    assert query["sign"] == [base64.b64encode(made).decode()]
    assert query.get("access_token", ["T"]) == ["T"]


def test_our_own_shape_is_signed_like_other_webhooks() -> None:
    request = sent(channel("json"))
    signed = b"d-1.1796126400." + request.body
    made = base64.b64encode(hmac.digest(b"k" * 24, signed, "sha256")).decode()
    assert (request.headers["webhook-id"], request.headers["webhook-signature"]) == ("d-1", f"v1,{made}")


def test_a_message_says_where_what_and_how_many_more() -> None:
    lines = message({**NOTICE, "items": [{"subject": "t1", "text": "spent", "times": 1}]}, "prod").split("\n")
    assert lines == [
        "[Holdfast prod] warning: budget",
        "t1: spent",
        "and 6 more",
        "since 2026-12-01T11:00:00+00:00",
    ]
    over = message({**NOTICE, "state": "resolved", "count": 1}, "")
    assert over.startswith("[Holdfast] over: budget\nwas: t1: ")
    assert message({**NOTICE, "state": "reminder"}, "").startswith("[Holdfast] still warning: ")
    assert len(message({**NOTICE, "items": [{"subject": "", "text": "x" * 9000}]}, "")) == LONGEST_TEXT


@pytest.mark.parametrize(
    ("shape", "answer", "expected"),
    [
        ("slack", b"ok", None),
        ("json", b"", None),
        ("feishu", b'{"code":0,"msg":"success","data":{}}', None),
        ("feishu", b'{"StatusCode":0,"StatusMessage":"success"}', None),
        (
            "feishu",
            b'{"code":19021,"msg":"sign match fail"}',
            ("code 19021", False),
        ),
        ("feishu", b'{"code":11232,"msg":"frequency limited"}', ("code 11232", True)),
        ("feishu", b"<html>", ("an answer that is not the service's", False)),
        ("dingtalk", b'{"errcode":0,"errmsg":"ok"}', None),
        ("dingtalk", b'{"errcode":310000,"errmsg":"sign not match"}', ("errcode 310000", False)),
        ("dingtalk", b'{"errcode":130101,"errmsg":"send too fast"}', ("errcode 130101", True)),
        ("dingtalk", b"[]", ("an answer that is not the service's", False)),
    ],
)
def test_a_service_that_answers_200_may_have_refused(shape: Any, answer: bytes, expected: Any) -> None:
    assert refusal(shape, answer) == expected


def test_the_environment_names_webhooks_with_their_shapes() -> None:
    found = from_environment("slack+https://a/x, feishu+https://b/y#s3cret,http://c/z,")
    assert [(one.shape, one.url, one.secret) for one in found] == [
        ("slack", "https://a/x", None),
        ("feishu", "https://b/y", "s3cret"),
        ("json", "http://c/z", None),
    ]


@pytest.mark.parametrize("text", ["teams+https://a/TOKEN", "ftp://a/TOKEN", "TOKEN", "slack+TOKEN"])
def test_what_cannot_be_read_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(SettingsError) as refused:
        from_environment(text)
    assert "TOKEN" not in str(refused.value)


def test_a_channel_shows_neither_its_url_nor_its_secret() -> None:
    made = channel("feishu", secret="s3cret")
    shown = (
        repr(made) + repr(sent(made).headers) + repr(AlertWebhook(url="https://a/TOKEN", shape="json", secret="s3cret"))
    )
    assert "TOKEN" not in shown
    assert "s3cret" not in shown
    assert made.name.startswith("alert:feishu-")


def test_urls_and_secrets_come_from_variables_with_the_prefix_of_webhooks() -> None:
    section = AlertsSection.model_validate(
        {"webhooks": [{"url": "${{ env.LG_WEBHOOK_URL }}", "shape": "feishu", "secret": "${{ env.LG_WEBHOOK_KEY }}"}]}
    )
    environment = {"LG_WEBHOOK_URL": "https://a/TOKEN", "LG_WEBHOOK_KEY": "s3cret"}
    plan = alert_plan(section, load_settings(), "LG_WEBHOOK_", environment)
    assert plan is not None
    assert [(made.url, made.secret) for made in plan.channels.values()] == [("https://a/TOKEN", "s3cret")]
    with pytest.raises(ProjectError, match="LG_WEBHOOK_KEY is not set"):
        alert_plan(section, load_settings(), "LG_WEBHOOK_", {"LG_WEBHOOK_URL": "https://a"})
    with pytest.raises(ProjectError, match="does not start with OTHER_"):
        alert_plan(section, load_settings(), "OTHER_", environment)


def test_without_a_webhook_there_is_no_plan() -> None:
    assert alert_plan(AlertsSection(stuck_run_seconds=5), load_settings(), "", {}) is None


def test_the_environment_wins_over_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_ALERT_WEBHOOK", "slack+https://a/x")
    monkeypatch.setenv("HOLDFAST_ALERT_STUCK_RUN_SECONDS", "7")
    plan = alert_plan(AlertsSection(queue_wait_seconds=None, stuck_run_seconds=5), load_settings(), "", {})
    assert plan is not None
    assert plan.thresholds.limits == {"stuck_run": 7.0, "queue_wait": None, "approval_wait": 14_400.0}
