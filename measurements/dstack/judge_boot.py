"""Checks of a TDX guest's firmware, kernel and machine, against its image and the ACPI tables of QEMU."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from measurements.dstack.aggregates import os_image_hash
from measurements.dstack.boot_log import AcpiDigests
from measurements.dstack.checksums import parse_checksums
from measurements.dstack.errors import DstackFormatError
from measurements.dstack.event_log import LogEvent, digests, replay_digests
from measurements.dstack.evidence import TdxEvidence
from measurements.dstack.expectations import Expectations
from measurements.dstack.judgement import Checks
from measurements.dstack.lite import TDX_FILE, parse_tdx_measurement
from measurements.dstack.predict import TdxReference, lite_reference, predict_tdx
from measurements.dstack.release_reference import release_reference
from measurements.dstack.runtime_events import BootFacts
from measurements.dstack.vm_config import MeasurementDocument, VmConfig
from measurements.platforms import PlatformPrediction
from measurements.tdx.quote import TdBody

FIRMWARE_REGISTERS = (0, 1, 2)
_ACPI_PLACES = slice(8, 11)
_LAYOUT_EVENTS = 13
_CLAIM = "ACPI digests of the guest's own log: claimed by the guest, not computed"
_IMAGE_ADVICE = "compare the image that runs with the release that you expect"


def check_replays(checks: Checks, evidence: TdxEvidence, body: TdBody) -> None:
    """RTMR0 to RTMR2 from the whole log; a stripped log does not hold what they take."""
    if evidence.stripped:
        return
    for register in FIRMWARE_REGISTERS:
        checks.equal(
            f"rtmr{register}-replay",
            expected=body.rtmrs[register],
            found=replay_digests(digests(evidence.log, register)),
            reason=f"the log does not give the RTMR{register} of the quote",
            advice="take the report again; if it stays so, do not trust the deployment",
        )


def check_image(
    checks: Checks,
    config: VmConfig,
    document: MeasurementDocument | None,
    known: Expectations,
    file_name: str,
) -> None:
    """The image's hash against the one that is trusted, and the measurement document against the hash."""
    if known.image_hash is None:
        checks.unchecked(
            "os-image-hash",
            expected="the hash of a release that you trust",
            reason=f"the host says {config.os_image_hash.hex()}, and nothing is given to compare with",
            advice="give the release's folder, or its digest.txt",
        )
    else:
        checks.equal(
            "os-image-hash",
            expected=known.image_hash,
            found=config.os_image_hash,
            reason="the host names another OS image",
            advice=_IMAGE_ADVICE,
        )
    if document is None:
        return
    image_hash = os_image_hash(document.checksum_file)
    checks.equal(
        "checksum-file",
        expected=config.os_image_hash,
        found=image_hash,
        reason="SHA-256 of the checksum file is not the OS image's hash",
        advice=_IMAGE_ADVICE,
    )
    checks.attempt(
        "measurement-document",
        lambda: _require_listed(document, file_name),
        expected=f"{file_name} as the checksum file lists it",
    )


def check_image_event(checks: Checks, config: VmConfig, facts: BootFacts) -> None:
    """The ``os-image-hash`` event, which guests with a KMS extend after the KMS's own check."""
    if facts.os_image_hash is not None:
        checks.equal(
            "os-image-event",
            expected=config.os_image_hash,
            found=facts.os_image_hash,
            reason="the guest's KMS released keys to another OS image than the host names",
            advice=_IMAGE_ADVICE,
        )


