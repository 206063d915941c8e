"""Escrow of the server keys' data keys: a second wrapping under a backup KEK that exists only in shares.

It covers the scope `server keys` and nothing else, which a constraint of the database holds as well:
a server without its identity has to enrol every device anew, while sessions begin again by
themselves, and models and rounds are what the escrow's custodians have no business to open.
"""

import secrets
import uuid
from collections.abc import Sequence
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyring.columns import Scope
from keyring.custodians import Custodian, OpenedShare, seal_share
from keyring.data_keys import current_data_key, data_key_aad, forget_retired_keys, open_data_key
from keyring.kek import (
    KEK_BYTES,
    KEK_ID_BYTES,
    NONCE_BYTES,
    Kek,
    KekError,
    configured_provider,
    find_kek,
    provider_named,
)
from keyring.models import DataKey, EscrowSplit
from keyring.shares import EscrowError, combine_secret, split_secret
from qflare_protocol.encoding import digest, frame, label
from qflare_protocol.kdf import equal


def split_escrow(
    custodians: Sequence[Custodian], threshold: int, *, now: datetime
) -> tuple[EscrowSplit, list[tuple[Custodian, str]]]:
    """Wrap the server keys' data keys under a new backup KEK and split that, inside the caller's transaction.

    Returns the sealed file of each custodian: the caller stores them before it commits, because the
    backup KEK is forgotten here and an earlier split is of no use from then on. Raises `EscrowError`,
    `KekError`.
    """
    _check_custodians(custodians)
    backup = secrets.token_bytes(KEK_BYTES)
    shares = split_secret(backup, threshold=threshold, count=len(custodians))
    current_data_key(Scope.SERVER_KEYS)  # made now where none has been needed yet
    escrow = EscrowSplit.objects.create(
        threshold=threshold,
        custodians=[{"name": person.name, "fingerprint": person.fingerprint.hex()} for person in custodians],
        backup_kek_id=_backup_id(backup),
        created_at=now,
    )
    for row in DataKey.objects.select_for_update(no_key=True).filter(scope=Scope.SERVER_KEYS):
        nonce = secrets.token_bytes(NONCE_BYTES)
        row.wrapped_for_escrow = nonce + AESGCM(backup).encrypt(nonce, open_data_key(row), _escrow_aad(row, escrow.id))
        row.escrow = escrow
        row.save(update_fields=["escrow", "wrapped_for_escrow"])
    files = [
        (person, seal_share(person, escrow.id, threshold, words))
        for person, words in zip(custodians, shares, strict=True)
    ]
    return escrow, files


def recover_escrow(shares: Sequence[OpenedShare], *, now: datetime) -> tuple[EscrowSplit, list[DataKey]]:
    """Wrap the escrowed data keys under the configured provider's current KEK, inside the caller's transaction.

    A KEK is made where there is none. Current data keys of other scopes whose KEK is lost are retired, so
    that new ones are made; what stands under them stays closed. Returns the escrow and those retired keys.
    Raises `EscrowError`, `KekError`.
    """
    backup, escrow = _combined(shares)
    provider = configured_provider()
    keks = provider_named(provider).keks()
    kek = keks[-1] if keks else provider_named(provider).create()
    rows = list(DataKey.objects.select_for_update(no_key=True).filter(escrow=escrow))
    if not rows:
        raise EscrowError("No data key stands under this escrow any more; a later split or rotation has replaced it.")
    for row in rows:
        _recover(row, backup, provider, kek)
    lost = [row for row in DataKey.objects.filter(retired_at=None) if _is_lost(row)]
    if any(row.scope == Scope.SERVER_KEYS for row in lost):
        raise EscrowError("The escrow is older than the server keys' current data key, which it does not cover.")
    DataKey.objects.filter(id__in=[row.id for row in lost]).update(retired_at=now)
    forget_retired_keys()
    return escrow, lost


def _check_custodians(custodians: Sequence[Custodian]) -> None:
    if len({person.name for person in custodians}) != len(custodians):
        raise EscrowError("Two custodians bear one name.")
    if len({person.fingerprint for person in custodians}) != len(custodians):
        raise EscrowError("Two custodians have one key: they would be one custodian with two shares.")


def _combined(shares: Sequence[OpenedShare]) -> tuple[bytes, EscrowSplit]:
    """Return the backup KEK and its escrow, checked against each other."""
    ids = {share.escrow_id for share in shares}
    if len(ids) != 1:
        raise EscrowError("The shares come from different splits." if ids else "There is no share to combine.")
    escrow = EscrowSplit.objects.filter(id=ids.pop()).first()
    if escrow is None:
        raise EscrowError("The shares belong to no escrow of this database.")
    backup = combine_secret([share.words for share in shares])
    if not equal(_backup_id(backup), bytes(escrow.backup_kek_id)):
        raise EscrowError("The shares combine, but not to the backup KEK of this escrow.")
    return backup, escrow


def _recover(row: DataKey, backup: bytes, provider: str, kek: Kek) -> None:
    wrapped = bytes(row.wrapped_for_escrow or b"")
    try:
        key = AESGCM(backup).decrypt(wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _escrow_aad(row, row.escrow_id))
    except (InvalidTag, ValueError) as error:
        raise EscrowError(f"The escrowed wrapping of the {row} is damaged or belongs to another row.") from error
    row.kek_provider, row.kek_id = provider, kek.id
    row.wrapped_key = kek.wrap(key, data_key_aad(row))
    row.save(update_fields=["kek_provider", "kek_id", "wrapped_key"])


def _is_lost(row: DataKey) -> bool:
    """Say whether a data key's KEK is not to be had; to be wrong does no harm, because the row is only retired."""
    try:
        return find_kek(row.kek_provider, bytes(row.kek_id)) is None
    except KekError:
        return True


def _backup_id(backup: bytes) -> bytes:
    return digest("backup kek id", backup)[:KEK_ID_BYTES]


def _escrow_aad(row: DataKey, escrow_id: uuid.UUID) -> bytes:
    place = (DataKey._meta.db_table.encode(), str(row.id).encode(), b"wrapped_for_escrow")
    return frame(label("escrowed data key"), *place, row.scope.encode(), escrow_id.bytes)
