"""The TPM backend against a real software TPM, powered off and on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from guest_agent.backend import Platform
from guest_agent.tpm_backend import SealedSecretError, TpmBackend, open_tpm, trim_certificate
from guest_agent.tpm_commands import TpmError
from measurements.quote_digest import parse_quote
from measurements.runtime_events import RuntimeEvent, event_digest
from measurements.swtpm import manufacture
from tests.guest_agent.tpm_process import powered_on
from tests.support.tools import require_tool

REPORT_DATA = bytes(range(64))
SECRET = bytes(range(64, 128))
EVENT = {
    bank: event_digest(RuntimeEvent("app-id", bytes(20)), algorithm=bank) for bank in ("sha256", "sha384")
}


def made(folder: Path) -> Path:
    require_tool("swtpm_setup", package="swtpm-tools")
    require_tool("swtpm_localca", package="swtpm-tools")
    manufacture(folder)
    return folder


@pytest.fixture(scope="module")
def new_tpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of a TPM that was never powered on."""
    return made(tmp_path_factory.mktemp("new") / "state")


@pytest.fixture
def state(new_tpm: Path, tmp_path: Path) -> Path:
    """A copy of that state, for one test."""
    return Path(shutil.copytree(new_tpm, tmp_path / "state"))


@pytest.fixture
def tpm(state: Path) -> Iterator[TpmBackend]:
    with powered_on(state) as tcti, closing(open_tpm(tcti)) as backend:
        yield backend


def verify(ak_public: bytes, quote: bytes, signature: bytes) -> None:
    """Checks the signature with ``cryptography``, from the raw structures."""
    x, y = ak_public[-66:-34], ak_public[-32:]
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + x + y)
    assert signature[:4] == bytes.fromhex("0018000b")
    size = int.from_bytes(signature[4:6], "big")
    r, s = signature[6 : 6 + size], signature[8 + size :]
    key.verify(
        encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big")), quote, ec.ECDSA(SHA256())
    )


