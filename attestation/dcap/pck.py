"""The PCK certificate of a quote, its chain and what it says of the machine. Kept by the chain's bytes.

======================  =================================================================================
check                   passes if (each ends the list if it fails)
======================  =================================================================================
``pck-chain``           PEM in its one form, exactly three certificates to a pinned root, each with the
                        name of its role; the leaf is an end entity on P-256
``pck-extension``       the SGX extension is there once and as specified
======================  =================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from attestation.dcap.kept import Kept, keep
from attestation.dcap.pck_extension import SGX_EXTENSION, PckExtension, parse_pck_extension
from attestation.dcap.pem_chain import CA_NAMES, PCK_NAME, ROOT_NAME, Role, named_chain
from attestation.verdict import CheckList
from attestation.x509_chain import Chain

PCK_CHECKS = ("pck-chain", "pck-extension")

_NAMES = ((PCK_NAME,), CA_NAMES, (ROOT_NAME,))
_EXTENSION = x509.ObjectIdentifier(SGX_EXTENSION)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pck:
    """A verified PCK: chain from leaf to root, and the machine. It is kept, so it is compared by identity."""

    chain: Chain
    machine: PckExtension

    @property
    def leaf_der(self) -> bytes:
        """The PCK certificate."""
        return self.chain.ders[0]

    @property
    def authority(self) -> x509.Certificate:
        """The CA that issued it."""
        return self.chain.certificates[1]


@lru_cache(maxsize=256)
def read_pck(chain: bytes, roots: frozenset[bytes]) -> Kept[Pck]:
    """Check the chain of certification data of type 5 up to one of ``roots`` (SHA-256 fingerprints)."""

    def make(checks: CheckList) -> Pck:
        with checks.step("pck-chain", expected="PCK certificate, PCK CA and pinned root, in PEM, in order"):
            found = named_chain(chain, _NAMES, roots, what="PCK chain", role=Role.END_ENTITY)
        with checks.step("pck-extension", expected="the SGX extension, every part once"):
            machine = parse_pck_extension(_extension(found.leaf))
        return Pck(chain=found, machine=machine)

    return keep(make)


def _extension(leaf: x509.Certificate) -> bytes:
    """The value of the extension; empty, and so refused by its reader, if there is none."""
    found = [one.value for one in leaf.extensions if one.oid == _EXTENSION]
    value = found[0] if len(found) == 1 else None
    return value.value if isinstance(value, x509.UnrecognizedExtension) else b""
