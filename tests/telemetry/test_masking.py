"""What may not leave the process does not, and ordinary text stays as it is."""

from __future__ import annotations

import time

import pytest

from holdfast.settings import Settings
from holdfast.telemetry.masking import known_secrets, mask, masked

SHOWN = {
    "Authorization: Bearer abc.def-123": "Authorization: [secret]",
    "{'authorization': 'Basic dXNlcjpwdw==', 'x': 1}": "{'authorization': '[secret]', 'x': 1}",
    '{"x-api-key": "s3cret"}': '{"x-api-key": "[secret]"}',
    "got bearer abcdefgh12345 there": "got bearer [secret] there",
    "postgresql://user:p%40ss@host/db": "postgresql://user:[password]@host/db",
    "postgresql://user:p@ss:word@host/db": "postgresql://user:[password]@host/db",
    "host=h password=hunter2 user=u": "host=h password=[secret] user=u",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "[token]",
    "sk-proj-abcdefghijkl0123 and lsv2_pt_0123456789abcdef": "[key] and [key]",
    "ghp_abcdefghijkl0123456789": "[key]",
    "AKIAIOSFODNN7EXAMPLE": "[key]",
    "write to a.b+c@mail.example.co.uk!": "write to [email]!",
    "card 4111 1111 1111 1111": "card [card]",
    "call +49 170 1234567, (555) 123-4567 or 13812345678": "call [phone], [phone] or [phone]",
    "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----": "[private key]",
}

ORDINARY = [
    "2026-12-01 03:52:30,123 took 12.5 ms on 127.0.0.1:54321",
    "run 019357ab-1234-7234-8234-012345678901 failed",
    "at 1733025150123, 4111-1111-1111-1112 is no card",
    "input_tokens: 512, total_tokens=1024",
    "GET /threads/{thread_id}/runs/{run_id}/stream 200",
    "https://example.com/a@b and http://[::1]:2024/",
]

HOSTILE = [
    "a",
    "a.",
    "a@",
    "a@a.",
    "1 ",
    "+1 ",
    "4111 ",
    "eyJ-",
    "eyJ.",
    "://a:",
    "token=",
    "sk-",
    "-----BEGIN PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", SHOWN)
def test_a_secret_is_masked_where_it_stands(text: str) -> None:
    assert mask(text) == SHOWN[text]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize("unit", HOSTILE)
def test_the_time_grows_with_the_length(unit: str) -> None:
    def seconds(size: int) -> float:
        text = (unit * size)[:size]
        best = float("inf")
        for _ in range(3):
            began = time.process_time()
            mask(text)
            best = min(best, time.process_time() - began)
        return best

    # Eight times the text; quadratic would be 64 times the time.
    assert seconds(100_000) < 24 * max(seconds(12_500), 0.0005)


def test_what_the_process_was_given_is_masked_by_value() -> None:
    settings = Settings(
        _env_file=None,
        DATABASE_URL="postgresql://user:p%40ssword@host/db",
        HOLDFAST_API_KEYS="ada:the key of ada",
        HOLDFAST_CHECKPOINTER_URL="redis://:check-pass@host",
        HOLDFAST_ALERT_WEBHOOK="slack+https://hooks.example/T0/B0, feishu+https://hook.example/h1#sign-me",
    )
    secrets = known_secrets(settings, {"MY_SERVICE_TOKEN": "plain words", "SHORT_KEY": "abc", "HOME": "/home/somebody"})
    said = "p@ssword p%40ssword, the key of ada, plain words, abc, /home/somebody"
    assert mask(said, secrets) == "[secret] [secret], [secret], [secret], abc, /home/somebody"
    told = "check-pass, https://hooks.example/T0/B0, https://hook.example/h1 with sign-me"
    assert mask(told, secrets) == "[secret], [secret], [secret] with [secret]"


def test_values_are_masked_within() -> None:
    value = {
        "password": "x",
        "input_tokens": 5,
        "list": ["a@example.com", None, True, 1.5],
        "a@example.com": {"note": ValueError("sk-abcdefghijklmnop")},
    }
    assert masked(value) == {
        "password": "[secret]",
        "input_tokens": 5,
        "list": ["[email]", None, True, 1.5],
        "[email]": {"note": "[key]"},
    }


def test_a_value_within_itself_has_an_end() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert "[too deep]" in str(masked(endless))
