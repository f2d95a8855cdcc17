"""The ID block that an IGVM file carries, in the form in which the secure processor takes it.

The file has keys as ``u32 curve | u32 0 | 72 bytes x | 72 bytes y``, signatures as ``72 bytes r |
72 bytes s`` (microsoft/igvm, igvm_defs, ``IGVM_VHS_SNP_ID_BLOCK``); the policy is that of the file's guest
policy header.
"""

from __future__ import annotations

from measurements.sev.id_block import KEY_SIZE, SIGNATURE_SIZE, IdAuthentication, IdBlock
from measurements.sev.igvm import IgvmFile, SnpIdBlock, igvm_error
from measurements.sev.igvm_launch import snp_part

_ALGORITHM_ECDSA_P384 = 1
_VERSION = 1


def igvm_id_block(file: IgvmFile) -> tuple[IdBlock, IdAuthentication] | None:
    """The ID block of ``file`` and its authentication, None without one.

    Signatures are not checked here (``check_id_block``). Raises IgvmError or IdBlockError.
    """
    part = snp_part(file)
    found = [header.body for header in part.directives if isinstance(header.body, SnpIdBlock)]
    if not found:
        return None
    if len(found) > 1:
        raise igvm_error(file.name, f"has {len(found)} ID blocks for SEV-SNP")
    (block,) = found
    with_author = block.author_key_enabled == 1
    algorithms = (block.id_algorithm, block.author_algorithm)
    if block.version != _VERSION or block.author_key_enabled > 1:
        raise igvm_error(file.name, f"has an ID block of version {block.version} or with unknown flags")
    if algorithms != (_ALGORITHM_ECDSA_P384, _ALGORITHM_ECDSA_P384 if with_author else 0):
        raise igvm_error(file.name, f"has an ID block with key algorithms {algorithms}")
    if not with_author and any(block.author_key + block.id_key_signature):
        raise igvm_error(file.name, "has an author key in its ID block that is not enabled")
    authentication = IdAuthentication(
        block_signature=_signature(block.block_signature),
        id_key=_key(file, block.id_key),
        id_key_signature=_signature(block.id_key_signature) if with_author else None,
        author_key=_key(file, block.author_key) if with_author else None,
    )
    return _id_block(block, part.policy), authentication


def _id_block(block: SnpIdBlock, policy: int) -> IdBlock:
    return IdBlock(
        launch_digest=block.launch_digest,
        policy=policy,
        family_id=block.family_id,
        image_id=block.image_id,
        guest_svn=block.guest_svn,
    )


def _signature(data: bytes) -> bytes:
    return data.ljust(SIGNATURE_SIZE, b"\0")


def _key(file: IgvmFile, data: bytes) -> bytes:
    if any(data[4:8]):
        raise igvm_error(file.name, "has a key in its ID block with reserved bytes that are not zero")
    return (data[:4] + data[8:]).ljust(KEY_SIZE, b"\0")
