"""Files of dstack for ``predict`` and ``verify``: releases, VM configurations, apps and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from keyturn.input_files import InputFileError, read_limited
from keyturn.output import Output, escape
from measurements.errors import ExitStatus

if TYPE_CHECKING:
    from measurements.dstack.boot_log import AcpiDigests
    from measurements.dstack.expectations import Expectations
    from measurements.dstack.judgement import Judgement
    from measurements.dstack.vm_config import VmConfig
    from measurements.platforms import PlatformPrediction

_COLOURS = {"pass": "green", "fail": "red", "claimed": "yellow", "unchecked": "yellow"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TablesSource:
    """Where ACPI tables come from: ``tables`` (QEMU's ``etc/acpi/tables`` as a file), or a QEMU at ``qemu``
    with addresses of ``phys_bits`` bits; neither: the installed QEMU.
    """

    tables: Path | None = None
    qemu: Path | None = None
    phys_bits: int | None = None

    def digests(self, config: VmConfig) -> AcpiDigests:
        """The digests for this machine; raises ``DstackInputError`` where they are not known."""
        from measurements.acpi_blob import derive_files
        from measurements.acpi_cache import cached_dump
        from measurements.dstack.machine import USUAL_PHYS_BITS, machine_acpi
        from measurements.dstack.predict import acpi_digests
        from measurements.qemu import QemuProgram

        if self.tables is not None:
            files = derive_files(read_limited(self.tables), subject=str(self.tables))
            return acpi_digests(files, origin=str(self.tables))
        bits = USUAL_PHYS_BITS if self.phys_bits is None else self.phys_bits
        return machine_acpi(config, QemuProgram.at(self.qemu), phys_bits=bits, dump=cached_dump).digests

    @property
    def named(self) -> bool:
        """Whether anybody said where tables come from."""
        return self.tables is not None or self.qemu is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class DstackApp:
    """An app to predict: its file, and what a boot adds to it (ids in hex, ``provider_id`` as the event has
    it).
    """

    compose: Path
    instance_id: str = ""
    provider_id: str = ""
    app_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What ``verify --dstack`` is told about a deployment; digests in hex."""

    release: Path | None = None
    image_hash: str | None = None
    app_compose: Path | None = None
    tables: TablesSource = TablesSource()
    mr_aggregated: str | None = None
    mr_system: str | None = None
    app_events: tuple[str, ...] = ()
    unbound: bool = False


def predict_release(
    folder: Path, vm_config: Path, *, tables: TablesSource, app: DstackApp | None = None
) -> list[PlatformPrediction]:
    """The predictions of a release's folder on the machine of a ``vm_config``: TDX, or SEV-SNP where the
    configuration is one for that.
    """
    from measurements.dstack.errors import DstackInputError
    from measurements.dstack.lite import SNP_FILE, parse_snp_measurement
    from measurements.dstack.predict import predict_snp, predict_tdx
    from measurements.dstack.release import read_release
    from measurements.dstack.release_reference import release_reference
    from measurements.dstack.vm_config import parse_vm_config

    release = read_release(folder)
    config = parse_vm_config(read_limited(vm_config))
    if config.os_image_hash != release.os_image_hash:
        raise DstackInputError(
            f"is for the image {config.os_image_hash.hex()}, not for {release.os_image_hash.hex()}",
            subject=str(vm_config),
            advice="give the release that this machine runs",
        )
    if config.snp is not None:
        if SNP_FILE not in release.files:
            raise DstackInputError(
                f"has no {SNP_FILE}", subject=str(folder), advice="give a release that is built for SEV-SNP"
            )
        return [predict_snp(parse_snp_measurement(release.files[SNP_FILE]), config.snp)]
    prediction = predict_tdx(release_reference(release, config), config, tables.digests(config))
    return [prediction if app is None else _with_app(prediction, app, config)]


def judge_file(report: Path, known: Known) -> Judgement:
    """The judgement of a report's file."""
    from measurements.dstack.evidence import parse_report
    from measurements.dstack.judge import judge

    evidence = parse_report(read_limited(report))
    return judge(evidence, _expectations(known, evidence.vm_config))


def show_judgement(out: Output, judgement: Judgement, *, title: str) -> None:
    """Show every check, what none of them is about, and the verdict."""
    out.tree(
        escape(title),
        [
            (
                f"[{_COLOURS[check.outcome]}]{check.outcome.value}[/] [bold]{check.name}[/bold]",
                [(escape(line), []) for line in _lines(check.as_json())],
            )
            for check in judgement.checks
        ],
    )
    for name, value in judgement.values.items():
        out.line(f"{name}: {value.hex()}")
    out.line(f"[yellow]not checked here[/yellow]: {escape('; '.join(judgement.not_covered))}")
    out.line("those are for: keyturn verify REPORT --policy FILE, with the same report")
    out.line(_verdict(judgement))


def require_judgement(judgement: Judgement) -> None:
    """End the command with exit status 1 unless every check passed."""
    if not judgement.passed:
        raise typer.Exit(int(ExitStatus.REFUSED))


def verify_report(out: Output, report: Path, known: Known) -> None:
    """Judge a report, show the judgement and end with exit status 1 unless all of it passed."""
    judgement = judge_file(report, known)
    show_judgement(out, judgement, title=f"dstack report {report}")
    out.result(judgement.as_json())
    require_judgement(judgement)


def _expectations(known: Known, config: VmConfig | None) -> Expectations:
    from measurements.dstack.expectations import Expectations
    from measurements.dstack.release import read_release

    compose = None if known.app_compose is None else read_limited(known.app_compose)
    acpi = known.tables.digests(config) if known.tables.named and config is not None else None
    return Expectations(
        release=None if known.release is None else read_release(known.release),
        os_image_hash=_digest(known.image_hash, "--image-hash"),
        app_compose=compose,
        acpi=acpi,
        mr_aggregated=_digest(known.mr_aggregated, "--mr-aggregated"),
        mr_system=_digest(known.mr_system, "--mr-system"),
        app_events=frozenset(known.app_events),
        unbound=known.unbound,
    )


def _with_app(prediction: PlatformPrediction, app: DstackApp, config: VmConfig) -> PlatformPrediction:
    from measurements.dstack.app_compose import Deployment, boot_events, parse_app_compose
    from measurements.dstack.mr_config import KeyProvider, config_id_v1
    from measurements.dstack.predict import with_app

    compose = parse_app_compose(read_limited(app.compose))
    kms = compose.key_provider is KeyProvider.KMS
    deployment = Deployment(
        instance_id=_octets(app.instance_id, "--instance-id", 0, 20),
        provider_id=app.provider_id,
        app_id=None if app.app_id is None else _octets(app.app_id, "--app-id", 20),
        os_image_hash=config.os_image_hash if kms else None,
    )
    events = boot_events(compose, deployment)
    return with_app(prediction, events, config_id=config_id_v1(compose.compose_hash))


def _digest(text: str | None, subject: str) -> bytes | None:
    return None if text is None else _octets(text, subject, 32)


def _octets(text: str, subject: str, *sizes: int) -> bytes:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = None
    if value is None or len(value) not in sizes:
        raise InputFileError(
            f"{text[:80]!r} is not {' or '.join(map(str, sizes))} bytes in hex",
            subject=subject,
            advice="write two hex digits for each byte",
        )
    return value


def _lines(check: dict[str, str]) -> list[str]:
    if check["outcome"] == "pass":
        return [check["found"]]
    named = ("expected", "found", "reason", "advice")
    return [f"{name}: {check[name]}" for name in named if check[name]]


def _verdict(judgement: Judgement) -> str:
    if judgement.passed:
        return "[green]everything that is checked holds[/green]"
    wrong = ", ".join(check.name for check in judgement.checks if check.outcome.value == "fail")
    if wrong:
        return f"[red]refused[/red]: {wrong}"
    open_checks = [check.name for check in judgement.checks if check.outcome.value != "pass"]
    return f"[yellow]not proven[/yellow]: {', '.join(open_checks)}"
