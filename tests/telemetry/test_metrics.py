"""What `GET /metrics` says of a working server, and that rules and dashboard ask for nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from holdfast.telemetry.metrics import DIRECTORY, forget
from tests.conftest import PROJECT
from tests.support.proxy import Proxy
from tests.support.receiver import Receiver
from tests.support.server import ROOT, Server, with_sections
from tests.support.talk import new_thread, start, stream, until, until_running, wait

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "holdfast.json"
_NAME = re.compile(r"\b(?:holdfast|agent|process)_[a-z0-9_]+\b")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(url: str) -> Samples:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").raise_for_status().text)
    return {(each.name, frozenset(each.labels.items())): each.value for family in families for each in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum over what has that name and those labels."""
    return sum(
        number for (known, has), number in samples.items() if known == name and labels.items() <= dict(has).items()
    )


@pytest.fixture
def server(database_url: str) -> Iterator[Server]:
    with Server(config=PROJECT, database_url=database_url) as running:
        yield running


def test_O2_runs_are_counted_by_graph_and_status_and_timed(server: Server) -> None:
    with server.http(timeout=30) as http:
        for _ in range(3):
            wait(http, new_thread(http), "steps", input={"log": [], "count": 1})
        wait(http, new_thread(http), "failing", input={"log": []})
        stream(http, new_thread(http), "steps", input={"log": [], "count": 1})
        seen = scraped(server.url)
        assert value(seen, "holdfast_runs_ended_total", graph="steps", status="success") == 4
        assert value(seen, "holdfast_runs_ended_total", graph="failing", status="error") == 1
        assert value(seen, "holdfast_run_seconds_count", graph="steps") == 4
        assert value(seen, "holdfast_run_wait_seconds_count", graph="steps") == 4
        assert value(seen, "holdfast_http_requests_total", path="/threads/{thread_id}/runs/wait", status="200") == 4
        assert value(seen, "holdfast_http_request_seconds_count", path="/threads/{thread_id}/runs/wait") == 4
        assert value(seen, "holdfast_stream_first_event_seconds_count", path="/threads/{thread_id}/runs/stream") == 1
        assert value(seen, "holdfast_http_request_seconds_count", path="/threads/{thread_id}/runs/stream") == 0


def test_O2_what_goes_on_is_a_gauge_that_comes_down_again(server: Server) -> None:
    with server.http(timeout=30) as http:
        thread = new_thread(http)
        run = start(http, thread, "steps", input={"log": [], "count": 1, "pause": 60})
        until_running(http, thread, run)
        assert value(scraped(server.url), "holdfast_runs_executing") == 1
        http.post(f"/threads/{thread}/runs/{run}/cancel", params={"wait": "true"}).raise_for_status()
        until(lambda: value(scraped(server.url), "holdfast_runs_executing") == 0, "none is executed any more")
        assert value(scraped(server.url), "holdfast_runs_ended_total", status="interrupted") == 1


def test_O2_questions_that_wait_for_a_human_are_counted(server: Server) -> None:
    with server.http(timeout=30) as http:
        assert value(scraped(server.url), "holdfast_approvals_pending") == 0
        wait(http, new_thread(http), "approve", input={"log": []})
        until(lambda: value(scraped(server.url), "holdfast_approvals_pending") == 1, "it is there")
        assert value(scraped(server.url), "holdfast_approval_oldest_seconds") > 0


def test_O2_runs_of_a_dead_worker_are_counted_where_they_are_taken_over(database_url: str) -> None:
    with (
        Server(config=PROJECT, database_url=database_url) as dies,
        Server(config=PROJECT, database_url=database_url) as lives,
    ):
        with dies.http(timeout=30) as http:
            thread = new_thread(http)
            run = start(http, thread, "steps", input={"log": [], "count": 3, "pause": 1.0})
            until_running(http, thread, run)
        dies.kill()
        until(lambda: value(scraped(lives.url), "holdfast_runs_taken_over_total") == 1, "it was taken over")
        until(
            lambda: value(scraped(lives.url), "holdfast_run_further_attempts_total", graph="steps") == 1, "it goes on"
        )


def test_O2_figures_are_there_while_the_database_is_not(database_url: str) -> None:
    with Proxy(database_url) as proxy, Server(config=PROJECT, database_url=proxy.url) as server:
        assert value(scraped(server.url), "holdfast_database_up") == 1
        proxy.cut(refuse=True)
        until(lambda: value(scraped(server.url), "holdfast_database_up") == 0, "it says so")
        assert value(scraped(server.url), "holdfast_build_info") == 1


def test_O2_several_processes_tell_of_all_whichever_answers(database_url: str) -> None:
    with Server(config=PROJECT, database_url=database_url, processes=2) as server:
        runs = 12
        for _ in range(runs):
            with server.http(timeout=30) as http:  # a connection each, which the kernel deals out
                wait(http, new_thread(http), "steps", input={"log": [], "count": 1})
        for _ in range(8):
            assert value(scraped(server.url), "holdfast_runs_ended_total", graph="steps") == runs
            assert as_json(server.url, "/threads/{thread_id}/runs/wait") == runs
        [one, *_] = sorted(server.siblings)
        subprocess.run(["kill", "-9", str(one)], check=True)
        until(lambda: len(server.siblings - {one}) == 2, "another one is there", 60.0)
        until(lambda: value(scraped(server.url), "holdfast_workers_alive") == 2, "it is at work", 60.0)
        assert value(scraped(server.url), "holdfast_runs_ended_total", graph="steps") == runs, "the dead count, too"


def as_json(url: str, path: str) -> int:
    """How many requests the JSON form counts."""
    counted = httpx.get(f"{url}/metrics", params={"format": "json"}).raise_for_status().json()["api"]
    return sum(each["count"] for each in counted["http_requests_total"] if each["path"] == path)


