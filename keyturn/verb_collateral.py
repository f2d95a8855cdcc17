"""``keyturn collateral``: what vendors publish about their platforms: fetch it, look at it, bundle it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output, escape
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from attestation.collateral import Collateral

_MARKS = {"valid": "green", "expired": "red", "not valid yet": "yellow", "unreadable": "red"}
_MOST_SECONDS = 3600.0


class CollateralInputError(KeyturnError):
    """Options that do not say what is wanted."""

    code = "collateral-input"


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    collateral = typer.Typer(no_args_is_help=True, help="Fetch, show and bundle what vendors publish.")
    collateral.command("fetch")(fetch)
    collateral.command("show")(show)
    collateral.command("bundle")(bundle)
    app.add_typer(collateral, name="collateral")


def fetch(
    evidence: Annotated[Path, typer.Argument(help="Evidence of any platform, in any known format.")],
    output: Annotated[Path | None, typer.Option("--output", help="Where the bundle goes.")] = None,
    pccs: Annotated[
        str | None, typer.Option("--pccs", help="https://HOST[:PORT] of a PCCS, instead of Intel.")
    ] = None,
    kds: Annotated[str | None, typer.Option("--kds", help="A service to ask instead of AMD's.")] = None,
    rim: Annotated[
        str | None, typer.Option("--rim", help="A service to ask for manifests instead of NVIDIA's.")
    ] = None,
    ocsp: Annotated[
        str | None, typer.Option("--ocsp", help="A responder to ask instead of NVIDIA's.")
    ] = None,
    early: Annotated[
        bool, typer.Option("--early", help="Also Intel's next TCB recovery, for forecasts.")
    ] = False,
    evaluation_number: Annotated[
        int | None,
        typer.Option(
            "--evaluation-number",
            min=1,
            max=(1 << 31) - 1,
            help="This TCB evaluation of Intel instead of the standard one.",
        ),
    ] = None,
    cache: Annotated[Path | None, typer.Option("--cache", help="Folder of the cache.")] = None,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, max=_MOST_SECONDS, help="Most seconds for one file.")
    ] = 60.0,
    json: JsonOption = False,
) -> None:
    """Fetch what a piece of evidence needs to be verified. Nothing is verified here."""
    from attestation.fetch.needs import needs
    from attestation.importers import import_evidence
    from keyturn.collateral_inputs import fetch as fetch_all
    from keyturn.collateral_inputs import make_fetcher
    from keyturn.input_files import read_limited

    out = Output(json=json)
    wanted = needs(import_evidence(read_limited(evidence)))
    fetcher = make_fetcher(pccs=pccs, kds=kds, rim=rim, ocsp=ocsp, cache=cache, timeout=timeout)
    found = fetch_all(out, wanted, fetcher, early=early, evaluation_number=evaluation_number)
    if not wanted:
        out.line("This evidence brings all its certificates itself, so there is nothing to fetch.")
    _present(out, found, output, now=int(time.time()))


def show(
    file: Annotated[Path, typer.Argument(help="A bundle, or a file of any form that bundle takes.")],
    now: Annotated[
        str | None, typer.Option("--now", help="Time for the states, RFC 3339 or seconds since 1970.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what collateral holds and until when. Signatures are not checked."""
    from keyturn.collateral_inputs import read_collateral

    moment = _moment(now)
    _present(Output(json=json), read_collateral([file]), None, now=moment)


def bundle(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="JSON of DCAP sets, PEM or DER of certificates, revocation lists and OCSP answers, "
            "manifests of NVIDIA, bundles."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Where the bundle goes.")],
    json: JsonOption = False,
) -> None:
    """Join collateral of any form into one file, each item once."""
    from keyturn.collateral_inputs import read_collateral

    _present(Output(json=json), read_collateral(files), output, now=int(time.time()))


def _present(out: Output, collateral: Collateral, output: Path | None, *, now: int) -> None:
    """Show what there is, and write it if ``output`` says where."""
    from attestation.collateral_bundle import encode_bundle
    from attestation.collateral_summary import is_simulated, summarise

    items, development = summarise(collateral), is_simulated(collateral)
    if development:
        out.warn("collateral of a simulated TEE, for development only")
    rows = [
        (
            escape(item.what + (" (early)" if item.early else "")),
            escape(item.subject),
            "-" if item.evaluation_number is None else str(item.evaluation_number),
            _date(item.start),
            _date(item.end),
            _colour(item.state(now).value, item.problem),
        )
        for item in items
    ]
    if rows:
        out.table("", ("what", "of", "evaluation", "issued", "next update", "state"), rows)
    written = None
    if output is not None:
        data = encode_bundle(collateral)
        output.write_bytes(data)
        written = {"path": str(output), "bytes": len(data)}
        out.line(f"{escape(str(output))}: {len(data)} bytes")
    shown = [item.as_json(now) for item in items]
    out.result({"now": now, "development": development, "items": shown, "bundle": written})


def _colour(state: str, problem: str | None) -> str:
    text = escape(state if problem is None else f"{state}: {problem}")
    mark = _MARKS.get(state)
    return f"[{mark}]{text}[/{mark}]" if mark else text


def _date(seconds: int | None) -> str:
    if seconds is None:
        return "-"
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str | None) -> int:
    if text is None:
        return int(time.time())
    if text.isascii() and text.isdecimal() and len(text) <= 11:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise CollateralInputError(
            f"{text!r} is no time with its zone",
            subject="--now",
            advice="write it as 2026-03-18T08:50:00Z or in seconds since 1970",
        )
    return int(moment.timestamp())
