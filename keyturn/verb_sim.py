"""``keyturn sim``: simulated trust domains, so that everything but the hardware can be tried.

Real evidence cannot be made here: the root of these is trusted by policies for development alone, and every
output says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keyturn.output import JsonOption, Output, escape
from measurements.errors import KeyturnError

if TYPE_CHECKING:
    from attestation.policy import TcbStatus
    from measurements.tdx.quote import TdBody

DAYS = 365
REGISTER_SIZE = 48
REPORT_DATA_SIZE = 64


class SimInputError(KeyturnError):
    """Options or a folder that nothing can be made from."""

    code = "sim-input"


def register(app: typer.Typer) -> None:
    """Add the verb's commands."""
    sim = typer.Typer(no_args_is_help=True, help="Simulate trust domains: for development only.")
    sim.command("pki")(pki)
    sim.command("quote")(quote)
    app.add_typer(sim, name="sim")


def pki(
    folder: Annotated[Path, typer.Argument(help="Where the PKI goes; made, or empty.")],
    status: Annotated[
        str, typer.Option("--status", help="TCB status of the simulated machine.")
    ] = "UpToDate",
    advisory: Annotated[
        list[str] | None, typer.Option("--advisory", help="Advisory of its TCB level; repeatable.")
    ] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long collateral lasts.")] = DAYS,
    now: Annotated[
        str | None, typer.Option("--now", help="When it is made: 2026-12-31, …T12:00:00Z, or Unix time.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make the keys, certificates and collateral of a simulated TEE vendor: for development only."""
    from attestation.sim.folder import ANCHOR, BUNDLE, PRIVATE, WARNING, SimSettings, new_folder
    from keyturn.policy_inputs import parse_moment

    out = Output(json=json)
    settings = SimSettings(
        now=int(time.time()) if now is None else parse_moment(now),
        days=days,
        status=_status(status),
        advisories=tuple(advisory or ()),
    )
    files = new_folder(settings)
    _write(folder, files, PRIVATE)
    out.warn(WARNING)
    out.table(
        "simulated PKI, development only",
        ("file", "what"),
        [
            (escape(str(folder / BUNDLE)), "collateral: keyturn verify --collateral"),
            (escape(str(folder / ANCHOR)), "the root, for a policy with environment = dev"),
            (escape(str(folder / "root.pem")), "the root certificate"),
        ],
    )
    out.line(f"next: keyturn sim quote {escape(str(folder))} --report-data HEX --output evidence.bin")
    out.result(
        {
            "warning": WARNING,
            "folder": str(folder),
            "collateral": str(folder / BUNDLE),
            "anchor": str(folder / ANCHOR),
            "fingerprint": _fingerprint(files["root.pem"]),
            "now": settings.now,
        }
    )


def quote(
    folder: Annotated[Path, typer.Argument(help="A folder of keyturn sim pki.")],
    report_data: Annotated[str, typer.Option("--report-data", help="128 hex digits.")],
    output: Annotated[Path, typer.Option("--output", help="Where the evidence goes.")],
    mrtd: Annotated[str | None, typer.Option("--mrtd", help="96 hex digits.")] = None,
    rtmr0: Annotated[str | None, typer.Option("--rtmr0", help="96 hex digits.")] = None,
    rtmr1: Annotated[str | None, typer.Option("--rtmr1", help="96 hex digits.")] = None,
    rtmr2: Annotated[str | None, typer.Option("--rtmr2", help="96 hex digits.")] = None,
    rtmr3: Annotated[str | None, typer.Option("--rtmr3", help="96 hex digits.")] = None,
    mrconfigid: Annotated[str | None, typer.Option("--mrconfigid", help="96 hex digits.")] = None,
    mrowner: Annotated[str | None, typer.Option("--mrowner", help="96 hex digits.")] = None,
    mrownerconfig: Annotated[str | None, typer.Option("--mrownerconfig", help="96 hex digits.")] = None,
    version: Annotated[int, typer.Option("--version", min=4, max=5, help="4: TDX 1.0; 5: TDX 1.5.")] = 4,
    json: JsonOption = False,
) -> None:
    """Write the evidence of a simulated trust domain: for development only."""
    from attestation.container import EvidenceContainer, EvidencePlatform
    from attestation.container_codec import container_hash, encode_container
    from attestation.sim.folder import WARNING, read_folder
    from attestation.sim.pki import ORGANISATION
    from attestation.sim.quote import td_quote

    out = Output(json=json)
    registers = {
        "mrtd": mrtd,
        "mrconfigid": mrconfigid,
        "mrowner": mrowner,
        "mrownerconfig": mrownerconfig,
    }
    body = _domain(version, report_data, registers, (rtmr0, rtmr1, rtmr2, rtmr3))
    evidence = EvidenceContainer(
        platform=EvidencePlatform.SIM,
        report=td_quote(read_folder(_read(folder)), body, version=version),
        origin=ORGANISATION,
    )
    output.write_bytes(encode_container(evidence))
    out.warn(WARNING)
    shown = {name: value.hex() for name, value in body.registers().items()}
    out.table("simulated trust domain, development only", ("register", "value"), list(shown.items()))
    out.line(f"wrote {escape(str(output))}")
    out.result(
        {
            "warning": WARNING,
            "output": str(output),
            "evidence": container_hash(evidence).hex(),
            "registers": shown,
            "report_data": body.report_data.hex(),
        }
    )


def _domain(
    version: int, report_data: str, registers: Mapping[str, str | None], rtmrs: tuple[str | None, ...]
) -> TdBody:
    from dataclasses import replace

    from attestation.sim.quote import sim_domain
    from measurements.tdx.quote import BodyType

    kind = BodyType.TDX_1_0 if version == 4 else BodyType.TDX_1_5
    body = sim_domain(report_data=_octets("report-data", report_data, REPORT_DATA_SIZE), version=kind)
    given = {name: _octets(name, text, REGISTER_SIZE) for name, text in registers.items() if text is not None}
    first, second, third, fourth = (
        body.rtmrs[number] if text is None else _octets(f"rtmr{number}", text, REGISTER_SIZE)
        for number, text in enumerate(rtmrs)
    )
    return replace(
        body,
        mrtd=given.get("mrtd", body.mrtd),
        mrconfigid=given.get("mrconfigid", body.mrconfigid),
        mrowner=given.get("mrowner", body.mrowner),
        mrownerconfig=given.get("mrownerconfig", body.mrownerconfig),
        rtmrs=(first, second, third, fourth),
    )


def _octets(option: str, text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size or len(text) != 2 * size:
        raise SimInputError(
            f"is not {2 * size} hex digits", subject=f"--{option}", advice="give the whole value as hex"
        )
    return value


def _status(text: str) -> TcbStatus:
    from attestation.policy import TcbStatus

    try:
        return TcbStatus(text)
    except ValueError as error:
        raise SimInputError(
            f"{text!r} is no TCB status",
            subject="--status",
            advice=f"give one of {', '.join(TcbStatus)}",
        ) from error


def _write(folder: Path, files: Mapping[str, bytes], private: frozenset[str]) -> None:
    """Write all files into a folder that holds nothing yet; nobody else may read the keys."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SimInputError(
            "is not empty", subject=str(folder), advice="name a new folder; a PKI is never overwritten"
        )
    for name, data in files.items():
        mode = 0o600 if name in private else 0o644
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def _read(folder: Path) -> dict[str, bytes]:
    from attestation.sim.folder import needed_files
    from keyturn.input_files import read_limited

    missing = [name for name in needed_files() if not (folder / name).is_file()]
    if missing:
        raise SimInputError(
            f"has no {missing[0]}",
            subject=str(folder),
            advice="name a folder that keyturn sim pki made",
        )
    return {name: read_limited(folder / name) for name in needed_files()}


def _fingerprint(certificate: bytes) -> str:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    return x509.load_pem_x509_certificate(certificate).fingerprint(SHA256()).hex()
