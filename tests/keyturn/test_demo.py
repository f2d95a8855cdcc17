"""The parts of ``keyturn demo`` without a machine: what it tells, what it refuses, how it cleans up."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyturn import verb_demo
from keyturn.demo.app_act import SIGNED_PREFIX, check_answer, check_released
from keyturn.demo.guest import GivenUp, find_given_up
from keyturn.demo.images import compare_registers
from keyturn.demo.refusals import REVOKED, Refusal, checked, table_rows, told
from keyturn.demo.relay import Relay
from keyturn.demo.runner import COMMANDS_FILE, CommandError, DemoError, DemoRefusedError, Runner
from keyturn.demo.story import Story
from keyturn.output import Output
from keyturn.register_names import COVERS
from kms.bundle import MORE_NAMES, PART_NAMES
from tests.support.tools import require_tool


def answer(nonce: str, *, visits: int = 1) -> dict[str, Any]:
    key = Ed25519PrivateKey.generate()
    payload = json.dumps({"greeting": "hello", "nonce": nonce, "visits": visits}).encode()
    return {
        "payload": base64.b64encode(payload).decode(),
        "signature": base64.b64encode(key.sign(SIGNED_PREFIX + payload)).decode(),
        "public": base64.b64encode(key.public_key().public_bytes_raw()).decode(),
    }


class TestAnswers:
    def test_a_good_one(self) -> None:
        document = answer("abc", visits=3)
        found = check_answer(document, nonce="abc")
        assert (found.public, found.visits) == (document["public"], 3)

    def test_of_another_call(self) -> None:
        with pytest.raises(DemoRefusedError, match="not about our nonce"):
            check_answer(answer("abc"), nonce="abd")

    @pytest.mark.parametrize("part", ["payload", "signature", "public"])
    def test_a_flipped_byte(self, part: str) -> None:
        document = answer("abc")
        data = bytearray(base64.b64decode(document[part]))
        data[3] ^= 1
        with pytest.raises(DemoRefusedError, match="not signed by the key beside it"):
            check_answer(document | {part: base64.b64encode(data).decode()}, nonce="abc")

    def test_signed_without_the_prefix(self) -> None:
        """A signature that the app made over other bytes is no answer."""
        key = Ed25519PrivateKey.generate()
        document = answer("abc")
        payload = base64.b64decode(document["payload"])
        document["signature"] = base64.b64encode(key.sign(payload)).decode()
        document["public"] = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        with pytest.raises(DemoRefusedError):
            check_answer(document, nonce="abc")

    def test_signed_by_a_key_that_was_not_released(self, tmp_path: Path) -> None:
        found = check_answer(answer("abc"), nonce="abc")
        public = base64.b64decode(found.public).hex()
        for name, key in (("good", public), ("bad", "00" * 32)):
            payload = json.dumps({"keys": [{"public": None}, {"public": key}]}).encode()
            receipt = {"payload": base64.b64encode(payload).decode()}
            (tmp_path / name).write_text(json.dumps({"receipt": receipt}))
        check_released(tmp_path / "good", found)
        with pytest.raises(DemoRefusedError, match="did not release"):
            check_released(tmp_path / "bad", found)


class TestGivenUp:
    def test_by_the_kms(self) -> None:
        console = (
            "keyturn: app: x\nkeyturn: gives up (kms-refused): KMS refuses: image-revoked: image ab is gone\n"
        )
        assert find_given_up(console) == GivenUp(by="KMS", code="image-revoked", reason="image ab is gone")

    def test_by_the_agent(self) -> None:
        found = find_given_up("keyturn: gives up (no-kms): no KMS released the keys: http://x: other keys\n")
        assert found == GivenUp(
            by="agent", code="no-kms", reason="no KMS released the keys: http://x: other keys"
        )

    @pytest.mark.parametrize("console", ["", "keyturn: app: started\n", "[web] keyturn: gives up (a): b\n"])
    def test_not_at_all(self, console: str) -> None:
        assert find_given_up(console) is None

    def test_for_another_reason(self) -> None:
        refusal = Refusal(case=REVOKED, given_up=GivenUp(by="KMS", code="app-paused", reason="paused"))
        with pytest.raises(DemoRefusedError, match="another reason: KMS: app-paused: paused"):
            checked(refusal)

    def test_for_its_reason(self) -> None:
        refusal = Refusal(case=REVOKED, given_up=GivenUp(by="KMS", code="image-revoked", reason="gone"))
        assert checked(refusal) is refusal
        assert table_rows([refusal]) == [(REVOKED.what, "KMS", "image-revoked", "gone")]
        assert refusal.as_json() == {
            "name": "image-revoked",
            "by": "KMS",
            "code": "image-revoked",
            "reason": "gone",
        }
        assert told(refusal.given_up) == "KMS: image-revoked: gone"


class TestRegisters:
    def report(self, folder: Path, value: str) -> Path:
        banks = {bank: {str(pcr): value for pcr in COVERS} for bank in ("sha256", "sha384")}
        path = folder / "report.json"
        path.write_text(json.dumps({"report": {"banks": banks}}))
        return path

    def test_equal(self, tmp_path: Path) -> None:
        predicted = {bank: {str(pcr): "ab" * 32 for pcr in COVERS} for bank in ("sha256", "sha384")}
        found = compare_registers(Output(json=True), predicted, self.report(tmp_path, "ab" * 32))
        assert (found["equal"], found["different"], found["predicted"]) == (True, [], found["booted"])

    def test_one_bank_of_one_register_differs(self, tmp_path: Path) -> None:
        predicted = {bank: {str(pcr): "ab" * 32 for pcr in COVERS} for bank in ("sha256", "sha384")}
        predicted["sha384"]["9"] = "cd" * 32
        with pytest.raises(DemoRefusedError, match="PCR 9 differ"):
            compare_registers(Output(json=True), predicted, self.report(tmp_path, "ab" * 32))


class TestStory:
    def test_one_line_for_a_step_with_its_result(self, capsys: pytest.CaptureFixture[str]) -> None:
        story = Story(Output(json=False))
        with story.step("counts [3]") as step:
            step.result = "three"
        assert capsys.readouterr().out == "  ok counts [3]: three (0.0 s)\n"
        assert story.told == [{"step": "counts [3]", "result": "three", "seconds": 0.0}]

    def test_no_line_for_a_step_that_failed(self, capsys: pytest.CaptureFixture[str]) -> None:
        story = Story(Output(json=False))

        def fail() -> None:
            with story.step("fails"):
                raise DemoError("no", subject="step", advice="none")

        with pytest.raises(DemoError):
            fail()
        assert (capsys.readouterr().out, story.told) == ("", [])

    def test_nothing_but_the_result_for_machines(self, capsys: pytest.CaptureFixture[str]) -> None:
        story = Story(Output(json=True))
        story.chapter("1")
        story.remark("r")
        with story.step("s"):
            pass
        assert capsys.readouterr().out == ""


class TestRunner:
    def test_a_result_and_the_command_on_record(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path)
        runner.run("init", "--template", "apps", "base folder")
        assert (tmp_path / "base folder" / "keyturn.toml").is_file()
        assert (tmp_path / COMMANDS_FILE).read_text() == "keyturn init --template apps 'base folder'\n"

    def test_the_reason_of_a_failure(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path)
        with pytest.raises(CommandError, match=r"keyturn build nothing\.toml: .*nothing\.toml"):
            runner.run("build", "nothing.toml")

    def test_checks_that_do_not_hold_are_named(self, tmp_path: Path) -> None:
        require_tool("swtpm_setup", package="swtpm-tools")
        document = {"type": "keyturn-bundle/1", **dict.fromkeys((*PART_NAMES, *MORE_NAMES))}
        (tmp_path / "bundle.json").write_text(json.dumps(document))
        runner = Runner(tmp_path)
        made = runner.run("tpm", "make", "tpm")
        pins = ("--chain-id", "1", "--contract", f"0x{'11' * 20}", "--kms-id", "22" * 32)
        anchors = ("--app-id", f"0x{'33' * 20}", "--root", made["root"])
        with pytest.raises(CommandError, match="these checks do not hold: part-receipt"):
            runner.run("verify", "--bundle", "bundle.json", *pins, *anchors)

    def test_a_usage_error_has_a_reason_too(self, tmp_path: Path) -> None:
        with pytest.raises(CommandError, match="exit status 2"):
            Runner(tmp_path).run("build", "--no-such-option")

    def test_commands_in_the_background_end_with_their_block(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path)
        with runner.background("chain", "dev", "--port", "0", output=tmp_path / "log") as process:
            assert process.poll() is None
        assert process.poll() is not None

    def test_all_commands_end_at_once_and_none_starts_afterwards(self, tmp_path: Path) -> None:
        runner = Runner(tmp_path)
        with (
            runner.background("chain", "dev", "--port", "0", output=tmp_path / "one") as one,
            runner.background("chain", "dev", "--port", "0", output=tmp_path / "two") as two,
        ):
            runner.stop_all()
            assert None not in (one.poll(), two.poll())
            with (
                pytest.raises(DemoError, match="the demo ends"),
                runner.background("chain", "dev", output=tmp_path / "three"),
            ):
                pytest.fail("it started")


class TestFolder:
    def test_what_is_not_of_a_demo_stays(self, tmp_path: Path) -> None:
        mine = tmp_path / "mine.txt"
        mine.write_text("x")
        with pytest.raises(DemoError, match="not empty"), verb_demo._owned(tmp_path):
            pytest.fail("it was taken")
        assert mine.read_text() == "x"

    def test_locks_and_the_base_image_stay_the_rest_goes(self, tmp_path: Path) -> None:
        with verb_demo._owned(tmp_path):
            for name in ("base", "locks", "tpm"):
                (tmp_path / name).mkdir()
            (tmp_path / "kms.log").write_text("x")
        with verb_demo._owned(tmp_path):
            assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "demo.lock", "locks"]

    def test_two_at_once(self, tmp_path: Path) -> None:
        with (
            verb_demo._owned(tmp_path),
            pytest.raises(DemoError, match="another demo"),
            verb_demo._owned(tmp_path),
        ):
            pytest.fail("it was taken")


class Kms(BaseHTTPRequestHandler):
    """Refuses every second request for keys."""

    seen: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.seen.append(self.rfile.read(int(self.headers["Content-Length"])))
        again = len(self.seen) > 1
        error = {"error": {"code": "challenge-replayed", "reason": "used", "advice": ""}}
        body = json.dumps(error if again else {"sealed": ""}).encode()
        self.send_response(403 if again else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def kms_url() -> Iterator[str]:
    Kms.seen.clear()
    server = HTTPServer(("127.0.0.1", 0), Kms)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def host_side(relay: Relay) -> str:
    return relay.guest_url.replace("10.0.2.2", "127.0.0.1")


class TestRelay:
    def test_it_passes_on_and_can_send_again(self, kms_url: str) -> None:
        with Relay(kms_url).serving() as relay:
            first = requests.post(f"{host_side(relay)}/v1/keys", data=b"evidence", timeout=10)
            assert (first.status_code, first.json()) == (200, {"sealed": ""})
            assert relay.replay() == GivenUp(by="KMS", code="challenge-replayed", reason="used")
        assert Kms.seen == [b"evidence", b"evidence"]

    def test_closed_it_hides_the_kms(self, kms_url: str) -> None:
        is_open = threading.Event()
        with Relay(kms_url, is_open=is_open).serving() as relay:
            assert requests.get(f"{host_side(relay)}/healthz", timeout=10).status_code == 503
            is_open.set()
            assert requests.post(f"{host_side(relay)}/v1/keys", data=b"x", timeout=10).status_code == 200

    def test_a_second_key_is_no_refusal(self, kms_url: str) -> None:
        relay = Relay(kms_url)
        relay.recorded.append(b"evidence")
        with pytest.raises(DemoError, match="status 200"), relay.serving():
            relay.replay()

    def test_nothing_to_send(self, kms_url: str) -> None:
        with pytest.raises(DemoError, match="no request for keys"), Relay(kms_url).serving() as relay:
            relay.replay()

    def test_a_kms_that_is_gone_is_no_answer(self) -> None:
        with Relay("http://127.0.0.1:1").serving() as relay:
            assert requests.get(f"{host_side(relay)}/healthz", timeout=10).status_code == 502
