"""The drawing of the agent in docs/agent.md; `python -m tests.graph.drawing` draws it anew."""

from __future__ import annotations

from pathlib import Path

from graph.agent import build

DOCUMENT = Path(__file__).parents[2] / "docs" / "agent.md"
BEGINNING = "<!-- drawing: python -m tests.graph.drawing -->\n"
END = "<!-- end of drawing -->"


def drawn(document: str) -> str:
    """`document` with the agent's graph as it is now between the two marks."""
    before, _, rest = document.partition(BEGINNING)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError("the marks of the drawing are not there")
    drawing = build().compile().get_graph().draw_mermaid().rstrip()
    return f"{before}{BEGINNING}```mermaid\n{drawing}\n```\n{end}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(drawn(DOCUMENT.read_text()))
