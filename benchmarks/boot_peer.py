"""The peer of a boot: BusyBox as init on the same verity root, and the same container started by crun.

Kernel, initrd, root and app disk are those of the image; after the kernel's own archive comes a second one
that replaces the initrd's ``/init`` and brings a script. The script does by hand what it takes to run the
container, with the same mounts, device tables and runtime configuration as the agent's: no TPM, no keys, no
encrypted disk, no supervision, no report.
"""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Final

from guest_agent.device_tables import slice_table, verity_table
from guest_agent.oci_config import Places, runtime_config
from image_builder.cpio import cpio_bytes
from image_builder.image import Artefact, Image
from image_builder.tree import BytesContent, Kind, Node
from measurements.app_manifest import Container

APP_DEVICE: Final = "/dev/vdb"
ADDRESS, GATEWAY = "10.0.2.15/24", "10.0.2.2"

_CHECK: Final = """"$busybox" cmp -s /proc/cmdline "$constants/cmdline" ||
    refuse 'the kernel command line is not the one this image was built with'
"""
_END: Final = 'exec "$busybox" switch_root /root "$busybox" init\n'
_PEER_END: Final = """"$busybox" mkdir /root/dev/peer
"$busybox" cp /peer/start /peer/inittab /peer/slice /peer/verity /peer/config.json /root/dev/peer
"$busybox" mount --bind /root/dev/peer/inittab /root/etc/inittab
"""
_INITTAB: Final = """::sysinit:/usr/bin/busybox ash /dev/peer/start
::sysinit:/usr/bin/busybox poweroff -f
"""
_START: Final = f"""set -eu
export PATH=/usr/sbin:/usr/bin DM_DISABLE_UDEV=1
busybox=/usr/bin/busybox
here=/run/keyturn
"$busybox" mount -a
"$busybox" ip link set lo up
"$busybox" ip address add {ADDRESS} dev eth0
"$busybox" ip link set eth0 up
"$busybox" ip route add default via {GATEWAY} dev eth0
"$busybox" mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
"$busybox" mkdir -p "$here/root" "$here/memory" "$here/merged" "$here/bundle"
/usr/sbin/dmsetup create slice --readonly /dev/peer/slice
/usr/sbin/dmsetup create app --readonly /dev/peer/verity
"$busybox" mount -t erofs -o ro,nosuid,nodev /dev/mapper/app "$here/root"
"$busybox" mount -t tmpfs -o nosuid,nodev,mode=755,size=1048576 tmpfs "$here/memory"
"$busybox" mkdir "$here/memory/upper" "$here/memory/work"
options=nosuid,nodev,lowerdir=$here/root,upperdir=$here/memory/upper,workdir=$here/memory/work
"$busybox" mount -t overlay -o "$options" overlay "$here/merged"
"$busybox" cp /dev/peer/config.json "$here/bundle"
exec /usr/bin/crun --root /run/crun run --bundle "$here/bundle" peer
"""


class PeerError(ValueError):
    """An initrd script of another form than the peer is made from."""


def peer_init(script: str) -> str:
    """``/init`` of the peer from that of the image: without the check of the command line, to which firmware
    that loads a kernel from the host adds a word, and with the peer's init table.
    """
    if script.count(_CHECK) != 1 or not script.endswith(_END):
        raise PeerError("the initrd's script has changed; the peer has to follow")
    return script.replace(_CHECK, "").removesuffix(_END) + _PEER_END + _END


def peer_archive(container: Container) -> bytes:
    """The second archive of the peer's initrd; its container has no encrypted volume and no agent socket."""
    bare = container._replace(mounts=(), socket=False)
    places = Places("/run/keyturn/merged", "/run/keyturn/none")
    init = files("image_builder.data").joinpath("initrd_init.sh").read_text(encoding="ascii")
    contents = {
        "init": peer_init(init),
        "peer/start": _START,
        "peer/inittab": _INITTAB,
        "peer/slice": slice_table(bare.volume, device=APP_DEVICE),
        "peer/verity": verity_table(bare.volume, device="/dev/mapper/slice"),
        "peer/config.json": json.dumps(runtime_config(bare, places=places, host_env={})),
    }
    nodes = [Node(path="peer", kind=Kind.DIRECTORY, mode=0o755)]
    nodes += [
        Node(path=path, kind=Kind.FILE, mode=0o755, content=BytesContent(text.encode()))
        for path, text in contents.items()
    ]
    return cpio_bytes({node.path: node for node in nodes})


def peer_arguments(image: Image, container: Container, *, folder: Path) -> tuple[str, ...]:
    """QEMU's arguments that boot the peer instead of the disk; its initrd is written to ``folder``."""
    initrd = folder / "peer-initrd"
    initrd.write_bytes(image.path(Artefact.INITRD).read_bytes() + peer_archive(container))
    return (
        *("-kernel", str(image.path(Artefact.KERNEL))),
        *("-initrd", str(initrd)),
        *("-append", image.command_line),
    )
