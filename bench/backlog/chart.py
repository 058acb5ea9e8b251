"""Memory over the drain of a backlog, as an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 820, 360, 62, 46, 150, 44
COLOURS = ("#1f6f8b", "#c8553d", "#5a8f29", "#7a5195")


def memory(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """`lines`: name → (share done from 0 to 1, MiB)."""
    top = 50 * (1 + int(max((mib for points in lines.values() for _, mib in points), default=0)) // 50)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(share: float, mib: float) -> str:
        return f"{LEFT + share * wide:.1f},{TOP + high - mib / top * high:.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="22" font-size="14" fill="#222">{escape(title)}</text>',
    ]
    for step in range(5):
        mib = top * step / 4
        y = TOP + high - mib / top * high
        parts.append(f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{mib:.0f}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = LEFT + share * wide
        parts.append(f'<text x="{x:.1f}" y="{TOP + high + 18}" text-anchor="middle" fill="#555">{share:.0%}</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 8}" fill="#555">MiB resident</text>')
    parts.append(
        f'<text x="{LEFT + wide / 2:.0f}" y="{HEIGHT - 8}" text-anchor="middle" fill="#555">of the backlog done</text>'
    )
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        shown = points[:: max(1, len(points) // 400)]
        path = " ".join(place(share, mib) for share, mib in shown)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        parts.append(f'<text x="{LEFT + wide + 12}" y="{TOP + 16 + 20 * number}" fill="{colour}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>\n"])
