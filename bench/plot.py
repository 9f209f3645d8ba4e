"""Two panels as SVG: runs a second (`wait`) and events a second (`stream`) over the number of clients."""

from __future__ import annotations

from collections.abc import Sequence

from bench.figures import Window, medians

WIDTH, HEIGHT, MARGIN = 420, 260, 50
COLOURS = {"holdfast": "#0b6e4f", "handrolled": "#c1666b", "official": "#4281a4", "aegra": "#d4a72c"}
PANELS = (("wait", "rate", "runs/s"), ("stream", "events_per_s", "events/s"))


def plotted(windows: Sequence[Window]) -> str:
    """The plot, with empty panels for what was not measured."""
    panels = [
        f'<g transform="translate({number * WIDTH},0)">{_panel(windows, *panel)}</g>'
        for number, panel in enumerate(PANELS)
    ]
    size = f'width="{len(PANELS) * WIDTH}" height="{HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12" fill="#333"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{"".join(panels)}</svg>\n'


def _panel(windows: Sequence[Window], scenario: str, figure: str, unit: str) -> str:
    lines = _lines([window for window in windows if window.scenario == scenario], figure)
    places = sorted({clients for points in lines.values() for clients in points})
    top = max((value for points in lines.values() for value in points.values()), default=1.0) * 1.05

    def x(clients: int) -> float:
        return MARGIN + places.index(clients) * (WIDTH - 2 * MARGIN) / max(1, len(places) - 1)

    def y(value: float) -> float:
        return HEIGHT - MARGIN - value / top * (HEIGHT - 2 * MARGIN)

    base, right = HEIGHT - MARGIN, WIDTH - MARGIN
    drawn = [f'<text x="{MARGIN}" y="20">{scenario}: {unit} over clients</text>']
    drawn.append(f'<path d="M{MARGIN},{MARGIN}V{base}H{right}" stroke="#999" fill="none"/>')
    drawn += [f'<text x="{x(place):.0f}" y="{base + 16}" text-anchor="middle">{place}</text>' for place in places]
    drawn.append(f'<text x="{MARGIN - 4}" y="{MARGIN + 4}" text-anchor="end">{top:,.0f}</text>')
    for number, (server, points) in enumerate(lines.items()):
        colour = COLOURS.get(server, "#555")
        path = " ".join(f"{x(clients):.1f},{y(points[clients]):.1f}" for clients in sorted(points))
        drawn.append(f'<polyline points="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        drawn.append(f'<text x="{MARGIN + 90 * number}" y="{HEIGHT - 12}" fill="{colour}">{server}</text>')
    return "".join(drawn)


def _lines(windows: Sequence[Window], figure: str) -> dict[str, dict[int, float]]:
    """By server: the number of clients, and the median there."""
    found: dict[str, dict[int, float]] = {}
    for window in windows:
        same = [other.figures for other in windows if (other.case, other.server) == (window.case, window.server)]
        found.setdefault(window.server, {})[int(window.case.split()[0])] = medians(same)[figure]
    return found
