"""RTMR2: what boot loader and kernel measure themselves.

A UKI's stub measures through the same protocol as with a TPM: its sections (PCR 11), what it takes up besides
them (PCR 12, 13), and the kernel's own stub the command line and the initrd (PCR 9) as PCR events 8 to 15, in
their order. Linux measures into a trust domain since 6.9 only
(``drivers/firmware/efi/libstub/efi-stub-helper.c``); with an older kernel, command line and initrd are in no
register.

On direct boot OVMF tells the kernel by ``initrd=initrd`` that it has an initrd, so the command line that is
measured differs from the host's.
"""

from __future__ import annotations

from collections.abc import Sequence

from measurements.events import EventType, MeasuredEvent
from measurements.firmware_catalogue import InitrdArgument
from measurements.linux_stub import PCR as KERNEL_PCR
from measurements.platforms import RegisterEvent
from measurements.tdx.cc_mapping import CcRegister, in_trust_domain

OLDEST_MEASURING_KERNEL = (6, 9)

_INITRD_ARGUMENT = "initrd=initrd"


def rtmr2_events(started: Sequence[MeasuredEvent], *, kernel_release: str) -> list[RegisterEvent]:
    """The register's events among ``started``, all from the first program that firmware starts."""
    measured = kernel_measures(kernel_release)
    return [
        mapped
        for event in started
        if measured or not (event.pcr == KERNEL_PCR and event.event_type is EventType.EV_EVENT_TAG)
        for mapped in in_trust_domain([event])
        if mapped.register == CcRegister.RTMR2.register
    ]


def kernel_measures(kernel_release: str) -> bool:
    """Whether a kernel (``6.12.107+deb13``), whose release was checked, measures into RTMR2."""
    major, minor = kernel_release.split("-")[0].split("+")[0].split(".")[:2]
    return (int(major), int(minor)) >= OLDEST_MEASURING_KERNEL


def direct_command_line(command_line: str, placement: InitrdArgument, *, initrd: bool) -> str:
    """The command line that the kernel gets from OVMF on direct boot."""
    if not initrd:
        return command_line
    if placement is InitrdArgument.PREFIX:
        return f"{_INITRD_ARGUMENT} {command_line}"
    return f"{command_line} {_INITRD_ARGUMENT}"
