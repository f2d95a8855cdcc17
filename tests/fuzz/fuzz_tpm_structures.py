"""Fuzz target: structures of a TPM. The first byte chooses the reader."""

from __future__ import annotations

import contextlib

from attestation.tpm.ak_public import hierarchy_of, standard_ak_public
from attestation.tpm_signature import public_key, verify_signature
from attestation.tpm_structures import parse_public, parse_quote, parse_signature
from measurements.errors import KeyturnError
from tests.support.paper_tpm import Authority, PaperTpm, start_registers

NAME = "tpm_structures"


def seeds() -> list[bytes]:
    """A public area, a quote and a signature; a public area of RSA."""
    tpm = PaperTpm(Authority("root"))
    quote = tpm.quote(bytes(64), start_registers())
    rsa_public = standard_ak_public(tpm.ek.public_key().public_numbers())
    return [b"\0" + tpm.ak_public, b"\0" + rsa_public, b"\1" + quote, b"\2" + tpm.sign(quote)]


def target(data: bytes) -> None:
    """What is read keeps what it was read from, and only refusals come out."""
    reader, rest = data[:1], data[1:]
    with contextlib.suppress(KeyturnError):
        if reader == b"\0":
            _public(rest)
        elif reader == b"\1":
            quote = parse_quote(rest)
            assert rest.endswith(quote.digest)
            assert all(list(one.pcrs) == sorted(set(one.pcrs)) for one in quote.selections)
        else:
            signature = parse_signature(rest)
            assert rest.endswith(signature.rsa)


def _public(data: bytes) -> None:
    public = parse_public(data)
    assert public.raw == data
    assert hierarchy_of(public, public.qualified_name()) == "endorsement"
    key = public_key(public)
    with contextlib.suppress(KeyturnError):
        verify_signature(public, parse_signature(b"\0\x18\0\x0b\0\1\1\0\1\1"), b"")
        raise AssertionError("a made-up signature holds")
    standard = standard_ak_public(key.public_numbers())
    again = parse_public(standard)
    assert again.parameters == public.parameters
