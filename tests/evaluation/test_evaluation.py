"""The evaluation tells good agents from bad ones, conversation by conversation; and the reference agent passes it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client

from tests.evaluation.__main__ import main, own_server
from tests.evaluation.checks import KINDS, Check, Seen, with_defaults
from tests.evaluation.dataset import CONVERSATIONS, Conversation, DataSetError, read
from tests.evaluation.play import Player, Result
from tests.evaluation.report import regressions
from tests.support.postgres import Cluster
from tests.support.server import Server

PLANTED = Path(__file__).parent / "planted" / "langgraph.json"
SUM = {
    "name": "sum",
    "turns": [
        {"say": "what is 6 * 7", "checks": [{"tools": ["calculator"]}, {"contains": ["42"]}, {"supersteps": 3}]},
    ],
}
SENDING = {
    "name": "sending",
    "turns": [
        {"say": "send hello to Ada", "checks": [{"approvals": ["send_message"]}]},
        {"decide": {"type": "approve"}, "checks": [{"tools": ["send_message"]}, {"contains": ["Ada"]}]},
    ],
}


@pytest.fixture(scope="module")
def planted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the reference agent, a sound one, and the same with one fault each."""
    outbox = tmp_path_factory.mktemp("outbox") / "outbox"
    with cluster.database() as url, Server(database_url=url, config=PLANTED, OUTBOX_PATH=str(outbox)) as running:
        yield running


Run = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def evaluated(planted: Server, tmp_path: Path) -> Run:
    """Run the command on an assistant: the exit status, and the report."""
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"version": 7, "conversations": [SUM, SENDING]}))

    def run(assistant: str, *arguments: str) -> tuple[int, dict[str, Any]]:
        file = tmp_path / f"{assistant}.json"
        common = ["--url", planted.url, "--assistant", assistant, "--mode", "offline", "--data", str(data)]
        status = main([*common, "--report", str(file), *arguments])
        return status, json.loads(file.read_text()) if file.exists() else {}

    return run


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in report["conversations"]}


def problems(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (each["name"], check["check"])
        for each in report["conversations"]
        for turn in each["turns"]
        for check in turn["checks"]
        if check["outcome"] == "failed"
    }


