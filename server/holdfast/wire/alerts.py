"""Alerts on the wire: what Slack, Feishu, DingTalk and receivers of one's own are sent, and whether they took it.

    slack     https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
    feishu    https://open.feishu.cn/document/client-docs/bot-v3/add-custom-bot
    dingtalk  https://open.dingtalk.com/document/orgapp/custom-robot-access
    json      ours: `rules/alert.py` Notice with `server` and `text`, signed like other webhooks

Feishu and DingTalk sign a time that may be an hour old at most, so a message is written for each try. They answer 200
to what they refuse; their answers are read. All three are sent plain text: an alert quotes what others wrote, and that
must neither become a link nor call everybody.

A webhook's URL is a credential: in the outbox and in logs it is a name, `alert:slack-3f2a91c0`.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, get_args
from urllib.parse import urlencode, urlsplit

from holdfast.errors import SettingsError
from holdfast.rules.alert import MetricRule, Thresholds
from holdfast.sections import AlertShape, AlertsSection, AlertWebhook
from holdfast.settings import Settings, signing_keys
from holdfast.wire.webhooks import delivery_headers, filled_in

CHANNEL = "alert:"
"""How the name of a channel begins; no URL does."""

LONGEST_TEXT = 3000
"""Characters: below what any of the three services takes."""

MOST_ANSWER_BYTES = 4096
"""Of an answer; theirs are a hundred."""

_BUSY = {"feishu": {11232, 11233}, "dingtalk": {-1, 130101, 410100}}
"""Codes for too many messages in a minute, and for a service that is busy."""


@dataclass(frozen=True, slots=True)
class Channel:
    """An alert webhook of the configuration. `secret` is none where nothing is signed."""

    name: str
    receiver: str
    shape: AlertShape
    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    keys: Sequence[bytes] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What is posted."""

    url: str = field(repr=False)
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AlertPlan:
    """What operators want to be told of, and where; `server` stands in every message."""

    channels: Mapping[str, Channel]
    thresholds: Thresholds = field(default_factory=Thresholds)
    rules: Sequence[MetricRule] = ()
    server: str = ""


def alert_plan(
    section: AlertsSection, settings: Settings, env_prefix: str, environment: Mapping[str, str]
) -> AlertPlan | None:
    """The section and the settings together, of which the settings win; None: nobody is to be told.

    Raises:
        ProjectError: a variable in the section that is not there or may not be.
        SettingsError: HOLDFAST_ALERT_WEBHOOK, or a secret, that cannot be used.
    """

    def whole(text: str) -> str:
        return filled_in(text, "alerts.webhooks", env_prefix, environment)

    given = [
        webhook.model_copy(update={"url": whole(webhook.url), "secret": webhook.secret and whole(webhook.secret)})
        for webhook in section.webhooks
    ]
    webhooks = [*given, *from_environment(settings.alert_webhook)]
    if not webhooks:
        return None
    limits = {
        "stuck_run": settings.alert_stuck_run_seconds or section.stuck_run_seconds,
        "queue_wait": settings.alert_queue_wait_seconds or section.queue_wait_seconds,
        "approval_wait": settings.alert_approval_wait_seconds or section.approval_wait_seconds,
    }
    thresholds = Thresholds(limits, (settings.alert_repeat_hours or section.repeat_hours) * 3600)
    rules = [metric.value for metric in section.metrics]
    return AlertPlan(channels(webhooks, settings.webhook_secrets), thresholds, rules, section.name)


def channels(webhooks: Iterable[AlertWebhook], keys: Sequence[bytes]) -> dict[str, Channel]:
    """By name: shape and a few digits of the URL's digest, so that it stays the same while the configuration changes.

    Args:
        keys: of other webhooks (`HOLDFAST_WEBHOOK_SECRET`); they sign for `json` where it has no secret of its own.

    Raises:
        SettingsError: a secret that cannot sign; it is not quoted.
    """
    made = [_channel(webhook, keys) for webhook in webhooks]
    return {channel.name: channel for channel in made}


def _channel(webhook: AlertWebhook, keys: Sequence[bytes]) -> Channel:
    name = f"{CHANNEL}{webhook.shape}-{sha256(webhook.url.encode()).hexdigest()[:8]}"
    receiver = urlsplit(webhook.url).netloc.lower()
    if webhook.shape == "json" and webhook.secret:
        try:
            keys = signing_keys(webhook.secret)
        except ValueError as invalid:
            raise SettingsError(f"the secret of an alert webhook {invalid}") from None
    return Channel(name, receiver, webhook.shape, webhook.url, webhook.secret or "", keys)


