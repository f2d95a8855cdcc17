"""The chain of trust as a drawing: who signed whom, from the roots at the top to what was signed last.

SVG without scripts, links or outside references; every text is escaped, since names come from certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from attestation.platform_verification import ChainLink

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 230, 46, 24, 40
_MAX_TEXT = 34


def draw_chain(links: Sequence[ChainLink]) -> str:
    """The drawing; a paragraph that says so where there is no chain."""
    if not links:
        return "<p>No chain was verified.</p>"
    rows = _rows(links)
    places = {
        name: (_GAP_X + column * (_WIDTH + _GAP_X), _GAP_Y // 2 + row * (_HEIGHT + _GAP_Y))
        for row, names in enumerate(rows)
        for column, name in enumerate(names)
    }
    width = max(len(names) for names in rows) * (_WIDTH + _GAP_X) + _GAP_X
    height = len(rows) * (_HEIGHT + _GAP_Y)
    details = {one.subject: one.detail for one in links if one.detail}
    lines = [_line(places[one.issuer], places[one.subject]) for one in links if one.issuer != one.subject]
    boxes = [_box(name, details.get(name, ""), place) for name, place in places.items()]
    return (
        f'<svg role="img" aria-label="chain of trust" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">{"".join(lines)}{"".join(boxes)}</svg>'
    )


def _rows(links: Sequence[ChainLink]) -> list[list[str]]:
    """Names by their distance from a root; a name without a path from a root stands in the first row."""
    issuers = {one.subject: one.issuer for one in reversed(links)}
    names = list(dict.fromkeys(name for one in links for name in (one.issuer, one.subject)))
    rows: list[list[str]] = []
    for name in names:
        depth = _depth(name, issuers)
        while len(rows) <= depth:
            rows.append([])
        rows[depth].append(name)
    return [row for row in rows if row]


def _depth(name: str, issuers: dict[str, str]) -> int:
    seen = [name]
    while (above := issuers.get(seen[-1], seen[-1])) not in seen:
        seen.append(above)
    return len(seen) - 1


def _line(issuer: tuple[int, int], subject: tuple[int, int]) -> str:
    middle = _WIDTH // 2
    return (
        f'<line x1="{issuer[0] + middle}" y1="{issuer[1] + _HEIGHT}" '
        f'x2="{subject[0] + middle}" y2="{subject[1]}"/>'
    )


def _box(name: str, detail: str, place: tuple[int, int]) -> str:
    x, y = place
    second = (
        f'<text class="detail" x="{x + 10}" y="{y + 36}">{escape(_short(detail))}</text>' if detail else ""
    )
    return (
        f'<g><title>{escape(name)}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>'
        f'<text x="{x + 10}" y="{y + 20}">{escape(_short(name))}</text>{second}</g>'
    )


def _short(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"
