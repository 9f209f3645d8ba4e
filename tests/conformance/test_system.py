"""Health, identity, CORS, and the conventions that hold for every route."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.support.server import Server
from tests.support.talk import new_thread, refused

STUDIO = "https://smith.langchain.com"


@pytest.mark.requirement("system.ok")
@pytest.mark.parametrize("path", ["/ok", "/", pytest.param("/health", marks=pytest.mark.requirement("system.health"))])
def test_the_process_says_that_it_is_alive(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "services": {}})


@pytest.mark.requirement("system.ready")
def test_the_process_says_that_each_part_of_it_is_ready(http: httpx.Client) -> None:
    answer = http.get("/ready")
    assert (answer.status_code, answer.json()["ok"]) == (200, True)
    assert answer.json()["services"] == dict.fromkeys(("database", "schema", "pool", "worker"), "healthy")


@pytest.mark.requirement("system.check_db")
def test_health_can_include_the_database(http: httpx.Client) -> None:
    assert http.get("/ok", params={"check_db": 0}).json() == {"ok": True, "services": {}}
    answer = http.get("/ok", params={"check_db": 1})
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "services": {"database": "healthy"}})
    for wrong in ("2", "true", ""):
        refused(http.get("/ok", params={"check_db": wrong}), 400)


@pytest.mark.requirement("system.slashes")
def test_a_trailing_slash_leads_to_the_url_without_it(http: httpx.Client, server: Server) -> None:
    for path in ("/threads", "/threads/search"):
        answer = http.post(f"{path}/", json={})
        assert (answer.status_code, answer.headers["location"]) == (307, f"{server.url}{path}")
    refused(http.get("/nowhere/"), 404)


@pytest.mark.requirement("system.slashes_of_meta")
def test_a_trailing_slash_of_health_and_info_does_no_harm(http: httpx.Client) -> None:
    for path in ("/ok", "/info"):
        assert http.get(f"{path}/", follow_redirects=True).status_code == 200


@pytest.mark.requirement("system.info")
def test_info_carries_a_version_that_studio_accepts_and_honest_flags(http: httpx.Client) -> None:
    info = http.get("/info").json()
    assert tuple(int(part) for part in info["version"].split(".")) >= (0, 4, 35)
    assert info["flags"]["assistants"] is True
    assert info["flags"]["langsmith"] is False
    assert info["host"]["kind"] == "self-hosted"
    assert info["langgraph_py_version"].startswith("1.")


@pytest.mark.requirement("system.unknown_routes")
def test_an_unknown_route_and_a_wrong_method_have_the_contracts_bodies(http: httpx.Client) -> None:
    assert refused(http.get("/nowhere"), 404) == "Not Found"
    wrong = http.put("/threads")
    assert refused(wrong, 405) == "Method Not Allowed"
    assert "POST" in wrong.headers["allow"]
    # The JS SDK has a method for this one; the official server does not answer it either.
    refused(http.patch(f"/threads/{new_thread(http)}/state", json={}), 405)


@pytest.mark.requirement("system.docs_at_home")
def test_the_page_of_the_documentation_loads_nothing_from_elsewhere(http: httpx.Client) -> None:
    loaded = re.findall(r'(?:src|href)="([^"]+)"', http.get("/docs").text)
    assert loaded
    for address in loaded:
        assert address.startswith("/docs/")
        assert http.get(address).status_code == 200


@pytest.mark.requirement("system.docs")
def test_the_documents_of_the_api_are_served(http: httpx.Client) -> None:
    assert http.get("/docs").headers["content-type"].startswith("text/html")
    document = http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert "/threads/{thread_id}/runs/stream" in document["paths"]


@pytest.mark.requirement("system.bodies")
@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "text/plain;charset=UTF-8", None])
def test_a_body_is_json_whatever_its_content_type(http: httpx.Client, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    body = b'{"limit": 10, "offset": 0, "metadata": {"created_by": "system"}}'
    answer = http.post("/assistants/search", content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json()[0]["metadata"] == {"created_by": "system"}
    created = http.post("/threads", content=b'{"metadata": {"a": 1}, "unknown_field": 1}', headers=headers)
    assert created.json()["metadata"] == {"a": 1}


@pytest.mark.requirement("system.cors")
@pytest.mark.parametrize("private_network", [True, False])
@pytest.mark.parametrize("origin", [STUDIO, "http://localhost:3000"])
def test_a_browser_may_ask_from_anywhere(http: httpx.Client, origin: str, private_network: bool) -> None:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-api-key,x-auth-scheme,authorization,last-event-id",
    }
    if private_network:
        headers["Access-Control-Request-Private-Network"] = "true"
    answer = http.options("/threads/search", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] in ("*", origin)
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert {"content-type", "x-api-key", "authorization", "last-event-id"} <= allowed
    if private_network:
        assert answer.headers["access-control-allow-private-network"] == "true"


@pytest.mark.requirement("system.cors_exposed")
def test_a_browser_may_read_what_it_needs_to_reconnect(http: httpx.Client) -> None:
    thread = new_thread(http)
    run = {"assistant_id": "steps", "input": {}}
    answers = [
        http.post(f"/threads/{thread}/runs/stream", json=run, headers={"Origin": STUDIO}),
        http.post("/threads/search", json={}, headers={"Origin": STUDIO}),
    ]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed >= {"content-location", "location", "x-pagination-next", "x-pagination-total"}


@pytest.mark.requirement("system.cors")
def test_a_browser_may_read_errors_too(http: httpx.Client) -> None:
    answer = http.get("/threads/nonsense", headers={"Origin": STUDIO})
    refused(answer, 422)
    assert answer.headers["access-control-allow-origin"] == "*"