def test_O2_what_is_committed_and_logged_is_counted(server: Server) -> None:
    with server.http(timeout=30) as http:
        before = scraped(server.url)
        for _ in range(3):
            stream(http, new_thread(http), "steps", input={"log": [], "count": 2})
        seen = scraped(server.url)
    for group in ("saves", "ends", "admissions"):
        members = value(seen, "holdfast_group_commit_members_sum", group=group)
        assert members >= value(seen, "holdfast_group_commit_seconds_count", group=group) > 0, group
    said = value(seen, "holdfast_events_total") - value(before, "holdfast_events_total")
    assert said >= 3 * 3, "metadata and what two steps left, of each run"
    assert 3 <= value(seen, "holdfast_event_blocks_total") <= said
    assert value(seen, "holdfast_event_bytes_total") > said
    assert value(seen, "holdfast_stream_seconds_count", path="/threads/{thread_id}/runs/stream") == 3


def test_O2_tries_to_deliver_are_counted_by_what_came_of_them(database_url: str, tmp_path: Path) -> None:
    config = with_sections(PROJECT, tmp_path, webhooks={"url": {"disable_loopback": False}})
    tries, answers = "holdfast_webhook_tries_total", {"/takes": 200, "/refuses": 400, "/cannot-now": 503}
    with (
        Server(config=config, database_url=database_url) as server,
        server.http(timeout=30) as http,
        Receiver(status=lambda call: answers[call.path]) as receiver,
    ):
        never = (tries, frozenset({("kind", "alert"), ("outcome", "given_up")}))
        assert never in scraped(server.url), "of a series that begins with 1 Prometheus sees no increase"
        for path in answers:
            wait(http, new_thread(http), "steps", input={"log": [], "count": 1}, webhook=receiver.url + path)
        until(lambda: value(scraped(server.url), tries, outcome="delivered") == 1, "one is taken")
        until(lambda: value(scraped(server.url), tries, outcome="given_up") == 1, "one is refused")
        until(lambda: value(scraped(server.url), tries, outcome="postponed") >= 1, "one comes again")
        until(
            lambda: value(scraped(server.url), "holdfast_webhooks_failed") == 1, "the refused one is there, to be seen"
        )
        assert value(scraped(server.url), "holdfast_webhooks_waiting") == 1


def test_O2_the_processes_of_a_server_take_up_more_than_one_does(database_url: str) -> None:
    memory = "holdfast_process_memory_bytes"
    with Server(config=PROJECT, database_url=database_url) as alone:
        seen = scraped(alone.url)
        assert value(seen, "holdfast_process_cpu_seconds_total") > 0
        one = value(seen, memory)
        assert one > 2**20
    with Server(config=PROJECT, database_url=database_url, processes=2) as several:
        until(lambda: value(scraped(several.url), memory) > 1.5 * one, "it is that of both")


def test_O2_the_breaker_of_a_process_that_died_is_not_open_any_more(tmp_path: Path) -> None:
    opens = "import os; from graph.metrics import BREAKER_STATE as s; s.labels('large').set(2); print(os.getpid())"
    environment = {**os.environ, DIRECTORY: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", opens], cwd=ROOT, env=environment, capture_output=True, check=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]
    assert registry.get_sample_value("agent_breaker_state", {"endpoint": "large"}) == 2
    forget(int(done.stdout), str(tmp_path))
    assert registry.get_sample_value("agent_breaker_state", {"endpoint": "large"}) is None


def test_O7_rules_and_dashboard_ask_for_figures_that_a_server_has(database_url: str) -> None:
    with Server(config=ROOT / "langgraph.json", database_url=database_url) as server, server.http(timeout=30) as http:
        said = {"messages": [{"role": "user", "content": "what is 6 * 7"}]}
        wait(http, new_thread(http), "agent", input=said)
        stream(http, new_thread(http), "agent", input=said)
        text = until(lambda: with_gauges(server.url), "gauges and storage are there", 90.0)
    known = set(_NAME.findall(text))
    # Counters have a `_total` and appear with their first label; those of a cache only with one.
    asked = set(_NAME.findall(RULES.read_text())) | {
        name for target in targets() for name in _NAME.findall(target["expr"])
    }
    assert asked - known - {"agent_cache_lookups_total", "holdfast_run_further_attempts_total"} == set()


def with_gauges(url: str) -> str:
    text = httpx.get(f"{url}/metrics").text
    return text if "holdfast_largest_thread_bytes{" in text and "holdfast_pool_connections{" in text else ""


def targets() -> list[dict[str, str]]:
    return [target for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", [])]


@pytest.fixture(scope="module")
def promtool() -> str:
    """Debian's."""
    if shutil.which("promtool") is None:
        if shutil.which("apt-get") is None:
            pytest.skip("promtool comes from Debian's package prometheus, and this is no Debian")
        subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
        subprocess.run(["apt-get", "install", "-q", "-y", "prometheus"], check=True, capture_output=True)
    return str(shutil.which("promtool"))


def test_O6_the_alert_rules_load_and_fire_when_they_should(promtool: str) -> None:
    for words in (["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]):
        done = subprocess.run([promtool, *words], cwd=RULES.parent, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_O7_every_query_of_the_dashboard_is_one(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"q{number}", "expr": target["expr"].replace("$__rate_interval", "5m")}
        for number, target in enumerate(targets())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) > 20


def test_every_alert_says_what_to_do() -> None:
    recipes = (ROOT / "docs" / "operations.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall("^#+ (.*)$", recipes, re.M)
    }
    named = set(re.findall(r"docs/operations\.md#([a-z0-9-]+)", RULES.read_text()))
    assert named
    assert named <= anchors
