"""The proof by credential from the command line, with real software TPMs and ``tpm2-tools``: challenge,
activation, import, verdict.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from attestation.container_codec import decode_container
from attestation.container_json import container_json
from keyturn.cli import main
from keyturn.input_files import platform_root
from measurements.swtpm import INTERMEDIATE_NAME, ROOT_NAME
from tests.support.tools import require_tool
from tests.support.tpm2_tools import ECC_EK, RSA_EK, ToolMachine, tool_machine
from tests.support.vectors import REPOSITORY

pytestmark = pytest.mark.apt
NONCE = "1122334455667788"


class Machines(NamedTuple):
    """Two machines whose TPMs have one maker: the folder of its certificates, and SHA-256 of its root."""

    good: ToolMachine
    other: ToolMachine
    authority: Path
    root: str


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    require_tool("swtpm_setup", package="swtpm-tools")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kt-")))
        authority = folder / "ca"
        for name in ("one", "two"):
            with pytest.raises(SystemExit) as ended:
                main(["tpm", "make", str(folder / name), "--authority", str(authority)])
            assert not ended.value.code
        good, other = (stack.enter_context(tool_machine(folder / name)) for name in ("one", "two"))
        root = platform_root(authority / ROOT_NAME).hex()
        yield Machines(good=good, other=other, authority=authority, root=root)


class Verifier:
    """Who challenges: a folder of its own, and the commands."""

    def __init__(self, capsys: pytest.CaptureFixture[str], machines: Machines) -> None:
        self._capsys, self._machines = capsys, machines

    def call(self, *words: str, status: int = 0) -> str:
        """Stdout of one command."""
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        shown = self._capsys.readouterr()
        assert int(ended.value.code or 0) == status, shown.out + shown.err
        return shown.out

    def take(self, machine: ToolMachine, name: str, *, ek: str = RSA_EK) -> str:
        """Evidence of a machine, as its own software writes it and the verifier imports it."""
        Path(f"{name}.json").write_bytes(container_json(machine.evidence(NONCE, ek=ek)))
        authority, chain = self._machines.authority, Path("chain.pem")
        chain.write_bytes(b"".join((authority / pem).read_bytes() for pem in (INTERMEDIATE_NAME, ROOT_NAME)))
        words = ("--certificates", str(chain), "--output", f"{name}.bin")
        self.call("evidence", "import", f"{name}.json", *words)
        return f"{name}.bin"

    def challenge(self, evidence: str, blob: str) -> dict[str, str]:
        shown = self.call("tpm", "challenge", evidence, "--output", blob, "--json")
        return dict(json.loads(shown))

    def add(self, evidence: str, opened: Path, output: str) -> str:
        """The evidence with what a TPM opened."""
        words = ("--activated-secret", str(opened), "--output", output)
        self.call("evidence", "import", evidence, *words)
        return output

    def policy(self, ek: str, *, activation: str = "") -> str:
        """A policy for the TPM with this EK, from the template."""
        Path("policy.toml").unlink(missing_ok=True)
        self.call("policy", "init", "--platform", "tpm", "--output", "policy.toml")
        text = Path("policy.toml").read_text()
        for old, new in {
            "event-log = true": "event-log = false",
            "platform-ids = []": f'platform-ids = ["{ek}"]',
            "measurements = []": 'measurements = "any"',
            "activation-secrets = []": f"activation-secrets = [{activation!r}]" if activation else None,
        }.items():
            assert text.count(old) == 1
            text = text if new is None else text.replace(old, new)
        root = f'\n[[roots]]\npurpose = "tpm-ek"\nfingerprint = "{self._machines.root}"\n'
        root += 'subject = "CN=swtpm-localca-rootca"\nsource = "keyturn tpm make"\ndate = 2026-06-01\n'
        Path("policy.toml").write_text(text + root)
        return "policy.toml"

    def failures(self, evidence: str, policy: str, *more: str, status: int = 1) -> list[str]:
        """The checks that were made and failed."""
        words = ("--policy", policy, "--report-data", NONCE, "--offline", *more)
        shown: dict[str, Any] = json.loads(self.call("verify", evidence, *words, "--json", status=status))
        return list(shown["failures"])


@pytest.fixture
def verifier(
    capsys: pytest.CaptureFixture[str], machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Verifier:
    monkeypatch.chdir(tmp_path)
    return Verifier(capsys, machines)


@pytest.mark.parametrize("ek", [RSA_EK, ECC_EK], ids=["rsa-2048", "p-384"])
def test_a_challenged_tpm_passes(verifier: Verifier, machines: Machines, ek: str) -> None:
    evidence = verifier.take(machines.good, "evidence", ek=ek)
    made = verifier.challenge(evidence, "credential.blob")
    assert machines.good.activate(Path("credential.blob").resolve(), "secret", ek=ek)
    opened = machines.good.folder / "secret"
    activated = verifier.add(evidence, opened, "activated.bin")
    part = decode_container(Path(activated).read_bytes()).tpm
    assert part is not None
    assert part.activated_secret == opened.read_bytes()
    policy = verifier.policy(made["ek_platform_id"])
    assert verifier.failures(activated, policy, "--activation", made["activation"], status=0) == []
    assert verifier.failures(activated, policy, "--activation", made["activation"].upper(), status=0) == []
    assert verifier.failures(activated, policy) == ["credential-activation"]
    listed = verifier.policy(made["ek_platform_id"], activation=made["activation"])
    assert verifier.failures(activated, listed, status=0) == []
    assert verifier.failures(activated, listed, "--activation", "00" * 32) == ["credential-activation"]
    assert "ak-proof" in verifier.failures(evidence, listed)


def test_the_secret_is_only_in_the_blob_and_there_is_it_sealed(
    verifier: Verifier, machines: Machines
) -> None:
    evidence = verifier.take(machines.good, "evidence")
    for form in ((), ("--json",)):
        shown = verifier.call("tpm", "challenge", evidence, *form)
        blob = Path("credential.blob")
        assert machines.good.activate(blob.resolve(), "secret")
        secret = machines.good.read("secret")
        assert len(secret) == 32
        assert secret not in blob.read_bytes()
        written = {secret.hex(), base64.b64encode(secret).decode().rstrip("=")}
        assert not [text for text in written if text.lower() in shown.lower()]
    files = {path.name for path in Path.cwd().iterdir()}
    assert files == {"evidence.json", "evidence.bin", "chain.pem", "credential.blob"}


def test_the_output_names_the_commands_that_follow(verifier: Verifier, machines: Machines) -> None:
    evidence = verifier.take(machines.good, "it's here")
    shown = verifier.call("tpm", "challenge", evidence)
    value = next(line for line in shown.splitlines() if "--activation" in line).split()[-1]
    assert bytes.fromhex(value)
    for command in (
        "tpm2_activatecredential -c AK -C EK -P session:SESSION -i credential.blob -o secret.bin",
        "keyturn evidence import 'it'\"'\"'s here.bin' --activated-secret secret.bin --output activated.bin",
        f"keyturn verify activated.bin --policy POLICY --activation {value}",
    ):
        assert command in shown


def test_another_machines_secret_is_refused(verifier: Verifier, machines: Machines) -> None:
    evidence, foreign = verifier.take(machines.good, "good"), verifier.take(machines.other, "other")
    made, theirs = verifier.challenge(evidence, "good.blob"), verifier.challenge(foreign, "other.blob")
    assert not machines.other.activate(Path("good.blob").resolve(), "stolen")
    assert not (machines.other.folder / "stolen").exists()
    assert machines.other.activate(Path("other.blob").resolve(), "secret")
    mixed = verifier.add(evidence, machines.other.folder / "secret", "mixed.bin")
    policy = verifier.policy(made["ek_platform_id"])
    for value in (made["activation"], theirs["activation"]):
        assert verifier.failures(mixed, policy, "--activation", value) == ["credential-activation"]


def test_an_old_activation_value_is_refused(verifier: Verifier, machines: Machines) -> None:
    evidence = verifier.take(machines.good, "evidence")
    old, new = verifier.challenge(evidence, "old.blob"), verifier.challenge(evidence, "new.blob")
    for name in ("old", "new"):
        assert machines.good.activate(Path(f"{name}.blob").resolve(), name)
    policy = verifier.policy(new["ek_platform_id"])
    for opened, value in (("old", new), ("new", old)):
        shown = verifier.add(evidence, machines.good.folder / opened, f"{opened}.bin")
        assert verifier.failures(shown, policy, "--activation", value["activation"]) == [
            "credential-activation"
        ]


def test_an_old_secret_does_not_go_with_a_new_key_of_the_same_tpm(
    verifier: Verifier, machines: Machines
) -> None:
    made = verifier.challenge(verifier.take(machines.good, "before"), "credential.blob")
    assert machines.good.activate(Path("credential.blob").resolve(), "secret")
    shutil.copy(machines.good.folder / "secret", "secret")
    machines.good.make_ak()
    after = verifier.take(machines.good, "after")
    assert not machines.good.activate(Path("credential.blob").resolve(), "again")
    shown = verifier.add(after, Path("secret"), "shown.bin")
    policy = verifier.policy(made["ek_platform_id"])
    failed = verifier.failures(shown, policy, "--activation", made["activation"])
    assert failed == ["credential-activation"]


def test_the_file_is_that_of_tpm2_makecredential(verifier: Verifier, machines: Machines) -> None:
    secret = bytes(range(32))
    evidence = verifier.take(machines.good, "evidence")
    for path in (Path("chosen"), machines.good.folder / "chosen"):
        path.write_bytes(secret)
    verifier.call("tpm", "challenge", evidence, "--secret-file", "chosen")
    ours = Path("credential.blob").read_bytes()
    assert machines.good.run("tpm2_readpublic", "-c", RSA_EK, "-o", "ek.pub").returncode == 0
    name = machines.good.read("ak.name").hex()
    words = ("-e", "ek.pub", "-s", "chosen", "-n", name, "-o", "theirs")
    assert machines.good.run("tpm2_makecredential", *words).returncode == 0
    theirs = machines.good.read("theirs")
    assert (len(ours), ours[:10], ours[10:12]) == (len(theirs), theirs[:10], theirs[10:12])
    assert machines.good.activate(Path("credential.blob").resolve(), "opened")
    assert machines.good.read("opened") == secret


def documented() -> list[list[str]]:
    """The commands in the section of docs/verify.md, in their order."""
    title = "## A TPM whose maker certified its endorsement key\n"
    section = (REPOSITORY / "docs/verify.md").read_text().split(title, 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_documented_commands(verifier: Verifier, machines: Machines) -> None:
    evidence, value, tools = verifier.take(machines.good, "evidence"), "", []
    verifier.policy(verifier.challenge(evidence, "other.blob")["ek_platform_id"])
    for tool, *words in documented():
        if tool != "keyturn":
            shutil.copy("credential.blob", machines.good.folder)
            assert machines.good.run(tool, *words).returncode == 0
            tools.append(tool)
            continue
        if "--activated-secret" in words:
            shutil.copy(machines.good.folder / "secret.bin", "secret.bin")
        shown = verifier.call(*({"VALUE": value, "NONCE": NONCE}.get(word, word) for word in words))
        if "challenge" in words:
            value = shown.split()[-1]
    assert tools[2] == "tpm2_activatecredential"
    assert "everything holds" in shown
