"""A credential as the file that ``tpm2_activatecredential --credential-blob`` reads and
``tpm2_makecredential`` writes. All numbers are big endian::

    u32 0xBADCC0DE ‖ u32 version 1 ‖ TPM2B_ID_OBJECT ‖ TPM2B_ENCRYPTED_SECRET

Source: tpm2-software/tpm2-tools, tools/tpm2_makecredential.c (``write_cred_and_secret``), lib/files.c
(``files_write_header``). Both structures are of the TPM 2.0 Library, part 2, each with its size in front.
"""

from __future__ import annotations

import struct

from attestation.credential import Credential

MAGIC = 0xBADCC0DE
VERSION = 1


def credential_file(credential: Credential) -> bytes:
    """The file."""
    return struct.pack(">II", MAGIC, VERSION) + credential.id_object + credential.encrypted_secret
