"""The README's conversation, run as it stands there, with the kill in the middle."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.server import ROOT, Server

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_the_readmes_conversation_survives_a_kill_between_question_and_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = BLOCKS
    config = ROOT / "langgraph.json"
    with Server(config=config, data_dir=tmp_path / "data", OUTBOX_PATH=str(tmp_path / "outbox.sqlite3")) as server:
        said: dict[str, object] = {}
        exec(_here(first, server), said)
        server.kill()
        server.start()
        exec(_here(second, server), said)
        with server.http() as http:
            again = http.post(
                f"/threads/{said['thread']}/runs/wait",
                json={"assistant_id": "agent", "command": {"resume": said["decision"]}},
            )
        said["client"].http.client.close()  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "42" in printed
    assert "send_message" in printed
    assert "Sent to Ada" in printed
    assert again.status_code == 409


def _here(block: str, server: Server) -> str:
    return block.replace("http://127.0.0.1:2024", server.url)
