"""A verdict as one page for a browser: self-contained, without scripts, and forbidden to load anything.

Every text is escaped: names in certificates and logs are an attacker's to choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from attestation.chain_drawing import draw_chain
from attestation.evidence_verdict import EvidenceVerdict
from attestation.forecast import Forecast, Turn
from attestation.platform_verification import Component, PlatformFacts, Window
from attestation.verdict import Check
from attestation.verdict_tree import NOT_CHECKED, Group

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root{--ok:#1a7f37;--bad:#b42318;--dim:#667085;--line:#d0d5dd;--soft:#f9fafb}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#101828}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.ok{color:var(--ok)}.bad{color:var(--bad)}.dim{color:var(--dim)}
.banner{border:2px solid currentColor;border-radius:8px;padding:.8rem 1rem;font-size:1.1rem}
.development{background:#fef0c7;border:2px solid #b54708;border-radius:8px;padding:.6rem 1rem;margin:1rem 0}
details{border:1px solid var(--line);border-radius:8px;margin:.5rem 0;padding:.4rem .8rem}
summary{cursor:pointer;font-weight:600}
table{border-collapse:collapse;width:100%}
td,th{border-top:1px solid var(--line);text-align:left;padding:.3rem .5rem;vertical-align:top}
td{overflow-wrap:anywhere}th{background:var(--soft)}code{font-size:.9em;overflow-wrap:anywhere}
svg rect{fill:var(--soft);stroke:#98a2b3}svg line{stroke:#98a2b3;stroke-width:2}
svg text{font:13px system-ui,sans-serif}svg .detail{font-size:11px;fill:var(--dim)}
.drawing{overflow-x:auto}
"""


def render_page(verdict: EvidenceVerdict, forecast: Forecast) -> str:
    """The whole page."""
    title = "passed" if verdict.passed else "refused"
    parts = [
        _banner(verdict, forecast),
        _development(verdict),
        _section("Chain of trust", f'<div class="drawing">{draw_chain(verdict.chain)}</div>'),
        _section("Checks", "".join(map(_group, verdict.groups))),
        _section("Components of the TCB", _components(verdict.components)) if verdict.components else "",
        _section("Facts", "".join(map(_facts, verdict.facts))) if verdict.facts else "",
        _section("Forecast", _forecast(forecast)),
        _section("Windows", _windows(verdict.windows)) if verdict.windows else "",
        _section("Made with", _pairs(verdict.versions)) if verdict.versions else "",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>keyturn: evidence {title}</title><style>{_STYLE}</style></head>"
        f"<body><h1>Evidence of a confidential machine</h1>{''.join(parts)}</body></html>\n"
    )


def _banner(verdict: EvidenceVerdict, forecast: Forecast) -> str:
    mark, word = ("ok", "Passed") if verdict.passed else ("bad", "Refused")
    failures = [check.reason for check in verdict.tree.failures]
    lines = [f"<strong>{word}</strong> at {_date(verdict.now)} under policy {escape(verdict.policy.name)}"]
    if forecast.valid_until is not None:
        lines.append(f"valid until {_date(forecast.valid_until)}")
    lines += [escape(reason) for reason in failures]
    hashes = [("evidence", verdict.evidence_hash.hex()), ("policy", verdict.policy_digest.hex())]
    return f'<div class="banner {mark}" id="result">{"<br>".join(lines)}</div>{_pairs(hashes)}'


def _development(verdict: EvidenceVerdict) -> str:
    if not verdict.development:
        return ""
    return '<p class="development">Development only: this trust means nothing in production.</p>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>"


def _group(group: Group) -> str:
    opened = "" if group.passed else " open"
    rows = "".join(map(_check, group.checks))
    return (
        f'<details{opened}><summary class="{_mark(group.passed)}">{escape(group.title)}: '
        f"{'holds' if group.passed else 'does not hold'}</summary>"
        "<table><tr><th>check</th><th>found</th><th>expected</th><th>why, and what to do</th></tr>"
        f"{rows}</table></details>"
    )


def _check(check: Check) -> str:
    mark = "dim" if check.found == NOT_CHECKED else _mark(check.passed)
    advice = " ".join(one for one in (check.reason, check.advice) if one)
    cells = "".join(f"<td>{escape(text)}</td>" for text in (check.found, check.expected, advice))
    return f'<tr><td class="{mark}">{"✓" if check.passed else "✗"} {escape(check.name)}</td>{cells}</tr>'


def _components(components: Sequence[Component]) -> str:
    rows = "".join(
        f'<tr><td>{escape(one.name)}</td><td class="{_mark(not one.short)}">{one.have}</td>'
        f"<td>{one.need}</td></tr>"
        for one in components
    )
    head = "<tr><th>component</th><th>the platform has</th><th>the newest level needs</th></tr>"
    return f"<table>{head}{rows}</table>"


def _facts(facts: PlatformFacts) -> str:
    registers = [(name, value.hex()) for name, value in facts.registers.items()]
    rows = [
        *facts.identity.items(),
        *facts.details.items(),
        *registers,
        ("report data", facts.report_data.hex()),
    ]
    return f"<details><summary>{escape(facts.platform.value)}</summary>{_pairs(rows)}</details>"


def _forecast(forecast: Forecast) -> str:
    if not forecast.turns:
        return "<p>Nothing at hand will turn this verdict.</p>"
    return f"<ul>{''.join(map(_turn, forecast.turns))}</ul>"


def _turn(turn: Turn) -> str:
    outcome = "it passes" if turn.passes else "it is refused"
    causes, reasons = escape("; ".join(turn.causes)), escape(" ".join(turn.reasons))
    return f'<li class="{_mark(turn.passes)}">{_date(turn.at)}: {causes}: {outcome}. {reasons}</li>'


def _windows(windows: Sequence[Window]) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.name)}</td><td>{_date(one.start)}</td><td>{_date(one.end)}</td></tr>"
        for one in windows
    )
    return f"<table><tr><th>what</th><th>from</th><th>until</th></tr>{rows}</table>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(value)}</code></td></tr>" for name, value in pairs
    )
    return f"<table>{rows}</table>"


def _mark(passed: bool) -> str:
    return "ok" if passed else "bad"


def _date(seconds: int) -> str:
    """The date; far ones as their number, since certificates may name years that no calendar here has."""
    try:
        return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return str(seconds)
