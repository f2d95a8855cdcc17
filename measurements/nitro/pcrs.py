"""The registers of a Nitro enclave, SHA-384 each.

Sources: "EIF Measurements" in the README of aws-nitro-enclaves-image-format for PCR 0, 1, 2 and 8
(``SHA-384(0^48 ‖ SHA-384(content))``, the sections' data in the order of the file); AWS Nitro Enclaves User
Guide, "Where to get an enclave's measurements", for PCR 3 and 4. These two are ``SHA-384(0^48 ‖ text)``
without an inner digest, as the PCR 4 of real documents shows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

from measurements.errors import KeyturnError
from measurements.nitro.eif import MEASURED, Eif, EifSection, EifSectionType

SIZE = 48
ZERO = bytes(SIZE)

_ROLE = re.compile(r"arn:aws[a-z-]{0,16}:iam::[0-9]{12}:role/[\x21-\x7e]{1,512}")
_INSTANCE = re.compile(r"i-(?:[0-9a-f]{8}|[0-9a-f]{17})")


class NitroInputError(KeyturnError):
    """A role or instance that no register can come from."""

    code = "nitro-input"


def measured_sections(eif: Eif, register: int) -> tuple[EifSection, ...]:
    """The sections whose data ``register`` (0, 1 or 2) covers, in the order of the file."""
    measured = [section for section in eif.sections if section.kind in MEASURED]
    ramdisks = [section for section in measured if section.kind is EifSectionType.RAMDISK]
    covered: dict[int, Sequence[EifSection]] = {
        0: measured,
        1: [section for section in measured if section not in ramdisks[1:]],
        2: ramdisks[1:],
    }
    return tuple(covered[register])


def running_values(data: bytes | memoryview, sections: Iterable[EifSection]) -> Iterator[bytes]:
    """The register's value if it ended after each of ``sections``: the last one is its value."""
    view = memoryview(data)
    content = hashlib.sha384()
    for section in sections:
        content.update(view[section.offset : section.offset + section.size])
        yield extended(content.digest())


def image_register(data: bytes | memoryview, eif: Eif, register: int) -> bytes:
    """PCR 0, 1 or 2 of the image ``data``; PCR 2 of an image with one RAM disk is that of no data."""
    values = list(running_values(data, measured_sections(eif, register)))
    return values[-1] if values else extended(hashlib.sha384().digest())


def certificate_register(certificate: bytes | None) -> bytes:
    """PCR 8 of an image signed with a certificate (DER); of an unsigned one, zeros."""
    return ZERO if certificate is None else extended(hashlib.sha384(certificate).digest())


def role_register(role: str) -> bytes:
    """PCR 3 of an enclave whose parent instance has the IAM role with this ARN."""
    if not _ROLE.fullmatch(role):
        raise NitroInputError(
            "is not the ARN of an IAM role",
            subject=f"role {role!r}",
            advice="give arn:aws:iam::<account>:role/<name> as `aws iam get-role` prints it",
        )
    return extended(role.encode("ascii"))


def instance_register(instance: str) -> bytes:
    """PCR 4 of an enclave whose parent instance has this id."""
    if not _INSTANCE.fullmatch(instance):
        raise NitroInputError(
            "is not an EC2 instance id",
            subject=f"instance {instance!r}",
            advice="give i- and 8 or 17 lower-case hex digits",
        )
    return extended(instance.encode("ascii"))


def extended(content: bytes) -> bytes:
    """A register that started at zero, after its only extend."""
    return hashlib.sha384(ZERO + content).digest()
