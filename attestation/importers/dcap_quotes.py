"""Raw DCAP quotes of trust domains and enclaves.

Layout (Intel SGX/TDX DCAP Quoting Library API, appendix A; little endian): header of 48 bytes (``u16 version
| u16 key type | u32 TEE type`` first), body, ``u32`` size and that many bytes of signature data. The body of
version 3 has 384 bytes, of version 4 384 (SGX) or 584 (TDX); in version 5 ``u16`` type and ``u32`` size stand
before it. Drivers return quotes in larger buffers (Google's machines 8000 bytes): zeros after the quote are
cut off, anything else there is refused.
"""

from __future__ import annotations

from attestation.container import EvidenceContainer, EvidencePlatform
from attestation.container_codec import MAX_REPORT
from attestation.importers.source import refuse

SGX, TDX = 0x00, 0x81
_HEADER = 48
_BODIES = {(3, SGX): 384, (4, SGX): 384, (4, TDX): 584}
_KEY_TYPES = (2, 3)
_WHAT = "quote"


def looks_like_quote(data: bytes) -> bool:
    """Whether the first eight bytes are those of a quote of a known version."""
    version, key_type, tee = _first(data)
    return len(data) >= _HEADER and version in (3, 4, 5) and key_type in _KEY_TYPES and tee in (SGX, TDX)


def import_quote(data: bytes, *, origin: str = "dcap-quote") -> EvidenceContainer:
    """A quote, whatever its buffer; raises ``EvidenceImportError``."""
    quote = exact_quote(data)
    tee = _first(quote)[2]
    platform = EvidencePlatform.TDX if tee == TDX else EvidencePlatform.SGX
    return EvidenceContainer(platform=platform, report=quote, origin=origin)


def exact_quote(data: bytes) -> bytes:
    """The quote without the zeros that fill its buffer; raises ``EvidenceImportError``."""
    if not looks_like_quote(data):
        refuse("is no DCAP quote of version 3, 4 or 5", what=_WHAT)
    version, _, tee = _first(data)
    start, body = _HEADER, _BODIES.get((version, tee))
    if body is None:
        if version != 5 or len(data) < _HEADER + 6:
            refuse(f"has version {version} and TEE type {tee:#x}, or ends before its body", what=_WHAT)
        start, body = _HEADER + 6, int.from_bytes(data[50:54], "little")
    sized = start + body
    end = sized + 4 + int.from_bytes(data[sized : sized + 4], "little")
    if len(data) < end or len(data) < sized + 4:
        refuse(f"has {len(data)} bytes and says that it has {end}", what=_WHAT)
    if end > MAX_REPORT:
        refuse(f"has {end} bytes, more than {MAX_REPORT}", what=_WHAT)
    if data.count(0, end) != len(data) - end:
        refuse(f"ends at byte {end}, and bytes follow that are not zero", what=_WHAT)
    return data[:end]


def _first(data: bytes) -> tuple[int, int, int]:
    return (
        int.from_bytes(data[:2], "little"),
        int.from_bytes(data[2:4], "little"),
        int.from_bytes(data[4:8], "little"),
    )