def from_environment(text: str) -> list[AlertWebhook]:
    """`slack+https://...,feishu+https://...#secret`; without a shape it is `json`.

    Raises:
        SettingsError: not so; the text is not quoted.
    """
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        shape, separator, rest = part.partition("+http")
        url, _, secret = (f"http{rest}" if separator else part).partition("#")
        given = shape if separator else "json"
        if given not in get_args(AlertShape) or not url.startswith(("http://", "https://")):
            raise SettingsError(
                f"HOLDFAST_ALERT_WEBHOOK must be URLs with one of {', '.join(get_args(AlertShape))} and + before them, "
                "separated by commas"
            )
        found.append(AlertWebhook.model_validate({"url": url, "shape": given, "secret": secret or None}))
    return found


def alert_request(
    channel: Channel, notice: Mapping[str, Any], *, server: str, delivery_id: object, sent_at: datetime
) -> Request:
    """What this channel is sent of a notice."""
    text = message(notice, server)
    plain = {"content-type": "application/json", "user-agent": "holdfast"}
    match channel.shape:
        case "slack":
            return Request(channel.url, _bytes({"text": _without_markup(text), "mrkdwn": False}), plain)
        case "feishu":
            # In a text message `<at ...>` calls people.
            told = {"msg_type": "text", "content": {"text": text.replace("<", "\u2039")}}
            return Request(channel.url, _bytes({**_feishu_signature(channel.secret, sent_at), **told}), plain)
        case "dingtalk":
            said = {"msgtype": "text", "text": {"content": text}, "at": {"isAtAll": False}}
            return Request(channel.url + _dingtalk_signature(channel, sent_at), _bytes(said), plain)
        case "json":
            body = _bytes({**notice, "server": server, "text": text})
            return Request(
                channel.url, body, delivery_headers(delivery_id, body, sent_at=sent_at, secrets=channel.keys)
            )


def refusal(shape: AlertShape, answer: bytes) -> tuple[str, bool] | None:
    """Why an answer of status 2xx is none, and whether to come again; None: the message was taken."""
    key = {"feishu": "code", "dingtalk": "errcode"}.get(shape)
    if key is None:
        return None
    try:
        told = json.loads(answer)
        code = int(told.get(key, told.get("StatusCode", 0)))
    except (ValueError, TypeError, AttributeError):
        return "an answer that is not the service's", False
    return None if code == 0 else (f"{key} {code}", code in _BUSY[shape])


def message(notice: Mapping[str, Any], server: str) -> str:
    """A notice for people, as plain text."""
    named = f" {server}" if server else ""
    state = {"firing": notice["severity"], "reminder": f"still {notice['severity']}", "resolved": "over"}[
        notice["state"]
    ]
    lines = [f"[Holdfast{named}] {state}: {notice['title']}"]
    for item in notice["items"]:
        about = f"{item['subject']}: " if item["subject"] else ""
        lines.append(f"{'was: ' if notice['state'] == 'resolved' else ''}{about}{item['text']}")
    if (more := notice["count"] - len(notice["items"])) > 0:
        lines.append(f"and {more} more")
    lines.append(f"since {notice['since']}")
    text = "\n".join(lines)
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 4] + " ..."


def _without_markup(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _feishu_signature(secret: str, sent_at: datetime) -> dict[str, str]:
    if not secret:
        return {}
    timestamp = str(int(sent_at.timestamp()))
    # The text to sign is the key, and what it signs is empty.
    digest = hmac.digest(f"{timestamp}\n{secret}".encode(), b"", "sha256")
    return {"timestamp": timestamp, "sign": base64.b64encode(digest).decode()}


def _dingtalk_signature(channel: Channel, sent_at: datetime) -> str:
    if not channel.secret:
        return ""
    timestamp = str(int(sent_at.timestamp() * 1000))
    digest = hmac.digest(channel.secret.encode(), f"{timestamp}\n{channel.secret}".encode(), "sha256")
    query = urlencode({"timestamp": timestamp, "sign": base64.b64encode(digest).decode()})
    return f"{'&' if urlsplit(channel.url).query else '?'}{query}"


def _bytes(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
