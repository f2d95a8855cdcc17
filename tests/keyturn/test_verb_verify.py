"""``keyturn verify`` as a user calls it: a bundle, a receipt with a live node, evidence; exit statuses."""

from __future__ import annotations

import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.evidence import encode_evidence
from keyturn.cli import main
from kms.bundle import Bundle, encode_bundle, parse_bundle
from tests.attestation.test_evidence_tree import FIRMWARE as BOOTED
from tests.attestation.test_evidence_tree import MANIFEST, REPORT_DATA, ROOT, evidence_of
from tests.kms.bundles import make_bundle
from tests.kms.fake_chain import APP_CODE, NOW, REGISTRY_CODE, FakeChain
from tests.kms.guests import AUTHORITY, World
from tests.kms.receipts import APP_ID, PIN
from tests.support.reference_documents import reference_document


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, FakeChain]:
    made = World(tmp_path_factory.mktemp("kms"))
    try:
        return make_bundle(made, made.guest()), made.chain
    finally:
        made.kms.journal.close()


class Shell:
    """Runs the verb."""

    def __init__(self, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self._capsys, self.folder = capsys, folder

    def run(self, *words: str) -> tuple[int, str]:
        """(exit status, stdout)."""
        with pytest.raises(SystemExit) as caught:
            main(["verify", *words])
        return int(caught.value.code or 0), self._capsys.readouterr().out

    def failures(self, *words: str) -> tuple[int, list[str]]:
        """(exit status, names of the failed checks)."""
        status, out = self.run(*words, "--json")
        document = json.loads(out)
        return status, document.get("failures", [document.get("error", {}).get("code")])

    def file(self, name: str, data: Any) -> str:
        path = self.folder / name
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return str(path)


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr("keyturn.verb_verify._now", lambda: NOW)
    return Shell(capsys, tmp_path)


def trusted(shell: Shell, bundle: Bundle, **changes: str) -> list[str]:
    """The options with a user's trust anchors."""
    options = {
        "--root": shell.file("root.der", AUTHORITY.certificate),
        "--chain-id": str(PIN.chain_id),
        "--contract": f"0x{PIN.contract.hex()}",
        "--registry-code-hash": REGISTRY_CODE.hex(),
        "--app-code-hash": APP_CODE.hex(),
        "--kms-id": bundle.batch["kms_id"],
        "--app-id": f"0x{APP_ID.hex()}",
        **changes,
    }
    return [word for option in options.items() for word in option]


def test_a_bundle_verifies_offline(shell: Shell, released: tuple[Bundle, FakeChain]) -> None:
    bundle = released[0]
    words = ["--bundle", shell.file("bundle.json", encode_bundle(bundle)), *trusted(shell, bundle)]
    assert shell.failures(*words) == (0, [])
    status, out = shell.run(*words)
    assert status == 0
    assert "policy at block 100" in out
    assert "everything holds" in out


def test_a_bundle_without_a_part_is_refused(shell: Shell, released: tuple[Bundle, FakeChain]) -> None:
    bundle = dataclasses.replace(released[0], evidence=None)
    words = ["--bundle", shell.file("bundle.json", encode_bundle(bundle)), *trusted(shell, bundle)]
    assert shell.failures(*words) == (1, ["part-evidence"])
    status, out = shell.run(*words)
    assert status == 1
    assert "refused: part-evidence" in out
    assert "not checked" in out


@pytest.mark.parametrize(
    ("anchor", "check"),
    [
        ({"--chain-id": "1"}, "chain-pin"),
        ({"--contract": "0x" + "77" * 20}, "chain-pin"),
        ({"--registry-code-hash": "77" * 32}, "registry-code"),
        ({"--app-code-hash": "77" * 32}, "app-code"),
        ({"--kms-id": "77" * 32}, "kms-id"),
        ({"--app-id": "0x" + "77" * 20}, "receipt-app"),
    ],
)
def test_a_wrong_anchor_is_refused(
    anchor: dict[str, str], check: str, shell: Shell, released: tuple[Bundle, FakeChain]
) -> None:
    bundle = released[0]
    words = ["--bundle", shell.file("bundle.json", encode_bundle(bundle)), *trusted(shell, bundle, **anchor)]
    assert shell.failures(*words) == (1, [check])


def test_code_hashes_are_those_of_this_version_by_default(
    shell: Shell, released: tuple[Bundle, FakeChain]
) -> None:
    bundle = released[0]
    words = trusted(shell, bundle)
    place = words.index("--registry-code-hash")
    del words[place : place + 2]
    found = shell.failures("--bundle", shell.file("bundle.json", encode_bundle(bundle)), *words)
    assert found == (1, ["registry-code"])


@pytest.mark.parametrize("left_out", ["--root", "--chain-id", "--contract", "--kms-id", "--app-id"])
def test_a_missing_anchor_is_bad_input(
    left_out: str, shell: Shell, released: tuple[Bundle, FakeChain]
) -> None:
    bundle = released[0]
    words = trusted(shell, bundle)
    place = words.index(left_out)
    del words[place : place + 2]
    found = shell.failures("--bundle", shell.file("bundle.json", encode_bundle(bundle)), *words)
    assert found == (2, ["verify-usage"])


def test_what_is_no_bundle_is_bad_input(shell: Shell, released: tuple[Bundle, FakeChain]) -> None:
    words = trusted(shell, released[0])
    assert shell.failures("--bundle", shell.file("bundle.json", b"{"), *words)[0] == 2
    assert shell.failures("--bundle", str(shell.folder / "absent"), *words)[0] == 2
    assert shell.failures(*words) == (2, ["verify-usage"])


class Rpc(http.server.BaseHTTPRequestHandler):
    """Answers of a node for one block."""

    chain: FakeChain
    asked_id: int
    ahead: int

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parameters = request["params"]
        result: Any
        if request["method"] == "eth_chainId":
            result = hex(self.asked_id)
        elif request["method"] == "eth_getBlockByNumber":
            number = parameters[0]
            known = number not in ("latest", "finalized")
            result = self.chain.block(int(number, 16) if known else self.chain.number + self.ahead)
        elif request["method"] == "eth_getLogs":
            result = self.chain.logs() if self.ahead else []
        elif request["method"] == "eth_getBlockReceipts":
            result = self.chain.receipts
        else:
            slots = [bytes.fromhex(slot[2:]) for slot in parameters[1]]
            result = self.chain.proof_answer(bytes.fromhex(parameters[0][2:]), slots)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        """Quiet."""


@pytest.fixture
def rpc(released: tuple[Bundle, FakeChain]) -> Iterator[type[Rpc]]:
    handler = type("Handler", (Rpc,), {"chain": released[1], "asked_id": PIN.chain_id, "ahead": 1})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    handler.url = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def receipt_words(shell: Shell, bundle: Bundle, url: str) -> list[str]:
    """A receipt and the parts that go with it, as the KMS shows them."""
    shown = {"receipt": bundle.receipt, "inclusion": bundle.inclusion}
    return [
        shell.file("receipt.json", shown),
        *("--evidence", shell.file("evidence.json", bundle.evidence)),
        *("--reference", shell.file("reference.json", bundle.reference)),
        *("--public-key", shell.file("public-key.json", {**bundle.kms, "development": False})),
        *("--anchors", shell.file("anchors.json", {"batches": [{}, bundle.batch]})),
        *("--rpc", url),
        *trusted(shell, bundle),
    ]


def test_a_receipt_verifies_against_a_live_node(
    shell: Shell, released: tuple[Bundle, FakeChain], rpc: Any
) -> None:
    bundle = released[0]
    kept = shell.folder / "kept.json"
    words = receipt_words(shell, bundle, rpc.url)
    assert shell.failures(*words, "--write-bundle", str(kept)) == (0, [])
    assert parse_bundle(kept.read_bytes()) == bundle


def test_a_batch_that_is_not_on_chain_is_refused(
    shell: Shell, released: tuple[Bundle, FakeChain], rpc: Any
) -> None:
    rpc.ahead = 0
    assert shell.failures(*receipt_words(shell, released[0], rpc.url)) == (1, ["part-anchoring"])


def test_attack_node_shows_other_receipts_than_the_block_has(
    shell: Shell, released: tuple[Bundle, FakeChain], rpc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, real = released[1], released[1].block
    blocks = {number: real(number) for number in (chain.number, chain.number + 1)}
    monkeypatch.setattr(chain, "block", blocks.__getitem__)
    monkeypatch.setattr(chain, "receipts", [*chain.receipts[:3], chain.receipts[0]])
    assert shell.failures(*receipt_words(shell, released[0], rpc.url)) == (1, ["state-proof"])


def test_a_receipt_alone_is_refused(shell: Shell, released: tuple[Bundle, FakeChain], rpc: Any) -> None:
    bundle = released[0]
    words = [shell.file("receipt.json", bundle.receipt), "--rpc", rpc.url, *trusted(shell, bundle)]
    absent = ["part-inclusion", "part-batch", "part-kms", "part-evidence", "part-reference", "part-anchoring"]
    assert shell.failures(*words) == (1, absent)


def test_a_node_of_another_chain_is_refused(
    shell: Shell, released: tuple[Bundle, FakeChain], rpc: Any
) -> None:
    rpc.asked_id = 1
    assert shell.failures(*receipt_words(shell, released[0], rpc.url)) == (1, ["not-final"])


def test_a_block_that_is_not_final_is_refused(
    shell: Shell, released: tuple[Bundle, FakeChain], rpc: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc.ahead = 0
    monkeypatch.setattr(released[1], "number", 99)
    assert shell.failures(*receipt_words(shell, released[0], rpc.url)) == (1, ["not-final"])


def test_a_dead_node_is_bad_input(shell: Shell, released: tuple[Bundle, FakeChain]) -> None:
    words = receipt_words(shell, released[0], "http://127.0.0.1:9")
    assert shell.failures(*words) == (2, ["chain-unavailable"])


def evidence_words(shell: Shell, **changes: str) -> list[str]:
    pem = x509.load_der_x509_certificate(ROOT.certificate).public_bytes(Encoding.PEM)
    options = {
        "--root": shell.file("root.pem", pem),
        "--reference": shell.file("reference.json", reference_document(BOOTED[0])),
        "--manifest": shell.file("manifest.json", MANIFEST),
        "--report-data": REPORT_DATA.hex(),
        **changes,
    }
    return [word for option in options.items() for word in option]


def test_evidence_verifies(shell: Shell) -> None:
    words = [shell.file("evidence.json", encode_evidence(evidence_of())), *evidence_words(shell)]
    assert shell.failures(*words) == (0, [])


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"--report-data": "00" * 64}, "report-data"),
        ({"--log-part": "release"}, "runtime-log"),
    ],
)
def test_evidence_of_something_else_is_refused(change: dict[str, str], check: str, shell: Shell) -> None:
    words = [shell.file("evidence.json", encode_evidence(evidence_of())), *evidence_words(shell, **change)]
    assert shell.failures(*words) == (1, [check])


def test_evidence_of_another_manifest_is_refused(shell: Shell) -> None:
    words = [shell.file("evidence.json", encode_evidence(evidence_of())), *evidence_words(shell)]
    shell.file("manifest.json", b"{}")
    assert shell.failures(*words) == (1, ["expected-app"])


@pytest.mark.parametrize("left_out", ["--root", "--reference", "--manifest", "--report-data"])
def test_evidence_without_an_expectation_is_bad_input(left_out: str, shell: Shell) -> None:
    words = [shell.file("evidence.json", encode_evidence(evidence_of())), *evidence_words(shell)]
    place = words.index(left_out)
    del words[place : place + 2]
    assert shell.failures(*words) == (2, ["verify-usage"])


@pytest.mark.parametrize("text", ["", "00", "zz" * 64])
def test_report_data_that_is_none_is_bad_input(text: str, shell: Shell) -> None:
    words = [
        shell.file("evidence.json", encode_evidence(evidence_of())),
        *evidence_words(shell, **{"--report-data": text}),
    ]
    assert shell.failures(*words) == (2, ["verify-usage"])
