"""``keyturn app seal`` as an owner calls it, against the KMS's own service on loopback."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from guest_agent.owner_envelope import open_envelope, target_of
from keyturn.cli import main
from keyturn.envelope_seal import LARGEST_INPUT, SecretsError, read_owner_key, read_secrets
from kms.root_key import RootKey
from kms.service import create_app
from measurements.app_manifest import KeyKind, KeyScope, parse_manifest
from measurements.envelope import parse_envelope
from tests.kms.guests import World, app_manifest
from tests.kms.receipts import APP_ID, DEVELOPMENT_ROOT, PIN, ROOT
from tests.support.app_documents import container_document
from tests.support.envelopes import OWNER, OWNER_KEY


class Served:
    """A KMS on loopback, and an app that pins it, in the working folder."""

    def __init__(self, folder: Path, root: RootKey) -> None:
        self.root = root
        self.manifest = app_manifest(
            root,
            owner_key=OWNER_KEY.hex(),
            containers=[container_document(allowed_env=["TOKEN", "GREETING"])],
        )
        self.world = World(folder, root=root, manifest=self.manifest)
        (folder / "app").mkdir()
        (folder / "app" / "app-manifest.json").write_bytes(self.manifest)
        (folder / "owner.pem").write_bytes(pem(OWNER))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.server = uvicorn.Server(
            uvicorn.Config(create_app(self.world.kms), host="127.0.0.1", port=port, log_level="critical")
        )
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.world.kms.journal.close()


def pem(key: Any, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    assert isinstance(data, bytes)
    return data


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    made = Served(tmp_path, ROOT)
    yield made
    made.close()


@pytest.fixture
def development(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    made = Served(tmp_path, DEVELOPMENT_ROOT)
    yield made
    made.close()


class Shell:
    """Runs ``keyturn app seal`` with ``secrets`` as standard input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def seal(self, url: str, *words: str, secrets: bytes = b"TOKEN=s3cret\n") -> tuple[int, str, str]:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(secrets)))
        plain = {"--kms": url, "--owner-key": "owner.pem", "--epoch": "1", "--counter": "2"}
        given_names = set(words[::2])
        rest = [word for name, value in plain.items() if name not in given_names for word in (name, value)]
        with pytest.raises(SystemExit) as caught:
            main(["app", "seal", "app", *rest, *words])
        captured = self._capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def opened(served: Served, epoch: int = 1) -> dict[str, str]:
    """What the app opens."""
    key = served.root.app_key(
        app_id=APP_ID,
        scope=KeyScope.APP,
        scope_id=b"",
        path="keyturn/envelope",
        kind=KeyKind.X25519,
        epoch=epoch,
    )
    envelope = parse_envelope(Path("envelope.json").read_bytes())
    target = target_of(parse_manifest(served.manifest), epoch=epoch)
    return open_envelope(envelope, target, key.secret).env