def check_platform(
    checks: Checks, log: Sequence[LogEvent], config: VmConfig, body: TdBody, known: Expectations
) -> None:
    """MRTD and RTMR0 to RTMR2, computed from the image and the machine."""
    if config.tdx is None and known.release is None:
        checks.unchecked(
            "image-reference",
            expected="measurements of the image on this machine",
            reason=f"neither vm_config nor a release gives {TDX_FILE}",
            advice="give the release's folder of this image",
        )
        return
    reference = checks.attempt(
        "image-reference",
        lambda: _reference(config, known),
        expected="measurements of the image on this machine",
    )
    if reference is None:
        return
    orders = {value: order for order, value in reference.mrtd.items()}
    checks.require(
        "mrtd",
        body.mrtd in orders,
        expected=" or ".join(f"{value.hex()} ({order.value})" for value, order in orders.items()),
        found=body.mrtd.hex(),
        reason="the guest was started with other firmware than the image's",
        advice=_IMAGE_ADVICE,
    )
    claimed = _logged_acpi(log)
    acpi = known.acpi or claimed
    if acpi is None:
        checks.unchecked(
            "rtmr0",
            expected="RTMR0 with the machine's ACPI tables",
            reason="the log has no ACPI digests, and no tables are given",
            advice="give the tables that QEMU makes for this machine",
        )
        return
    prediction = predict_tdx(reference, config, acpi)
    _check_acpi(checks, known.acpi, claimed)
    _check_rtmr0(checks, prediction, body, computed=known.acpi is not None)
    for register, what in ((1, "kernel"), (2, "command line or initrd")):
        checks.equal(
            f"rtmr{register}",
            expected=prediction.registers[f"rtmr{register}"]["sha384"],
            found=body.rtmrs[register],
            reason=f"the guest booted another {what} than the image's",
            advice=_IMAGE_ADVICE,
        )


def _reference(config: VmConfig, known: Expectations) -> TdxReference:
    """From the release's files where they are at hand, else from the document that the host sent."""
    if known.release is not None:
        return release_reference(known.release, config)
    if config.tdx is None:
        raise DstackFormatError("has no document", subject="vm_config", advice=_IMAGE_ADVICE)
    return lite_reference(parse_tdx_measurement(config.tdx.measurement), config)


def _require_listed(document: MeasurementDocument, file_name: str) -> None:
    """Raise ``DstackFormatError`` unless the checksum file names the document's digest."""
    listed = parse_checksums(document.checksum_file).get(file_name)
    if listed != hashlib.sha256(document.measurement).digest():
        raise DstackFormatError(
            f"lists {listed.hex() if listed else 'no'} {file_name}, and another one is given",
            subject="checksum file",
            advice=_IMAGE_ADVICE,
        )


def _check_acpi(checks: Checks, computed: AcpiDigests | None, claimed: AcpiDigests | None) -> None:
    if computed is None:
        checks.unchecked(
            "acpi-tables",
            expected="digests of tables that QEMU made for this machine",
            reason="no tables are given, so a host could have slipped in its own",
            advice="make the tables with an unmodified QEMU (keyturn acpi) and give them",
        )
    elif claimed is not None:
        checks.equal(
            "acpi-tables",
            expected=b"".join(computed.as_tuple()),
            found=b"".join(claimed.as_tuple()),
            reason="the guest was given other ACPI tables than QEMU makes for this machine",
            advice="check the host's vm_config and QEMU version; foreign tables can attack the guest",
        )


def _check_rtmr0(checks: Checks, prediction: PlatformPrediction, body: TdBody, *, computed: bool) -> None:
    expected = prediction.registers["rtmr0"]["sha384"]
    if expected == body.rtmrs[0] and not computed:
        checks.claimed(
            "rtmr0",
            found=body.rtmrs[0],
            reason=f"it follows from the image and the machine, but with {_CLAIM}",
            advice="give the tables that QEMU makes for this machine",
        )
        return
    checks.equal(
        "rtmr0",
        expected=expected,
        found=body.rtmrs[0],
        reason="the machine is not the one that the host names, or its firmware's variables are not empty",
        advice="compare memory, processors, devices and QEMU version with the host's",
    )


def _logged_acpi(log: Sequence[LogEvent]) -> AcpiDigests | None:
    """The log's ACPI digests by their place, never by their names."""
    found = digests(log, 0)
    if len(found) == _LAYOUT_EVENTS:
        found = found[_ACPI_PLACES]
    if len(found) != 3:
        return None
    loader, rsdp, tables = found
    return AcpiDigests(loader=loader, rsdp=rsdp, tables=tables, origin=_CLAIM)
