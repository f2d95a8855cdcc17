"""The save area (VMSA) with which a processor starts: 4096 bytes that SEV-ES and SNP measure.

Layout (AMD64 Architecture Programmer's Manual volume 2, table B-4; little endian; all else zero)::

    0x000  es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr: u16 selector, u16 attributes, u32 limit, u64 base
    0x0D0  u64 efer      0x148 u64 cr4   0x158 u64 cr0   0x160 u64 dr7   0x168 u64 dr6   0x170 u64 rflags
    0x178  u64 rip       0x268 u64 g_pat 0x310 u64 rdx   0x3B0 u64 sev_features          0x3E8 u64 xcr0
    0x408  u32 mxcsr     0x410 u16 x87 control word

The values are those of a processor after reset with what each VMM adds: KVM sets EFER.SVME and CR4.MCE; QEMU
puts the CPU signature into EDX and starts the FPU; Google and Amazon leave EDX at its reset value. Sources:
Linux, arch/x86/kvm/svm (``sev_es_sync_vmsa``); QEMU, target/i386/cpu.c (``x86_cpu_reset_hold``); for GCE
google/gce-tcb-verifier, sev/ld_from_ovmf.go and sev/measurement.go; for EC2 virtee/sev-snp-measure, whose
values its users compared with reports.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from measurements.sev.ovmf_metadata import PAGE

VMSA_GPA = 0xFFFFFFFFF000
"""Where Linux says that save areas are (arch/x86/kvm/svm/sev.c, ``INITIAL_VMSA_GPA``)."""

_VMSA_GPA_52_BITS = 0xFFFFFFFFFF000

BOOT_EIP = 0xFFFFFFF0
"""Where the first processor starts: the reset vector."""

SEV_FEATURES_OFFSET = 0x3B0

_SEGMENT = struct.Struct("<HHIQ")
_RDX_RESET = 0x600

_PAT_RESET = 0x0007040600070406
_PAT_GCE = 0x00070106


class Vmm(StrEnum):
    """Who starts the guest. Google's passes an address of all ones for save areas, of which processors keep
    as many bits as they have: 48 on Milan, 52 on Genoa.
    """

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"
    GCE_GENOA = "gce-genoa"

    @property
    def is_google(self) -> bool:
        """Whether it is Google's, on any processor."""
        return self in (Vmm.GCE, Vmm.GCE_GENOA)

    @property
    def vmsa_gpa(self) -> int:
        """The address that is measured with save areas."""
        return _VMSA_GPA_52_BITS if self is Vmm.GCE_GENOA else VMSA_GPA


@dataclass(frozen=True, kw_only=True, slots=True)
class _Start:
    """How the processors of one VMM start: attributes of segments, and registers."""

    cs: int
    first_cs: int
    ss: int
    tr: int
    g_pat: int
    mxcsr: int
    x87_control: int


_GOOGLE = _Start(cs=0x9B, first_cs=0x9B, ss=0x93, tr=0x8B, g_pat=_PAT_GCE, mxcsr=0, x87_control=0)
_STARTS = {
    Vmm.QEMU: _Start(
        cs=0x9B, first_cs=0x9B, ss=0x93, tr=0x8B, g_pat=_PAT_RESET, mxcsr=0x1F80, x87_control=0x37F
    ),
    Vmm.EC2: _Start(cs=0x9B, first_cs=0x9A, ss=0x92, tr=0x83, g_pat=_PAT_RESET, mxcsr=0, x87_control=0),
    Vmm.GCE: _GOOGLE,
    Vmm.GCE_GENOA: _GOOGLE,
}


def depends_on_cpu_model(vmm: Vmm) -> bool:
    """Whether the CPU signature is in the save areas of this VMM."""
    return vmm is Vmm.QEMU


def reset_vmsa(*, eip: int, signature: int, features: int, vmm: Vmm) -> bytes:
    """The save area of a processor that starts at ``eip`` (u32) in real mode."""
    start = _STARTS[vmm]
    data = (0, 0x93, 0xFFFF, 0)
    segments = (
        data,
        (0xF000, start.first_cs if eip == BOOT_EIP else start.cs, 0xFFFF, eip & 0xFFFF0000),
        (0, start.ss, 0xFFFF, 0),
        *(data, data, data),
        *((0, 0, 0xFFFF, 0), (0, 0x82, 0xFFFF, 0), (0, 0, 0xFFFF, 0), (0, start.tr, 0xFFFF, 0)),
    )
    page = _page(
        segments,
        cr0=0x10,
        rip=eip & 0xFFFF,
        g_pat=start.g_pat,
        rdx=signature if depends_on_cpu_model(vmm) else _RDX_RESET,
        features=features,
    )
    struct.pack_into("<I4xH", page, 0x408, start.mxcsr, start.x87_control)
    return bytes(page)


def svsm_vmsa(*, entry: int, signature: int, features: int) -> bytes:
    """The save area of a processor that starts in an SVSM at ``entry`` (u64): protected mode, flat segments.

    Source: coconut-svsm/qemu, target/i386/sev.c; the FPU's control words stay zero.
    """
    flat = (0x10, 0xC93, 0xFFFFFFFF, 0)
    segments = (
        flat,
        (0x08, 0xC9B, 0xFFFFFFFF, 0),
        *(flat, flat, flat),
        (0, 0x93, 0xFFFF, 0),
        *((0, 0, 0xFFFF, 0), (0, 0x82, 0xFFFF, 0), (0, 0, 0xFFFF, 0), (0, 0x8B, 0xFFFF, 0)),
    )
    page = _page(segments, cr0=0x11, rip=entry, g_pat=_PAT_RESET, rdx=signature, features=features)
    struct.pack_into("<I", page, 0x408, 0x1F80)
    return bytes(page)


def _page(
    segments: Sequence[tuple[int, int, int, int]],
    *,
    cr0: int,
    rip: int,
    g_pat: int,
    rdx: int,
    features: int,
) -> bytearray:
    page = bytearray(PAGE)
    for number, segment in enumerate(segments):
        _SEGMENT.pack_into(page, number * _SEGMENT.size, *segment)
    words = (
        *((0x0D0, 0x1000), (0x148, 0x40), (0x158, cr0), (0x160, 0x400), (0x168, 0xFFFF0FF0), (0x170, 2)),
        *((0x178, rip), (0x268, g_pat), (0x310, rdx), (SEV_FEATURES_OFFSET, features), (0x3E8, 1)),
    )
    for offset, value in words:
        struct.pack_into("<Q", page, offset, value)
    return page
