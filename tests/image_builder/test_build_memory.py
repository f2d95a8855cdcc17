"""A root of 1 GB is unpacked, merged and written with little memory, because nothing holds a whole file."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.vectors import REPOSITORY

FILES, FILE_SIZE = 16, 64 << 20
MOST_MEMORY = 300 << 20

PROGRAM = """
import sys
from pathlib import Path
from image_builder.build_artefacts import write_root
from image_builder.lockfile import LockedPackage, PackageRole
from image_builder.merge import merge_packages
from image_builder.progress import NoProgress
from image_builder.store import Store
from image_builder.unpack import unpack_all
from tests.image_builder.package_files import accounts, rules
from tests.support.peak_memory import peak_bytes

root, sha256, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
package = LockedPackage(name="big", version="1", architecture="amd64", role=PackageRole.ROOT, size=size,
    sha256=sha256, path="pool/big.deb", suite="trixie", source="big", source_version="1")
unpacked = unpack_all([package], Store(root), jobs=2, progress=NoProgress())
tree = merge_packages(unpacked, accounts=accounts(), rules=rules())
written = write_root(tree, root / "root.erofs", limit=2 << 30)
assert written.verity.data_bytes > 1 << 30
print(peak_bytes())
"""


def big_package(path: Path) -> None:
    """A package with incompressible, uncompressed data of 1 GiB, written in pieces."""
    piece = b"".join(hashlib.sha256(number.to_bytes(4, "little")).digest() for number in range(1 << 15))
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w") as archive:
        text = b"Package: big\nVersion: 1\nArchitecture: amd64\n"
        info = tarfile.TarInfo("./control")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    header = tarfile.TarInfo("./usr/share/0")
    header.size = FILE_SIZE
    data_size = FILES * (512 + FILE_SIZE) + 1024
    with path.open("wb") as stream:
        stream.write(b"!<arch>\n" + _ar_header("debian-binary", 4) + b"2.0\n")
        stream.write(_ar_header("control.tar", len(control.getvalue())) + control.getvalue())
        stream.write(_ar_header("data.tar", data_size))
        for number in range(FILES):
            header.name = f"./usr/share/{number}"
            stream.write(header.tobuf())
            for _ in range(FILE_SIZE // len(piece)):
                stream.write(piece)
        stream.write(bytes(1024))


def _ar_header(name: str, size: int) -> bytes:
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{size:<10}`\n".encode()


def test_a_large_root_needs_little_memory(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 8 << 30:
        pytest.skip("less than 8 GiB of free disk")
    try:
        deb = tmp_path / "big.deb"
        big_package(deb)
        with deb.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        target = tmp_path / "sha256" / sha256[:2] / sha256
        target.parent.mkdir(parents=True)
        deb.rename(target)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), sha256, str(target.stat().st_size)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < MOST_MEMORY
    finally:
        shutil.rmtree(tmp_path)
