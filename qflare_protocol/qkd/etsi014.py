"""The data model of ETSI GS QKD 014 V1.1.1 ("REST-based key delivery API", 2019-02), section 6.

The entity that asks for a key first is the *master* SAE (secure application entity), the one that
fetches the same key by its id the *slave* SAE. Members that the standard does not name are passed
over on reading, and so are its optional extensions; what is mandatory and unknown is refused.
"""

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qflare_protocol.qkd.errors import QkdUnavailable
from qflare_protocol.qkd.strict_json import (
    count_member,
    list_member,
    member,
    read_object,
    text_member,
    write_object,
)

MAX_MESSAGE_BYTES = 256 * 1024
MAX_KEYS = 128
MIN_KEY_BITS, MAX_KEY_BITS, DEFAULT_KEY_BITS = 64, 8192, 256
MAX_ENTITY_ID_CHARACTERS = 255
MAX_MESSAGE_CHARACTERS = 200
_LARGEST_COUNT = 2**53 - 1  # what every JSON implementation reads exactly, RFC 8259 section 6
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class KmeStatus:
    """What a KME says of the link between two SAEs (clause 6.1); sizes in bits."""

    source_kme_id: str
    target_kme_id: str
    master_sae_id: str
    slave_sae_id: str
    key_size_bits: int
    stored_key_count: int
    max_key_count: int
    max_key_per_request: int
    max_key_size_bits: int
    min_key_size_bits: int
    max_sae_id_count: int


@dataclass(frozen=True)
class QkdKey:
    """One key and the id by which both sides name it (clause 6.3)."""

    key_id: uuid.UUID
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyRequest:
    """How many keys of which size in bits are asked for (clause 6.2); None where the KME's default shall hold."""

    number: int = 1
    size_bits: int | None = None


@dataclass(frozen=True)
class KmeError:
    """An error answer (clause 6.5): its message, cut to 200 printable characters."""

    message: str


_STATUS_TEXTS = ("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID")
_STATUS_COUNTS = (
    "key_size", "stored_key_count", "max_key_count", "max_key_per_request", "max_key_size", "min_key_size",
    "max_SAE_ID_count",
)  # fmt: skip


def read_status(data: bytes) -> KmeStatus:
    """Read a status answer. Raises `QkdUnavailable`."""
    what = "KME's status"
    value = read_object(data, what=what, maximum_bytes=MAX_MESSAGE_BYTES)
    members: list[Any] = [text_member(value, name, MAX_ENTITY_ID_CHARACTERS, what=what) for name in _STATUS_TEXTS]
    members += [count_member(value, name, _LARGEST_COUNT, what=what) for name in _STATUS_COUNTS]
    return KmeStatus(*members)


def write_status(status: KmeStatus) -> bytes:
    """Write a status answer."""
    return write_object(dict(zip(_STATUS_TEXTS + _STATUS_COUNTS, vars(status).values(), strict=True)))


def read_key_container(data: bytes, *, number: int, size_bits: int) -> list[QkdKey]:
    """Read a key container that must hold exactly `number` different keys of exactly `size_bits`.

    Raises `QkdUnavailable`, also for a key of zeros alone, which no random source gives.
    """
    what = "key container"
    value = read_object(data, what=what, maximum_bytes=MAX_MESSAGE_BYTES)
    keys = [_read_key(item, size_bits) for item in list_member(value, "keys", MAX_KEYS, what=what)]
    if len(keys) != number or len({key.key_id for key in keys}) != number:
        raise QkdUnavailable(f"The KME was asked for {number} different keys and gave others.")
    return keys


def _read_key(item: object, size_bits: int) -> QkdKey:
    text = member(item, "key", what="key of the container")
    try:
        key = base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error):
        raise QkdUnavailable("A key of the container is not in Base64.") from None
    if base64.b64encode(key).decode() != text:
        raise QkdUnavailable("A key of the container is not in canonical Base64.")
    if len(key) * 8 != size_bits or not any(key):
        raise QkdUnavailable(f"A key of the container does not have the {size_bits} random bits that were asked for.")
    return QkdKey(read_key_id(item), key)


