"""The table of certificates that a host gives to SEV-SNP guests (AMD publication 56421, MSG_REPORT_REQ)."""

import struct
from uuid import UUID

_ENTRY = struct.Struct("<16sII")
_LEAVES = (UUID("63da758d-e664-4564-adc5-f4b93be8accd"), UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"))  # VCEK, VLEK
_INTERMEDIATE = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782")  # ASK, or ASVK beside a VLEK
_ROOT = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae")


def certificates_of(table: bytes) -> tuple[bytes, ...]:
    """Return endorsement key, intermediate and root in DER, or nothing where the table does not hold all three.

    The host wrote the table, so it is taken for no more than a hint: the chain is verified by
    whoever appraises it. Hosts write the GUIDs in either byte order.
    """
    found: dict[UUID, bytes] = {}
    for position in range(0, len(table) - _ENTRY.size + 1, _ENTRY.size):
        guid, offset, length = _ENTRY.unpack_from(table, position)
        if not any(guid):
            break
        certificate = table[offset : offset + length]
        if length and len(certificate) == length:
            found |= {UUID(bytes=guid): certificate, UUID(bytes_le=guid): certificate}
    leaf = next((found[guid] for guid in _LEAVES if guid in found), None)
    if leaf is None or _INTERMEDIATE not in found or _ROOT not in found:
        return ()
    return leaf, found[_INTERMEDIATE], found[_ROOT]
