"""The KMS that the benchmark's guest asks: the real release code and service, over a chain on paper.

Everything between guest and KMS is as in use: challenge, credential, evidence, sealed keys, receipts and
journal. What it reads of the chain are real proofs of a chain of one block in memory, so no other process and
no network is part of the figure.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from guest_agent.tpm_backend import open_tpm
from kms.chain_view import PolicyQuery
from kms.journal import Journal
from kms.release import Kms, TrustAnchors
from measurements.app_manifest import app_hash
from measurements.reference_digest import ReferenceValues, reference_digest
from tests.guest_agent.tpm_process import powered_on
from tests.kms.fake_chain import NOW, PINS, FakeChain
from tests.kms.receipts import APP_ID, PIN, ROOT
from tests.support.software_tpm_keys import SoftwareTpmKeys

KMS_ROOT = ROOT.identity.kms_id.hex()
CONTRACT = "0x" + PIN.contract.hex()
CHAIN_ID = PIN.chain_id
APP = "0x" + APP_ID.hex()


def open_kms(state: Path, *, manifest: bytes, reference: ReferenceValues, journal: Path) -> Kms:
    """A KMS whose chain allows the app of ``manifest`` in the machine of ``reference`` with the TPM kept in
    ``state``.
    """
    with powered_on(state) as tcti, closing(open_tpm(tcti)) as tpm:
        keys = SoftwareTpmKeys(tpm._esapi, state / "ca")
        certificate = x509.load_der_x509_certificate(tpm.identity().ek_certificate)
    public = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    query = PolicyQuery(
        kms_id=ROOT.identity.kms_id,
        reference_digest=reference_digest(reference),
        platform_root=hashlib.sha256(keys.root).digest(),
        platform_id=hashlib.sha256(public).digest(),
        app_id=APP_ID,
        app_hash=app_hash(manifest),
    )
    return Kms(
        root=ROOT,
        pins=PINS,
        node=FakeChain(query, signer=ROOT.identity.address),
        journal=Journal(journal, ROOT),
        anchors=TrustAnchors(roots=(keys.root,), intermediates=(keys.issuer,)),
        clock=lambda: NOW,
    )


@contextmanager
def served(kms: Kms, listener: socket.socket) -> Iterator[None]:
    """Serve ``kms`` on ``listener`` until the block is left."""
    import uvicorn

    from kms.service import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(kms), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="kms", daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise SystemExit("the KMS did not start")
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()
