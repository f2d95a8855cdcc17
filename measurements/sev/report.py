"""The attestation report of an SNP guest: its fields. Nothing here checks its signature.

Layout (SEV Secure Nested Paging Firmware ABI, 56860 revision 1.58, section 7.3, ``ATTESTATION_REPORT``; 1184
bytes, little endian)::

    0x000 u32 version           0x004 u32 guest SVN         0x008 u64 policy       0x010 16 bytes family id
    0x020 16 bytes image id     0x030 u32 VMPL              0x034 u32 signature algorithm, 1: ECDSA P-384
    0x038 u64 current TCB       0x040 u64 platform info     0x048 u32 key info     0x050 64 bytes report data
    0x090 48 bytes measurement  0x0C0 32 bytes host data    0x0E0 48 bytes digest of the ID key
    0x110 48 bytes digest of the author key                 0x140 32 bytes report id
    0x160 32 bytes id of the migration agent's report       0x180 u64 reported TCB
    0x188 u8 CPU family, u8 model, u8 stepping: from version 3 on
    0x1A0 64 bytes chip id      0x1E0 u64 committed TCB
    0x1E8 u8 build, minor, major of the current firmware    0x1EC the same of the committed firmware
    0x1F0 u64 launch TCB        0x1F8 u64 launch and 0x200 u64 current mitigations: from version 5 on
    0x2A0 512 bytes signature: 72 bytes r, 72 bytes s

Key info: bit 0 author key in use, bit 1 chip key masked, bits 2-4 signing key (0 VCEK, 1 VLEK, 7 none). A TCB
is 8 bytes ``boot loader, tee, 4 reserved, snp, microcode``; from Turin (CPU family 26) on ``fmc, boot loader,
tee, snp, 3 reserved, microcode``. Fields that a version lacks are None; bytes of no field must be zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from measurements.errors import FormatError
from measurements.sev.cpu_models import CpuModel

REPORT_SIZE = 1184
VERSIONS = (2, 3, 5)
SIGNED_SIZE = 0x2A0
TURIN_FAMILY = 26

_HEAD = struct.Struct("<IIQ16s16sIIQQII64s48s32s48s48s32s32sQ")
_CHIP = struct.Struct("<64sQ3Bx3BxQ")
_ECDSA_P384 = 1
_RESERVED = {
    2: ((0x188, 0x1A0), (0x1F8, 0x2A0)),
    3: ((0x18B, 0x1A0), (0x1F8, 0x2A0)),
    5: ((0x18B, 0x1A0), (0x208, 0x2A0)),
}
_ALWAYS_RESERVED = ((0x4C, 0x50), (0x1EB, 0x1EC), (0x1EF, 0x1F0), (0x330, 0x4A0))


class ReportError(FormatError):
    """Bytes that are no attestation report, or one of a version that is not known."""

    code = "snp-report"


class SigningKey(IntEnum):
    """Which key signed the report."""

    VCEK = 0
    VLEK = 1
    NONE = 7


class PlatformInfo(IntFlag):
    """What the platform says of itself (56860, table 24)."""

    SMT_EN = 1 << 0
    TSME_EN = 1 << 1
    ECC_EN = 1 << 2
    RAPL_DIS = 1 << 3
    CIPHERTEXT_HIDING_DRAM_EN = 1 << 4
    ALIAS_CHECK_COMPLETE = 1 << 5
    TIO_EN = 1 << 7


@dataclass(frozen=True, kw_only=True, slots=True)
class TcbVersion:
    """Security versions of a platform's parts; ``fmc`` is None before Turin."""

    fmc: int | None
    boot_loader: int
    tee: int
    snp: int
    microcode: int

    @classmethod
    def parse(cls, word: int, *, turin: bool) -> TcbVersion:
        """The versions in a u64; raises ReportError if reserved bytes are set."""
        parts = word.to_bytes(8, "little")
        reserved = parts[4:7] if turin else parts[2:6]
        if any(reserved):
            raise _error(f"has a TCB version {word:#018x} with reserved bytes that are not zero")
        if turin:
            return cls(fmc=parts[0], boot_loader=parts[1], tee=parts[2], snp=parts[3], microcode=parts[7])
        return cls(fmc=None, boot_loader=parts[0], tee=parts[1], snp=parts[6], microcode=parts[7])

    def __str__(self) -> str:
        first = "" if self.fmc is None else f"fmc {self.fmc}, "
        later = f"tee {self.tee}, snp {self.snp}, microcode {self.microcode}"
        return f"{first}boot loader {self.boot_loader}, {later}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareVersion:
    """A version of the secure processor's SNP firmware."""

    major: int
    minor: int
    build: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor} build {self.build}"


