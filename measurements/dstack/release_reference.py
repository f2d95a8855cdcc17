"""What an image measures on TDX, computed from a release's own files.

Where QEMU hands the kernel's file to firmware as it is, firmware hashes that: always if the image says that
its firmware normalises the header (``kernel_header_normalized``), and from QEMU 10.0 on, whose
``etc/boot/kernel`` the firmware of dstack (edk2-stable202502) prefers. Older QEMU patches the header, which
``kernel_patch`` follows. dstack's own ``dstack-mr`` patches for every QEMU unless the header is normalised,
and then differs from here for QEMU 10.0 and later.
"""

from __future__ import annotations

from measurements.dstack.boot_log import Measured, command_line_digest, sha384
from measurements.dstack.errors import DstackInputError
from measurements.dstack.predict import TdxReference
from measurements.dstack.release import Release
from measurements.dstack.vm_config import VmConfig
from measurements.events import Bank
from measurements.pe import authenticode_digest
from measurements.tdx.kernel_patch import UNTOUCHED_FROM, patched_kernel
from measurements.tdx.mrtd import PageOrder, compute_mrtd
from measurements.tdx.td_hob import td_hob
from measurements.tdx.tdvf import parse_tdvf

ORDERS = (PageOrder.SINGLE_PASS, PageOrder.TWO_PASS)


def release_reference(release: Release, config: VmConfig) -> TdxReference:
    """From the firmware, kernel and initrd of the folder; raises ``FormatError`` for files that are not such,
    and ``DstackInputError`` for firmware without a variable store.
    """
    metadata, files = release.metadata, release.files
    firmware = parse_tdvf(files[metadata.bios], name=metadata.bios)
    if firmware.configuration is None:
        raise DstackInputError(
            "has no variable store, which dstack's firmware measures",
            subject=metadata.bios,
            advice="give a release of dstack as it is published",
        )
    by_order = {order: compute_mrtd(firmware, order=order) for order in ORDERS}
    variables = bytes(firmware.contents(firmware.configuration))
    return TdxReference(
        mrtd={order: found.value for order, found in by_order.items()},
        mrtd_events=by_order[config.page_order].events,
        td_hob=Measured(
            digest=sha384(td_hob(firmware, config.memory)),
            origin=f"memory of the machine, regions in {metadata.bios}",
        ),
        variables=Measured(digest=sha384(variables), origin=f"variable store in {metadata.bios}"),
        kernel=Measured(digest=_kernel_digest(release, config), origin=metadata.kernel),
        command_line=Measured(
            digest=command_line_digest(metadata.command_line), origin="cmdline in metadata.json"
        ),
        initrd=Measured(digest=sha384(files[metadata.initrd]), origin=metadata.initrd),
    )


def kernel_is_untouched(release: Release, config: VmConfig) -> bool:
    """Whether firmware hashes the kernel's file as it is."""
    return release.metadata.kernel_header_normalized or config.qemu[:2] >= UNTOUCHED_FROM


def _kernel_digest(release: Release, config: VmConfig) -> bytes:
    metadata, files = release.metadata, release.files
    kernel = files[metadata.kernel]
    if not kernel_is_untouched(release, config):
        kernel = patched_kernel(
            kernel,
            memory=config.memory,
            initrd_size=len(files[metadata.initrd]),
            command_line=metadata.command_line,
        )
    return authenticode_digest(kernel, Bank.SHA384, subject=metadata.kernel)
