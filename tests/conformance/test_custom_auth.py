"""A project's own authentication and authorization, with the official SDK against a server that uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import AuthenticationError, NotFoundError

from holdfast.db.assistants import system_assistant_id
from tests.support.postgres import Cluster
from tests.support.server import Server, refusal_to_start
from tests.support.talk import get_thread, join, new_thread, parse, refused, start, stream, wait

AUTH = Path(__file__).parents[1] / "support" / "auth"
SECRET = "ada-upstream-secret"
ALL_MODES = ["values", "updates", "messages", "custom", "tasks", "checkpoints", "debug", "events"]


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Iterator[Server]:
    """A server whose project filters by owner."""
    with cluster.database() as url, Server(database_url=url, config=AUTH / "filtered.json") as running:
        yield running


def _client(guarded: Server, key: str) -> httpx.Client:
    return guarded.http(headers={"authorization": f"Bearer {key}"}, timeout=30)


@pytest.fixture(scope="module")
def ada(guarded: Server) -> Iterator[httpx.Client]:
    with _client(guarded, "key-a") as client:
        yield client


@pytest.fixture(scope="module")
def bob(guarded: Server) -> Iterator[httpx.Client]:
    with _client(guarded, "key-b") as client:
        yield client


@pytest.fixture(scope="module")
def root(guarded: Server) -> Iterator[httpx.Client]:
    with _client(guarded, "key-admin") as client:
        yield client


@pytest.mark.requirement("custom.authenticate")
@pytest.mark.anyio
async def test_the_sdk_comes_in_as_whom_the_project_says(guarded: Server) -> None:
    async with get_client(url=guarded.url, headers={"Authorization": "Bearer key-a"}) as mine:
        thread = await mine.threads.create()
        assert thread["metadata"] == {"owner": "ada"}
        run = await mine.runs.wait(thread["thread_id"], "whoami", input={})  # type: ignore[call-overload]
        assert run == {"identity": "ada", "token_length": len(SECRET), "permissions": ["write"]}
    async with get_client(url=guarded.url, headers={"Authorization": "Bearer key-b"}) as other:
        with pytest.raises(NotFoundError):
            await other.threads.get(thread["thread_id"])
    async with get_client(url=guarded.url, api_key=None) as nobody:
        with pytest.raises(AuthenticationError, match="Who are you"):
            await nobody.threads.search()


@pytest.mark.requirement("custom.authenticate")
def test_the_projects_refusal_is_answered_as_it_was_raised(guarded: Server) -> None:
    with guarded.http() as nobody:
        answer = nobody.post("/threads", json={})
    assert refused(answer, 401) == "Who are you?"
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.requirement("custom.no_studio_bypass")
@pytest.mark.parametrize("scheme", ["langsmith", "langsmith-api-key", "noop"])
def test_studios_scheme_opens_nothing(guarded: Server, scheme: str) -> None:
    headers = {"x-auth-scheme": scheme, "x-api-key": "lsv2_pt_x", "x-tenant-id": "t", "x-user-id": "u"}
    with guarded.http(headers=headers) as studio:
        refused(studio.post("/assistants/search", json={}), 401)
        refused(studio.post("/threads", json={}), 401)
        assert studio.get("/info").status_code == 200


@pytest.mark.requirement("custom.open_routes")
@pytest.mark.parametrize("path", ["/", "/ok", "/info", "/docs", "/openapi.json", "/metrics"])
def test_health_identity_and_documents_ask_nobody(guarded: Server, path: str) -> None:
    with guarded.http() as nobody:
        assert nobody.get(path).status_code == 200


# --- authorization ---


@pytest.mark.requirement("custom.filters")
def test_a_filter_decides_what_is_found_counted_and_changed(ada: httpx.Client, bob: httpx.Client) -> None:
    mine = new_thread(ada, metadata={"topic": "filters"})
    theirs = new_thread(bob, metadata={"topic": "filters"})
    terms = {"metadata": {"topic": "filters"}}
    assert [row["thread_id"] for row in ada.post("/threads/search", json=terms).json()] == [mine]
    assert bob.post("/threads/count", json=terms).json() == 1
    refused(bob.patch(f"/threads/{mine}", json={"metadata": {"x": 1}}), 404)
    assert ada.patch(f"/threads/{mine}", json={"metadata": {"x": 1}}).json()["metadata"]["x"] == 1
    assert get_thread(bob, theirs)["metadata"] == {"topic": "filters", "owner": "bob"}


@pytest.mark.requirement("custom.filters")
def test_nobody_gives_a_row_away_or_takes_one(ada: httpx.Client, bob: httpx.Client) -> None:
    assert ada.post("/threads", json={"metadata": {"owner": "bob"}}).json()["metadata"] == {"owner": "ada"}
    mine = new_thread(ada)
    assert refused(ada.patch(f"/threads/{mine}", json={"metadata": {"owner": "bob"}}), 403) == "Forbidden"
    assert get_thread(ada, mine)["metadata"] == {"owner": "ada"}


@pytest.mark.requirement("custom.filters")
def test_a_thread_that_comes_with_a_run_belongs_to_its_maker(ada: httpx.Client, bob: httpx.Client) -> None:
    kept = {"assistant_id": "steps", "input": {"count": 1}, "on_completion": "keep"}
    answer = ada.post("/runs/wait", json={**kept, "metadata": {"owner": "bob"}})
    assert answer.json() == {"log": [0], "count": 1}
    thread = answer.headers["content-location"].split("/")[2]
    assert get_thread(ada, thread)["metadata"]["owner"] == "ada"
    refused(bob.get(f"/threads/{thread}"), 404)
    body = {"assistant_id": "steps", "input": {"count": 1}, "config": {"metadata": {"owner": "bob"}}}
    streamed = ada.post("/runs/stream", json={**body, "stream_mode": "values"})
    assert parse(streamed.content)[-1].data["log"] == [0]


@pytest.mark.requirement("custom.answers")
def test_true_shows_an_admin_everything(ada: httpx.Client, root: httpx.Client) -> None:
    thread = new_thread(ada)
    run = start(root, thread, "steps", input={"count": 1})
    assert join(root, thread, run)["log"] == [0]
    assert ada.get(f"/threads/{thread}/runs/{run}").json()["status"] == "success"
    assert root.delete(f"/threads/{thread}").status_code == 204


@pytest.mark.requirement("custom.answers")
def test_false_is_forbidden_and_starts_nothing(ada: httpx.Client, root: httpx.Client) -> None:
    hidden = str(system_assistant_id("hidden"))
    assert refused(ada.get(f"/assistants/{hidden}"), 403) == "Forbidden"
    thread = new_thread(ada)
    for name in ("hidden", hidden):
        assert refused(ada.get(f"/assistants/{name}/schemas"), 403) == "Forbidden"
        for path in (f"/threads/{thread}/runs", f"/threads/{thread}/runs/wait", "/runs/stream", "/runs/wait"):
            assert refused(ada.post(path, json={"assistant_id": name, "input": {}}), 403) == "Forbidden"
    assert ada.get(f"/threads/{thread}/runs").json() == []
    assert root.get(f"/assistants/{hidden}").status_code == 200


@pytest.mark.requirement("custom.system_assistants")
def test_the_projects_own_assistants_are_everybodys_to_read(ada: httpx.Client, bob: httpx.Client) -> None:
    assert {row["graph_id"] for row in ada.post("/assistants/search", json={}).json()} >= {"steps", "whoami"}
    assert bob.get("/assistants/steps/graph").status_code == 200


@pytest.mark.requirement("custom.default_deny")
def test_without_a_handler_everybody_has_their_own(cluster: Cluster) -> None:
    with (
        cluster.database() as url,
        Server(database_url=url, config=AUTH / "bare.json") as running,
        _client(running, "key-a") as ada,
        _client(running, "key-b") as bob,
    ):
        mine = new_thread(ada)
        assert get_thread(ada, mine)["metadata"] == {}
        refused(bob.get(f"/threads/{mine}"), 404)
        assert bob.post("/threads/search", json={}).json() == []
        assert wait(bob, new_thread(bob), "steps", input={"count": 1})["log"] == [0]


# --- the store, crons, other doors ---


@pytest.mark.requirement("custom.namespaces")
@pytest.mark.anyio
async def test_a_handler_moves_every_namespace_into_its_users_own(guarded: Server) -> None:
    async with (
        get_client(url=guarded.url, headers={"Authorization": "Bearer key-a"}) as mine,
        get_client(url=guarded.url, headers={"Authorization": "Bearer key-b"}) as theirs,
    ):
        await mine.store.put_item(["notes"], "k", {"text": "ada's"})
        assert (await mine.store.get_item(["notes"], "k"))["namespace"] == ["ada", "notes"]
        assert (await mine.store.search_items(["notes"]))["items"][0]["value"] == {"text": "ada's"}
        assert (await mine.store.list_namespaces())["namespaces"] == [["ada", "notes"]]
        for place in (["notes"], ["ada", "notes"]):
            assert await theirs.store.get_item(place, "k") is None
            await theirs.store.delete_item(place, "k")
            assert (await theirs.store.search_items(place))["items"] == []
        assert (await theirs.store.search_items([]))["items"] == []
        assert (await theirs.store.list_namespaces())["namespaces"] == []
        assert await mine.store.get_item(["notes"], "k") is not None
        await mine.store.delete_item(["notes"], "k")
        assert await mine.store.get_item(["notes"], "k") is None


@pytest.mark.requirement("custom.namespaces")
def test_a_namespace_in_a_query_is_read_once(ada: httpx.Client, bob: httpx.Client) -> None:
    assert ada.put("/store/items", json={"namespace": ["n"], "key": "k", "value": {"a": 1}}).status_code == 204
    for namespace in ("namespace=n", "namespace=x&namespace=n", "namespace=ada.n", "namespace=..ada.n"):
        answer = bob.get(f"/store/items?{namespace}&key=k")
        assert answer.status_code >= 400 or answer.json() is None
    assert ada.get("/store/items?namespace=n&key=k").json()["value"] == {"a": 1}


@pytest.mark.requirement("custom.default_deny")
def test_without_a_handler_the_store_is_closed(cluster: Cluster) -> None:
    with (
        cluster.database() as url,
        Server(database_url=url, config=AUTH / "bare.json") as running,
        _client(running, "key-a") as ada,
    ):
        refused(ada.put("/store/items", json={"namespace": ["n"], "key": "k", "value": {}}), 403)
        refused(ada.get("/store/items?namespace=n&key=k"), 403)
        refused(ada.request("DELETE", "/store/items", json={"namespace": ["n"], "key": "k"}), 403)
        refused(ada.post("/store/items/search", json={"namespace_prefix": []}), 403)
        refused(ada.post("/store/namespaces", json={}), 403)


@pytest.mark.requirement("custom.user_in_graph")
def test_a_cron_works_for_whoever_made_it(ada: httpx.Client, bob: httpx.Client) -> None:
    thread = new_thread(ada)
    body = {"assistant_id": "whoami", "input": {}, "schedule": "* * * * *"}
    refused(bob.post(f"/threads/{thread}/runs/crons", json=body), 404)
    refused(ada.post("/runs/crons", json={**body, "assistant_id": "hidden"}), 403)
    made = ada.post(f"/threads/{thread}/runs/crons", json=body)
    assert made.status_code == 200, made.text
    assert SECRET not in made.text
    cron = made.json()["cron_id"]
    refused(bob.get(f"/runs/crons/{cron}"), 404)
    assert bob.post("/runs/crons/search", json={}).json() == []
    assert ada.delete(f"/runs/crons/{cron}").status_code == 204


@pytest.mark.requirement("custom.answers")
def test_mcp_and_a2a_ask_the_same_handlers(ada: httpx.Client, bob: httpx.Client, guarded: Server) -> None:
    def called(name: str, client: httpx.Client) -> dict[str, Any]:
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": {}}}
        answer = client.post("/mcp", json=message, headers={"accept": "application/json, text/event-stream"})
        answered: dict[str, Any] = answer.json()
        return answered

    assert "ada" in str(called("whoami", ada)["result"])
    assert "result" not in called("hidden", ada)
    with guarded.http() as nobody:
        refused(nobody.post("/mcp", json={}), 401)
        refused(nobody.post("/a2a/whoami", json={}), 401)
    task = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
    assert bob.post("/a2a/whoami", json=task).json()["result"].get("tasks", []) == []


# --- the user in the graph ---


@pytest.mark.requirement("custom.user_in_graph")
def test_a_factory_is_told_for_whom_it_makes_the_graph(ada: httpx.Client, bob: httpx.Client) -> None:
    for client, name in ((ada, "ada"), (bob, "bob")):
        thread = new_thread(client)
        assert wait(client, thread, "made_for", input={})["by_factory"] == name
        assert client.get(f"/threads/{thread}/state").json()["values"]["by_factory"] == name


@pytest.mark.requirement("custom.user_is_not_shown")
def test_what_authentication_said_is_shown_to_no_client(ada: httpx.Client, guarded: Server) -> None:
    thread = new_thread(ada)
    events = stream(
        ada, thread, "whoami", input={}, stream_mode=ALL_MODES, stream_subgraphs=True, stream_resumable=True
    )
    run = events[0].data["run_id"]
    paths = ["", "/state", "/history?limit=100", "/runs", f"/runs/{run}", f"/runs/{run}/join"]
    shown = [ada.get(f"/threads/{thread}{path}").text for path in paths]
    shown += [event.raw.decode() for event in events]
    replayed = ada.get(f"/threads/{thread}/runs/{run}/stream", headers={"last-event-id": "-1"})
    shown += [replayed.text, guarded.log]
    assert len(replayed.text) > 1000
    assert not [text for text in shown if SECRET in text or 'langgraph_auth_user"' in text or "key-a" in text]


@pytest.mark.requirement("custom.user_in_graph")
def test_another_process_knows_for_whom_it_runs(cluster: Cluster) -> None:
    config = AUTH / "filtered.json"
    with (
        cluster.database() as url,
        Server(database_url=url, config=config, part="api") as api,
        _client(api, "key-a") as ada,
    ):
        thread = new_thread(ada)
        run = start(ada, thread, "whoami", input={})
        assert ada.get(f"/threads/{thread}/runs/{run}").json()["status"] == "pending"
        with Server(database_url=url, config=config, part="worker"):
            seen: Any = join(ada, thread, run)
    assert seen == {"identity": "ada", "token_length": len(SECRET), "permissions": ["write"]}


# --- what cannot be served ---


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("auth = 1", "auth.py:1: must be a langgraph_sdk.Auth, not int"),
        ("from langgraph_sdk import Auth\nauth = Auth()", "auth.py:2: has no @auth.authenticate function"),
        ("import nowhere_at_all", "auth.py:1: No module named 'nowhere_at_all'"),
        ("other = 1", "there is no 'auth' in it"),
    ],
)
@pytest.mark.requirement("custom.refuses_to_start")
def test_an_auth_that_does_not_load_is_no_open_door(
    database_url: str, tmp_path: Path, source: str, problem: str
) -> None:
    (tmp_path / "auth.py").write_text(source + "\n")
    graph = AUTH.parent / "project" / "graphs.py"
    config = tmp_path / "langgraph.json"
    config.write_text(f'{{"graphs": {{"steps": "{graph}:steps"}}, "auth": {{"path": "./auth.py:auth"}}}}')
    assert problem in refusal_to_start(config, database_url)