def test_O8_the_reference_agent_passes_the_whole_data_set(planted: Server, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    assert main(["--url", planted.url, "--report", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["passed"]
    assert (report["mode"], report["models"]) == ("offline", ["holdfast-offline-stand-in"])
    assert report["version"] == json.loads(CONVERSATIONS.read_text())["version"]
    assert len(report["conversations"]) >= 25


def test_O8_a_sound_agent_passes(evaluated: Run) -> None:
    status, report = evaluated("sound")
    assert (status, outcomes(report)) == (0, {"sum": "passed", "sending": "passed"})
    assert report["counts"] == {"passed": 2, "failed": 0, "error": 0}


@pytest.mark.parametrize(
    ("assistant", "found"),
    [
        ("wrong", {("sum", "contains")}),
        ("meddling", {("sum", "tools"), ("sending", "tools")}),
        ("careless", {("sending", "approvals"), ("sending", "tools")}),
        ("wordy", {("sum", "supersteps")}),
    ],
)
def test_O8_a_planted_fault_is_found(evaluated: Run, assistant: str, found: set[tuple[str, str]]) -> None:
    status, report = evaluated(assistant)
    assert status == 1
    assert found <= problems(report)
    assert not report["passed"]


def test_A19_a_conversation_that_breaks_off_stops_no_other(evaluated: Run) -> None:
    status, report = evaluated("broken")
    assert (status, outcomes(report)) == (1, {"sum": "error", "sending": "error"})
    assert all("RuntimeError" in each["error"] for each in report["conversations"])
    # Without approval there is no question, so that the answer to it cannot be given; the sum is none the worse.
    _, report = evaluated("careless")
    assert outcomes(report) == {"sum": "passed", "sending": "error"}
    assert "no question" in report["conversations"][1]["error"]


def test_O8_what_failed_is_kept_to_be_looked_at(evaluated: Run, planted: Server) -> None:
    _, report = evaluated("wrong")
    threads = {each["name"]: each["thread"] for each in report["conversations"]}
    with planted.http() as http:
        assert http.get(f"/threads/{threads['sum']}").status_code == 200
        assert http.get(f"/threads/{threads['sending']}").status_code == 404


def test_O8_repeated_and_chosen_conversations(evaluated: Run, capsys: pytest.CaptureFixture[str]) -> None:
    _, report = evaluated("sound", "--repeat", "3", "--only", "sum")
    assert [(each["name"], each["round"]) for each in report["conversations"]] == [("sum", 1), ("sum", 2), ("sum", 3)]
    said = capsys.readouterr().out
    assert "3 passed, 0 failed, 0 could not be played to their end" in said
    assert evaluated("sound", "--only", "no such")[0] == 2


def test_O8_a_regression_fails_although_it_is_within_the_budgets(evaluated: Run, tmp_path: Path) -> None:
    _, report = evaluated("sound")
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps(report))
    assert evaluated("sound", "--baseline", str(baseline))[0] == 0
    for each in report["conversations"]:
        each["supersteps"] //= 2
    baseline.write_text(json.dumps(report))
    assert evaluated("sound", "--only", "sending", "--baseline", str(baseline))[0] == 1


def a_report(**conversations: dict[str, Any]) -> dict[str, Any]:
    rows = [{"name": name, "tokens": 10, "supersteps": 3, **each} for name, each in conversations.items()]
    return {"version": 1, "mode": "offline", "models": ["a"], "conversations": rows}


def test_O8_a_report_is_compared_with_an_earlier_one() -> None:
    then = a_report(a={"outcome": "passed"}, b={"outcome": "failed"}, c={"outcome": "passed"})
    assert regressions(then, then) == []
    now = a_report(a={"outcome": "error"}, b={"outcome": "failed"})
    assert regressions(now, then) == ["a passed before", "c is not there any more"]
    assert regressions(now, then, partial=True) == ["a passed before"]
    dear = a_report(a={"outcome": "passed", "tokens": 13}, b={"outcome": "passed"}, c={"outcome": "passed"})
    assert regressions(dear, then) == ["a takes 13 tokens instead of 10"]
    assert regressions({**dear, "models": ["b"]}, then) == []


@pytest.mark.anyio
async def test_O8_no_more_conversations_at_once_than_allowed() -> None:
    under_way, most, gate = 0, 0, asyncio.Event()

    class Counting(Player):
        async def play(self, conversation: Conversation, number: int = 1) -> Result:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            if under_way == 3:
                gate.set()
            await gate.wait()
            under_way -= 1
            return Result(conversation.name, number)

    async with get_client(url="http://127.0.0.1:9") as client:
        played = await Counting(client, "agent").play_all([Conversation(name="a", turns=())], rounds=9, at_once=3)
    assert (most, [result.round for result in played]) == (3, list(range(1, 10)))


SEEN = Seen(
    answer="It is 42.",
    calls=[("calculator", {"expression": "6 * 7"}), ("lookup", {"query": "x", "limit": 2})],
    results=[("calculator", "success")],
    approvals=["send"],
    supersteps=3,
    seconds=1.5,
    tokens=100,
    usd=0.01,
)


@pytest.mark.parametrize(
    ("kind", "passing", "failing"),
    [
        ("tools", ["calculator", ["lookup", {"limit": 2}]], ["lookup", "calculator"]),
        ("tools", [["calculator", {"expression": "6*7"}], "lookup"], ["calculator"]),
        ("tools_in_any_order", ["lookup", "calculator"], ["lookup", "lookup"]),
        ("tools_in_any_order", ["calculator", ["lookup", {"limit": 2}]], ["calculator", ["lookup", {"limit": 3}]]),
        ("results", [["calculator", "success"]], [["calculator", "error"]]),
        ("approvals", ["send"], []),
        ("approvals", ["send"], ["send", "send"]),
        ("contains", ["it IS", "42"], ["42", "43"]),
        ("lacks", ["43"], ["42"]),
        ("any_of", ["43", "42"], ["43"]),
        ("matches", r"\d\d\.$", r"^\d"),
        ("supersteps", 3, 2),
        ("seconds", 2, 1),
        ("tokens", 100, 99),
        ("usd", 0.01, 0.001),
    ],
)
def test_O8_a_check_passes_and_fails(kind: str, passing: Any, failing: Any) -> None:
    assert Check(kind, passing).problem(SEEN) is None
    assert Check(kind, failing).problem(SEEN)


def test_O8_every_kind_of_check_is_used_by_the_data_set() -> None:
    used = {check.kind for each in read(CONVERSATIONS).conversations for turn in each.turns for check in turn.checks}
    assert used == set(KINDS)


def test_O8_what_nobody_mentions_must_not_happen() -> None:
    assert [check.kind for check in with_defaults([Check("contains", ["x"])])] == ["contains", "tools", "approvals"]
    mentioned = [Check("tools_in_any_order", ["x"]), Check("approvals", ["x"], "real")]
    assert with_defaults(mentioned) == mentioned


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"checks": [{"contians": ["42"]}]}, "a check has one of"),
        ({"checks": [{"contains": "42"}]}, "valid array"),
        ({"checks": [{"contains": ["42"], "only": "sometimes"}]}, "a check has one of"),
        ({"checks": [{"matches": "("}]}, "regular expression"),
        ({"decide": {"type": "approve"}}, "exactly one of"),
        ({"decide": {"type": "shrug"}, "say": None}, "approve"),
        ({"shout": "hello"}, "shout"),
    ],
)
def test_O8_a_data_set_with_a_slip_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    file = tmp_path / "data.json"
    turn = {"say": "what is 6 * 7", **change}
    file.write_text(json.dumps({"version": 1, "conversations": [{"name": "a", "turns": [turn]}]}))
    with pytest.raises(DataSetError, match=re.escape(reason)):
        read(file)


def test_O8_nothing_evaluated_is_no_success(
    planted: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    for wrong in (["--assistant", "nobody"], ["--data", str(tmp_path / "none.json")]):
        assert main(["--url", planted.url, "--report", str(file), *wrong]) == 2
        assert "nothing was evaluated" in capsys.readouterr().out
    assert not file.exists()


def test_O8_with_a_key_the_real_model_is_evaluated_and_priced(cluster: Cluster, llmock: Any, tmp_path: Path) -> None:
    # The greeting that tells who answers, and the conversation.
    llmock.reply("Good morning").reply("Good morning")
    file = tmp_path / "report.json"
    with own_server(cluster) as url:
        assert main(["--url", url, "--only", "budget: a greeting takes one superstep", "--report", str(file)]) == 0
    report = json.loads(file.read_text())
    assert (report["mode"], report["models"]) == ("real", ["gpt-4o-mini"])
    assert report["conversations"][0]["usd"] > 0
