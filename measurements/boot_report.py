"""The boot report: how a guest tells its registers and logs over an output-only console.

Layout on the console, one line each, line ends ``\\n`` (a terminal makes them ``\\r\\n``)::

    -----BEGIN KEYTURN BOOT REPORT-----
    KT <base64, at most 96 characters>              as many lines as needed
    -----END KEYTURN BOOT REPORT <hex SHA-256 of the decoded bytes>-----

The decoded bytes are one JSON object, UTF-8, keys sorted, no white space, with exactly the members of
``BootReport``; times are integers in microseconds since the kernel started. The kernel may print between
lines: such lines have no ``KT`` prefix and are skipped, and whatever still damages the report is found by the
hash.

The module is used on both sides and ships in the guest: standard library only, no data classes (see
``runtime_events``).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from measurements.errors import FormatError
from measurements.json_text import json_text
from measurements.runtime_events import RuntimeEvent

SCHEMA = "keyturn-boot-report/1"
BEGIN = "-----BEGIN KEYTURN BOOT REPORT-----"
PREFIX = "KT "
LINE_LENGTH = 96
MAX_REPORT = 8 << 20
"""Upper limit of the decoded report in bytes."""

_END = re.compile(r"-----END KEYTURN BOOT REPORT ([0-9a-f]{64})-----")
_DATA = re.compile(rf"{PREFIX}([A-Za-z0-9+/]{{1,{LINE_LENGTH}}}={{0,2}})")
_LINE_END = re.compile(r"\r*\n")
_BANK_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}
_PCRS = 24

Banks = Mapping[str, Mapping[int, bytes]]
"""Register values by bank name and PCR number."""


class BootReportError(FormatError):
    """The console output holds no valid boot report."""

    code = "boot-report"


class BootReport(NamedTuple):
    """What one boot reports. ``event_log`` is the firmware's TCG log as the kernel hands it out; times are
    microseconds of boot time.
    """

    image_name: str
    image_version: str
    dev: bool
    banks: Banks
    event_log: bytes
    runtime_events: Sequence[RuntimeEvent]
    command_line: str
    kernel_release: str
    os_release: Mapping[str, str]
    agent_start_us: int
    report_us: int


def encode_report(report: BootReport) -> bytes:
    """The report as JSON bytes."""
    return json.dumps(_as_json(report), sort_keys=True, separators=(",", ":")).encode("ascii")


def frame_report(report: BootReport) -> str:
    """The report as console lines, with a line end after the last one."""
    return "".join(f"{line}\n" for line in _lines(encode_report(report)))


def _lines(data: bytes) -> Iterator[str]:
    text = base64.b64encode(data).decode("ascii")
    yield BEGIN
    for start in range(0, len(text), LINE_LENGTH):
        yield PREFIX + text[start : start + LINE_LENGTH]
    yield f"-----END KEYTURN BOOT REPORT {hashlib.sha256(data).hexdigest()}-----"


def has_report(console: bytes) -> bool:
    """Whether the console output holds a report to its last line (which may still turn out to be invalid)."""
    text = console.decode("ascii", "replace")
    start = text.find(BEGIN)
    return start >= 0 and _END.search(text, start) is not None


def find_report(console: bytes) -> BootReport:
    """The one report in the console output of one boot.

    Raises ``BootReportError`` when there is none, more than one, or one that is damaged or not of the schema.
    """
    return decode_report(_unframe(console.decode("ascii", "replace")))


def _unframe(text: str) -> bytes:
    pieces: list[str] | None = None
    found: list[bytes] = []
    for line in _LINE_END.split(text):
        if line.endswith(BEGIN):
            pieces = []
            continue
        if pieces is None:
            continue
        end = _END.fullmatch(line)
        if end is not None:
            found.append(_checked(pieces, sha256=end[1]))
            pieces = None
        elif (data := _DATA.fullmatch(line)) is not None:
            pieces.append(data[1])
    if len(found) != 1:
        raise _error(
            "the console shows no complete boot report" if not found else "the console shows two boot reports"
        )
    return found[0]


def _checked(pieces: Sequence[str], *, sha256: str) -> bytes:
    text = "".join(pieces)
    if len(text) > MAX_REPORT * 4 // 3:
        raise _error("the boot report is too long")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise _error(f"the boot report is not base64: {error}") from error
    if base64.b64encode(data).decode("ascii") != text or hashlib.sha256(data).hexdigest() != sha256:
        raise _error("the boot report does not have the hash of its last line")
    return data


def decode_report(data: bytes) -> BootReport:
    """The report from its JSON bytes. Raises ``BootReportError`` on anything that is not exactly of the
    schema.
    """
    try:
        value = json.loads(json_text(data))
        report = _from_json(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _error(f"the boot report is not of schema {SCHEMA}: {error}") from error
    if encode_report(report) != data:
        raise _error(f"the boot report is not of schema {SCHEMA}: unknown members or another encoding")
    return report


def _as_json(report: BootReport) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "image": {"name": report.image_name, "version": report.image_version, "dev": report.dev},
        "banks": {
            bank: {str(pcr): value.hex() for pcr, value in values.items()}
            for bank, values in report.banks.items()
        },
        "event_log": base64.b64encode(report.event_log).decode("ascii"),
        "runtime_events": [{"name": e.name, "payload": e.payload.hex()} for e in report.runtime_events],
        "command_line": report.command_line,
        "kernel_release": report.kernel_release,
        "os_release": dict(report.os_release),
        "time_us": {"agent_start": report.agent_start_us, "report": report.report_us},
    }


def _from_json(value: dict[str, object]) -> BootReport:
    if value["schema"] != SCHEMA:
        raise ValueError(f"schema is {value['schema']!r}")
    image = _mapping(value["image"])
    times = _mapping(value["time_us"])
    return BootReport(
        image_name=_text(image["name"]),
        image_version=_text(image["version"]),
        dev=_truth(image["dev"]),
        banks={bank: _registers(bank, _mapping(values)) for bank, values in _mapping(value["banks"]).items()},
        event_log=base64.b64decode(_text(value["event_log"]), validate=True),
        runtime_events=tuple(_event(_mapping(event)) for event in _sequence(value["runtime_events"])),
        command_line=_text(value["command_line"]),
        kernel_release=_text(value["kernel_release"]),
        os_release={key: _text(text) for key, text in _mapping(value["os_release"]).items()},
        agent_start_us=_count(times["agent_start"]),
        report_us=_count(times["report"]),
    )


def _registers(bank: str, values: Mapping[str, object]) -> dict[int, bytes]:
    registers = {int(pcr): bytes.fromhex(_text(value)) for pcr, value in values.items()}
    if any(not 0 <= pcr < _PCRS for pcr in registers):
        raise ValueError(f"bank {bank} has a register that does not exist")
    if any(len(value) != _BANK_SIZES[bank] for value in registers.values()):
        raise ValueError(f"bank {bank} has a register of another size")
    return registers


def _event(value: Mapping[str, object]) -> RuntimeEvent:
    return RuntimeEvent(_text(value["name"]), bytes.fromhex(_text(value["payload"])))


def _mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("an object is expected")
    return value


def _sequence(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("an array is expected")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("a string is expected")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is expected")
    return value


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError("a count is expected")
    return value


def _error(reason: str) -> BootReportError:
    return BootReportError(
        reason,
        subject="console output",
        advice="boot again; if it repeats, read the console output for what went wrong",
    )