def credential(ek_certificate: bytes, ak_public: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """What a verifier makes: a credential for this EK and AK."""
    from tpm2_pytss import TPM2B_PUBLIC, TPMT_PUBLIC
    from tpm2_pytss.utils import make_credential

    key = x509.load_der_x509_certificate(ek_certificate).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    from guest_agent.tpm_backend import EK_TEMPLATE

    modulus = key.public_numbers().n.to_bytes(256, "big")
    endorsement, _ = TPMT_PUBLIC.unmarshal(EK_TEMPLATE[:-256] + modulus)
    name = b"\x00\x0b" + hashlib.sha256(ak_public).digest()
    blob, encrypted = make_credential(TPM2B_PUBLIC(publicArea=endorsement), secret, name)
    return blob.marshal(), encrypted.marshal()


class TestQuote:
    def test_it_verifies_and_covers_the_registers(self, tpm: TpmBackend) -> None:
        tpm.extend(EVENT)
        identity, quoted = tpm.identity(), tpm.quote(REPORT_DATA)
        verify(identity.ak_public, quoted.quote, quoted.signature)
        parsed = parse_quote(quoted.quote)
        assert [(bank.value, pcrs) for bank, pcrs in parsed.selection] == [
            ("sha256", tuple(range(15))),
            ("sha384", tuple(range(15))),
        ]
        values = b"".join(quoted.registers[bank][pcr] for bank in ("sha256", "sha384") for pcr in range(15))
        assert parsed.digest == hashlib.sha256(values).digest()
        assert b"\x00\x20" + hashlib.sha256(REPORT_DATA).digest() in quoted.quote
        assert tpm.platform is Platform.TPM

    def test_a_flipped_byte_of_the_quote_does_not_verify(self, tpm: TpmBackend) -> None:
        identity, quoted = tpm.identity(), tpm.quote(REPORT_DATA)
        with pytest.raises(InvalidSignature):
            verify(identity.ak_public, quoted.quote[:-1] + bytes([quoted.quote[-1] ^ 1]), quoted.signature)

    def test_the_key_is_a_restricted_signing_key_of_its_own_tpm(self, tpm: TpmBackend) -> None:
        attributes = int.from_bytes(tpm.identity().ak_public[4:8], "big")
        fixed_tpm, fixed_parent, origin, restricted, decrypt, sign = (
            1 << bit for bit in (1, 4, 5, 16, 17, 18)
        )
        needed = fixed_tpm | fixed_parent | origin | restricted | sign
        assert attributes & needed == needed
        assert not attributes & decrypt

    def test_the_identity_is_one_per_boot(self, state: Path) -> None:
        seen = []
        for _ in range(2):
            with powered_on(state) as tcti, closing(open_tpm(tcti)) as tpm:
                assert tpm.identity() == tpm.identity()
                seen.append(tpm.identity())
        assert seen[0].ek_certificate == seen[1].ek_certificate
        assert seen[0].ak_public != seen[1].ak_public

    @pytest.mark.parametrize("size", [0, 32, 63, 65])
    def test_report_data_of_another_size(self, tpm: TpmBackend, size: int) -> None:
        with pytest.raises(TpmError, match="report data"):
            tpm.quote(bytes(size))


class TestExtend:
    def test_both_banks_become_the_hash(self, tpm: TpmBackend) -> None:
        tpm.extend(EVENT)
        assert tpm.runtime_register() == {
            bank: hashlib.new(bank, bytes(len(digest)) + digest).digest() for bank, digest in EVENT.items()
        }

    @pytest.mark.parametrize(
        "digests", [{}, {"sha256": bytes(32)}, {"sha256": bytes(31), "sha384": bytes(48)}]
    )
    def test_half_an_extend_is_refused_and_leaves_the_register(
        self, tpm: TpmBackend, digests: dict[str, bytes]
    ) -> None:
        with pytest.raises(TpmError):
            tpm.extend(digests)
        assert set(tpm.runtime_register().values()) == {bytes(32), bytes(48)}


class TestActivation:
    def test_a_credential_opens(self, tpm: TpmBackend) -> None:
        identity = tpm.identity()
        blob, encrypted = credential(identity.ek_certificate, identity.ak_public, b"s" * 32)
        assert tpm.activate(blob, encrypted) == b"s" * 32

    def test_credential_of_another_attestation_key(self, tpm: TpmBackend) -> None:
        identity = tpm.identity()
        other = identity.ak_public[:-1] + bytes([identity.ak_public[-1] ^ 1])
        with pytest.raises(TpmError):
            tpm.activate(*credential(identity.ek_certificate, other, b"s" * 32))

    def test_credential_replayed_from_an_earlier_boot(self, state: Path) -> None:
        with powered_on(state) as tcti, closing(open_tpm(tcti)) as tpm:
            old = credential(tpm.identity().ek_certificate, tpm.identity().ak_public, b"s" * 32)
            assert tpm.activate(*old) == b"s" * 32
        with powered_on(state) as tcti, closing(open_tpm(tcti)) as tpm, pytest.raises(TpmError):
            tpm.activate(*old)

    def test_credential_of_another_tpm(self, tpm: TpmBackend, tmp_path: Path) -> None:
        with powered_on(made(tmp_path / "other")) as tcti, closing(open_tpm(tcti)) as other:
            certificate = other.identity().ek_certificate
        with pytest.raises(TpmError):
            tpm.activate(*credential(certificate, tpm.identity().ak_public, b"s" * 32))

    @pytest.mark.parametrize("part", [0, 1])
    def test_a_flipped_or_longer_credential(self, tpm: TpmBackend, part: int) -> None:
        identity = tpm.identity()
        good = credential(identity.ek_certificate, identity.ak_public, b"s" * 32)
        for bad in (good[part] + b"\0", good[part][:-1] + bytes([good[part][-1] ^ 1]), b""):
            with pytest.raises(TpmError):
                tpm.activate(*(*good[:part], bad, *good[part + 1 :]))
        assert tpm.activate(*good) == b"s" * 32

    def test_without_a_persistent_endorsement_key_the_template_gives_the_same(
        self, tpm: TpmBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("guest_agent.tpm_backend.EK_HANDLE", 0x81010077)
        identity = tpm.identity()
        for _ in range(4):
            blob, encrypted = credential(identity.ek_certificate, identity.ak_public, b"s" * 32)
            assert tpm.activate(blob, encrypted) == b"s" * 32


class TestSealedSecret:
    def boot(self, state: Path, act: Callable[[TpmBackend], None]) -> None:
        with powered_on(state) as tcti, closing(open_tpm(tcti)) as tpm:
            tpm.extend(EVENT)
            act(tpm)

    def test_a_later_boot_with_the_same_registers_unseals(self, state: Path) -> None:
        self.boot(state, lambda tpm: tpm.seal(SECRET))

        def again(tpm: TpmBackend) -> None:
            assert tpm.holds_secret()
            assert tpm.unseal() == SECRET

        self.boot(state, again)

    def test_a_changed_register_cannot_unseal_and_nothing_is_remade(self, state: Path) -> None:
        self.boot(state, lambda tpm: tpm.seal(SECRET))

        def changed(tpm: TpmBackend) -> None:
            tpm.extend(EVENT)
            with pytest.raises(SealedSecretError, match="other registers"):
                tpm.unseal()
            with pytest.raises(SealedSecretError, match="never replaced"):
                tpm.seal(SECRET[::-1])

        self.boot(state, changed)

        def as_before(tpm: TpmBackend) -> None:
            assert tpm.unseal() == SECRET

        self.boot(state, as_before)

    def test_the_policy_itself_stops_a_changed_register(
        self, state: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Even without the check that names the reason, the TPM keeps the secret."""
        self.boot(state, lambda tpm: tpm.seal(SECRET))
        monkeypatch.setattr("guest_agent.tpm_backend._same_but_unique", lambda *_: True)

        def changed(tpm: TpmBackend) -> None:
            tpm.extend(EVENT)
            with pytest.raises(SealedSecretError, match="policy"):
                tpm.unseal()

        self.boot(state, changed)

    def test_a_planted_object_without_the_policy_is_refused(self, tpm: TpmBackend) -> None:
        from tpm2_pytss import ESYS_TR, TPM2B_SENSITIVE_CREATE, TPM2B_SENSITIVE_DATA, TPMS_SENSITIVE_CREATE

        from guest_agent import tpm_backend

        sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=TPM2B_SENSITIVE_DATA(SECRET)))
        template = tpm_backend._public(bytes.fromhex("0008000b00000452000000100000"))
        planted, *_ = tpm._esapi.create_primary(sensitive, template, ESYS_TR.OWNER)
        tpm._esapi.evict_control(ESYS_TR.OWNER, planted, tpm_backend.SECRET_HANDLE)
        tpm._esapi.flush_context(planted)
        with pytest.raises(SealedSecretError, match="other registers"):
            tpm.unseal()

    def test_there_is_none(self, tpm: TpmBackend) -> None:
        assert not tpm.holds_secret()
        with pytest.raises(SealedSecretError, match="not in this TPM"):
            tpm.unseal()

    @pytest.mark.parametrize("size", [0, 32, 63, 65])
    def test_a_secret_of_another_size(self, tpm: TpmBackend, size: int) -> None:
        with pytest.raises(SealedSecretError, match="bytes long"):
            tpm.seal(bytes(size))
        assert not tpm.holds_secret()


class TestCertificate:
    CERTIFICATE = b"\x30\x82\x01\x00" + bytes(range(256))

    @pytest.mark.parametrize("filling", [b"", b"\xff" * 9, bytes(100)])
    def test_filling_is_cut_off(self, filling: bytes) -> None:
        assert trim_certificate(self.CERTIFICATE + filling) == self.CERTIFICATE

    @pytest.mark.parametrize(
        "data", [b"", b"\x30\x82", b"\x30\x81\x80" + bytes(128), CERTIFICATE[:-1], CERTIFICATE + b"ab"]
    )
    def test_anything_else_is_refused(self, data: bytes) -> None:
        with pytest.raises(TpmError):
            trim_certificate(data)