@dataclass(frozen=True, kw_only=True, slots=True)
class SnpReport:
    """The fields of a report; digests and ids are raw bytes, ``signature`` is r and s as big integers."""

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: TcbVersion
    platform_info: int
    author_key_enabled: bool
    chip_key_masked: bool
    signing_key: SigningKey
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: TcbVersion
    cpu: CpuModel | None
    chip_id: bytes
    committed_tcb: TcbVersion
    current_firmware: FirmwareVersion
    committed_firmware: FirmwareVersion
    launch_tcb: TcbVersion
    launch_mitigations: int | None
    current_mitigations: int | None
    signature: tuple[int, int]


def parse_report(data: bytes, *, name: str = "SNP report") -> SnpReport:
    """The fields of a report of 1184 bytes; raises ReportError for anything that is not as laid out."""
    if len(data) != REPORT_SIZE:
        raise _error(f"has {len(data)} bytes, not {REPORT_SIZE}", name)
    head = _HEAD.unpack_from(data)
    version, algorithm = head[0], head[6]
    if version not in VERSIONS:
        raise _error(f"is of version {version} at byte 0; known are {VERSIONS}", name)
    if algorithm != _ECDSA_P384:
        raise _error(f"has signature algorithm {algorithm} at byte 0x34, not {_ECDSA_P384}", name)
    _check_reserved(data, version, name)
    author_key, masked, signing_key = _key_info(head[9], name)
    cpu = _cpu(data) if version >= 3 else None
    turin = cpu is not None and cpu.family >= TURIN_FAMILY
    chip_id, committed, *builds, launch = _CHIP.unpack_from(data, 0x1A0)
    mitigations = struct.unpack_from("<QQ", data, 0x1F8) if version >= 5 else (None, None)
    numbers = [int.from_bytes(data[at : at + 72], "little") for at in (0x2A0, 0x2E8)]
    return SnpReport(
        version=version,
        guest_svn=head[1],
        policy=head[2],
        family_id=head[3],
        image_id=head[4],
        vmpl=head[5],
        current_tcb=TcbVersion.parse(head[7], turin=turin),
        platform_info=head[8],
        author_key_enabled=author_key,
        chip_key_masked=masked,
        signing_key=signing_key,
        report_data=head[11],
        measurement=head[12],
        host_data=head[13],
        id_key_digest=head[14],
        author_key_digest=head[15],
        report_id=head[16],
        report_id_ma=head[17],
        reported_tcb=TcbVersion.parse(head[18], turin=turin),
        cpu=cpu,
        chip_id=chip_id,
        committed_tcb=TcbVersion.parse(committed, turin=turin),
        current_firmware=FirmwareVersion(build=builds[0], minor=builds[1], major=builds[2]),
        committed_firmware=FirmwareVersion(build=builds[3], minor=builds[4], major=builds[5]),
        launch_tcb=TcbVersion.parse(launch, turin=turin),
        launch_mitigations=mitigations[0],
        current_mitigations=mitigations[1],
        signature=(numbers[0], numbers[1]),
    )


def _check_reserved(data: bytes, version: int, name: str) -> None:
    for start, end in (*_ALWAYS_RESERVED, *_RESERVED[version]):
        if any(data[start:end]):
            raise _error(
                f"has bytes that are not zero between {start:#x} and {end:#x}, where none belong", name
            )


def _key_info(word: int, name: str) -> tuple[bool, bool, SigningKey]:
    try:
        key = SigningKey(word >> 2 & 7)
    except ValueError:
        raise _error(f"is signed by an unknown kind of key: key info {word:#x} at byte 0x48", name) from None
    if word >> 5:
        raise _error(f"has reserved bits in its key info {word:#x} at byte 0x48", name)
    return bool(word & 1), bool(word & 2), key


def _cpu(data: bytes) -> CpuModel:
    family, model, stepping = data[0x188:0x18B]
    return CpuModel(name=f"{family}/{model}/{stepping}", family=family, model=model, stepping=stepping)


def _error(reason: str, name: str = "SNP report") -> ReportError:
    return ReportError(reason, subject=name, advice="give the report as the guest got it, 1184 bytes")