class TestSeal:
    def test_from_standard_input(self, served: Served, shell: Shell) -> None:
        status, out, err = shell.seal(served.url, secrets=b"# comment\n\nTOKEN=a=b \nGREETING=\n")
        assert status == 0, err
        assert opened(served) == {"TOKEN": "a=b ", "GREETING": ""}
        assert "GREETING, TOKEN" in out
        assert "a=b" not in out + err

    def test_from_a_file_into_a_config_disk(self, served: Served, shell: Shell) -> None:
        Path("secrets").write_bytes(b"TOKEN=s3cret")
        assert shell.seal(served.url, "--secrets", "secrets", "--epoch", "4")[0] == 0
        assert opened(served, epoch=4) == {"TOKEN": "s3cret"}
        words = ["app", "config", "app", "--kms", "http://10.0.2.2:8090"]
        for more, expected in (([], 2), (["--envelope", "envelope.json"], 0)):
            with pytest.raises(SystemExit) as caught:
                main([*words, *more])
            assert int(caught.value.code or 0) == expected

    def test_a_config_disk_takes_no_envelope_that_the_guest_would_refuse(
        self, served: Served, shell: Shell, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert shell.seal(served.url)[0] == 0
        good = json.loads(Path("envelope.json").read_bytes())
        for change, reason in (
            ({"app_id": "0x" + "12" * 20}, "another app_id"),
            ({"counter": 3}, "signature"),
            ({"counter": 0}, "counter"),
        ):
            changed = json.dumps(good | change, sort_keys=True, separators=(",", ":"))
            Path("changed.json").write_text(changed)
            with pytest.raises(SystemExit) as caught:
                main(["app", "config", "app", "--kms", served.url, "--envelope", "changed.json"])
            assert caught.value.code
            assert reason in capsys.readouterr().err
        assert not Path("config.disk").exists()

    def test_json(self, served: Served, shell: Shell) -> None:
        status, out, _ = shell.seal(served.url, "--output", "e", "--json")
        assert status == 0
        assert json.loads(out) == {"envelope": "e", "names": ["TOKEN"], "epoch": 1, "counter": 2}


class TestRefused:
    def refuse(self, outcome: tuple[int, str, str], reason: str) -> None:
        status, out, err = outcome
        assert status != 0
        assert reason in err
        assert "s3cret" not in out + err
        assert not Path("envelope.json").exists()

    def test_another_kms_than_the_app_pins(self, served: Served, shell: Shell) -> None:
        other = RootKey(root=bytes(64), pin=PIN, development=False)
        manifest = app_manifest(other, owner_key=OWNER_KEY.hex(), containers=_containers(served))
        Path("app/app-manifest.json").write_bytes(manifest)
        self.refuse(shell.seal(served.url), f"it is KMS {ROOT.identity.kms_id.hex()}")

    def test_a_development_kms_unless_it_is_allowed(self, development: Served, shell: Shell) -> None:
        self.refuse(shell.seal(development.url), "development KMS")
        assert shell.seal(development.url, "--allow-development")[0] == 0
        assert opened(development) == {"TOKEN": "s3cret"}

    def test_another_key_than_the_manifest_s_owner(self, served: Served, shell: Shell) -> None:
        Path("owner.pem").write_bytes(pem(Ed25519PrivateKey.generate()))
        self.refuse(shell.seal(served.url), "this is another")

    def test_a_name_that_no_container_takes(self, served: Served, shell: Shell) -> None:
        self.refuse(shell.seal(served.url, secrets=b"PASSWORD=s3cret"), "PASSWORD, which no container takes")

    def test_an_app_without_owner(self, served: Served, shell: Shell) -> None:
        Path("app/app-manifest.json").write_bytes(app_manifest())
        self.refuse(shell.seal(served.url), "names no owner")

    def test_a_line_that_is_no_variable(self, served: Served, shell: Shell) -> None:
        self.refuse(shell.seal(served.url, secrets=b"TOKEN=x\ns3cret"), "line 2 is not NAME=value")

    def test_counter_zero(self, served: Served, shell: Shell) -> None:
        assert shell.seal(served.url, "--counter", "0")[0] != 0
        assert not Path("envelope.json").exists()

    def test_no_kms(self, tmp_path: Path, served: Served, shell: Shell) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
            self.refuse(shell.seal(url), "failed")


def _containers(served: Served) -> list[Any]:
    containers = json.loads(served.manifest)["containers"]
    assert isinstance(containers, list)
    return containers


class TestReading:
    @given(
        st.dictionaries(
            st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True),
            st.text(st.characters(exclude_characters="\n\r", codec="utf-8")),
        )
    )
    def test_values_are_taken_as_they_stand(self, env: dict[str, str]) -> None:
        text = "".join(f"{name}={value}\n" for name, value in env.items())
        assert read_secrets(text.encode()) == env

    @pytest.mark.parametrize("data", [b"A", b"A=1\nA=2", b"\xff=1", b"#" * (LARGEST_INPUT + 1)])
    def test_no_secrets(self, data: bytes) -> None:
        with pytest.raises(SecretsError):
            read_secrets(data)

    @pytest.mark.parametrize(
        "data",
        [b"", pem(OWNER, b"password"), pem(generate_private_key(SECP256R1()))],
        ids=["empty", "locked", "p256"],
    )
    def test_no_owner_key(self, data: bytes) -> None:
        with pytest.raises(SecretsError, match="owner key"):
            read_owner_key(data)
