"""The resolver against apt itself: the same packages in the same versions, for real lists from a real
mirror.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from image_builder.mirrors import MirrorError, archive_of, machine_mirrors
from image_builder.openpgp import KeyringError, read_keyring
from image_builder.resolver import resolve
from image_builder.store import Store
from image_builder.suite_index import IndexReader
from image_builder.transport import Transport, TransportError
from image_builder.universe import Universe
from tests.support.tools import require_tool

pytestmark = [pytest.mark.network, pytest.mark.apt]

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MAIN = ("trixie", "trixie-updates", "trixie-security")
BACKPORTS = "trixie-backports"
LISTS = (
    "systemd",
    "podman",
    "nginx",
    "python3-cryptography",
    "postgresql",
    "mailutils",
    "libvirt-daemon-system",
    "default-jre",
    "build-essential",
    "cron dma",
    "base-files base-passwd busybox dmsetup libpython3.13-stdlib python3.13-minimal",
)
PINNED = "golang-go"


@dataclass(frozen=True)
class Both:
    """The suites as keyturn reads them, and a private root in which apt has read the same."""

    automatic: Universe
    pinned: Universe
    apt_config: Path

    def apt(self, *arguments: str) -> str:
        done = subprocess.run(
            ["apt-get", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "APT_CONFIG": str(self.apt_config), "LC_ALL": "C"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def installed_by_apt(self, *names: str) -> dict[str, str]:
        text = self.apt("-s", "install", *names)
        return dict(re.findall(r"^Inst (\S+?)(?::amd64)? \((\S+) ", text, re.MULTILINE))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    require_tool("apt-get", package="apt")
    root = tmp_path_factory.mktemp("apt")
    mirrors = machine_mirrors([])
    try:
        reader = IndexReader(
            transport=Transport(),
            mirrors=mirrors,
            keyring=read_keyring(KEYRING),
            store=Store(root / "store"),
            architecture="amd64",
            now=datetime.now(UTC),
        )
        indexes = {suite: reader.read(suite, ["main"])[0].packages for suite in (*MAIN, BACKPORTS)}
    except (MirrorError, TransportError, KeyringError) as error:
        pytest.skip(f"no Debian mirror: {error}")
    main = [indexes[suite] for suite in MAIN]
    lines = [
        f"deb [signed-by={KEYRING}] {mirrors.of(archive_of(suite))[0]} {suite} main"
        for suite in (*MAIN, BACKPORTS)
    ]
    both = Both(
        automatic=Universe(automatic=main),
        pinned=Universe(automatic=main, lending=[indexes[BACKPORTS]], pins={PINNED: BACKPORTS}),
        apt_config=private_root(root / "root", lines),
    )
    both.apt("update")
    return both


def private_root(root: Path, sources: list[str]) -> Path:
    """Folders for an apt that knows nothing of this machine; the path of its configuration."""
    for folder in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d"):
        (root / folder).mkdir(parents=True)
    (root / "status").touch()
    (root / "etc/sources.list").write_text("\n".join(sources) + "\n")
    settings = {
        "Dir::State": root / "state",
        "Dir::State::status": root / "status",
        "Dir::Cache": root / "cache",
        "Dir::Etc": root / "etc",
        "Dir::Etc::trustedparts": root / "etc/trusted",
        "APT::Architecture": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    lines = [f'{name} "{value}";' for name, value in settings.items()]
    config = root / "apt.conf"
    config.write_text("\n".join([*lines, 'APT::Architectures { "amd64"; };', ""]))
    return config


@pytest.mark.parametrize("names", LISTS)
def test_the_set_is_apts(both: Both, names: str) -> None:
    ours = {package.name: package.version for package in resolve(both.automatic, names.split()).packages}
    assert ours == both.installed_by_apt(*names.split())
    assert len(ours) >= 8


def test_a_pinned_package_brings_a_set_that_apt_agrees_with(both: Both) -> None:
    """apt takes a package's dependencies from backports only where they are pinned too; so it is told which
    ones ours took.
    """
    if not both.pinned.in_suite(PINNED, BACKPORTS):
        pytest.skip(f"{BACKPORTS} has no {PINNED} today")
    packages = resolve(both.pinned, [PINNED, "nginx"]).packages
    lent = [package.name for package in packages if package.suite == BACKPORTS]
    preferences = both.apt_config.parent / "etc/preferences.d/backports"
    preferences.write_text(
        "".join(f"Package: {name}\nPin: release n={BACKPORTS}\nPin-Priority: 990\n\n" for name in lent)
    )
    try:
        theirs = both.installed_by_apt(PINNED, "nginx")
    finally:
        preferences.unlink()
    assert {package.name: package.version for package in packages} == theirs
    assert PINNED in lent
    assert "nginx" not in lent