def read_key_id(item: object) -> uuid.UUID:
    """Read the member `key_ID`, a UUID in its form with dashes. Raises `QkdUnavailable`."""
    text = text_member(item, "key_ID", 36, what="key id")
    if not _UUID.fullmatch(text):
        raise QkdUnavailable("A key id is not a UUID in its form with dashes.")
    return uuid.UUID(text)


def write_key_container(keys: Sequence[QkdKey]) -> bytes:
    """Write a key container."""
    rows = [{"key_ID": str(key.key_id), "key": base64.b64encode(key.key).decode()} for key in keys]
    return write_object({"keys": rows})


def read_key_ids(data: bytes) -> list[uuid.UUID]:
    """Read a request for keys by their ids (clause 6.4): 1 to 128 different ones. Raises `QkdUnavailable`."""
    value = read_object(data, what="list of key ids", maximum_bytes=MAX_MESSAGE_BYTES)
    key_ids = [read_key_id(item) for item in list_member(value, "key_IDs", MAX_KEYS, what="list of key ids")]
    if len(set(key_ids)) != len(key_ids):
        raise QkdUnavailable("The list of key ids names a key twice.")
    return key_ids


def write_key_ids(key_ids: Sequence[uuid.UUID]) -> bytes:
    """Write a request for keys by their ids."""
    return write_object({"key_IDs": [{"key_ID": str(key_id)} for key_id in key_ids]})


def read_key_request(data: bytes) -> KeyRequest:
    """Read a request for fresh keys; no body at all asks for one key of the KME's default size.

    Raises `QkdUnavailable`, also for a mandatory extension or an additional slave, which are not
    supported here and must not be passed over.
    """
    what = "key request"
    value = read_object(data, what=what, maximum_bytes=MAX_MESSAGE_BYTES) if data else {}
    for unsupported in ("extension_mandatory", "additional_slave_SAE_IDs"):
        if value.get(unsupported):
            raise QkdUnavailable(f"The {unsupported} of the key request are not supported.")
    number = count_member(value, "number", _LARGEST_COUNT, what=what) if "number" in value else 1
    size_bits = count_member(value, "size", _LARGEST_COUNT, what=what) if "size" in value else None
    return KeyRequest(number, size_bits)


def write_key_request(request: KeyRequest) -> bytes:
    """Write a request for fresh keys."""
    size = {} if request.size_bits is None else {"size": request.size_bits}
    return write_object({"number": request.number, **size})


def read_error(data: bytes) -> KmeError:
    """Read an error answer. Raises `QkdUnavailable`."""
    value = read_object(data, what="KME's error answer", maximum_bytes=MAX_MESSAGE_BYTES)
    message = text_member(value, "message", MAX_MESSAGE_BYTES, what="KME's error answer")
    return KmeError("".join(filter(str.isprintable, message))[:MAX_MESSAGE_CHARACTERS])


def write_error(message: str, details: Sequence[dict[str, Any]] = ()) -> bytes:
    """Write an error answer; `details` are objects of one name and its value each."""
    return write_object({"message": message, **({"details": list(details)} if details else {})})


def check_sae_id(sae_id: object) -> str:
    """Return the id of an SAE when it can stand as one segment of a path. Raises `QkdUnavailable`."""
    if not isinstance(sae_id, str) or not 1 <= len(sae_id) <= MAX_ENTITY_ID_CHARACTERS:
        raise QkdUnavailable(f"An SAE id is text of 1 to {MAX_ENTITY_ID_CHARACTERS} characters.")
    if not sae_id.isprintable() or sae_id in (".", ".."):
        raise QkdUnavailable("An SAE id is printable and not a path.")
    return sae_id
