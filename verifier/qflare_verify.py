"""Check an exported QFLARE log offline: `python qflare_verify.py DIR [--key FILE|FINGERPRINT] [--seen FILE]`.

This one file needs Python 3.11 and the package `cryptography`; it trusts no server, no database and no
code of the house it checks. It is written from docs/protocol.md, sections 1, 3, 12 and 13, and reads
every file of an export once, in constant memory.

What makes the log false is a `Problem`: the walk ends there, and the sentence names file and entry. What
only needs an explanation (silence, entries that came late, a result that is not in the export) is a
`Finding`: the log holds, and every one of them is told.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import re
import string
import struct
import sys
import time as clock
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

# ---------------------------------------------------------------------------------------------------
# 1  What is found

CHECKPOINT_BUCKET_SECONDS = 300
SILENCE_SECONDS = 2 * CHECKPOINT_BUCKET_SECONDS
SKEW_SECONDS = 300
"""By how much the clocks of the hosts that write and sign may differ: one bucket, as for devices."""
LATE_SECONDS = 3600
KEPT_FINDINGS = 20


class Problem(Exception):  # noqa: N818 - it is the verdict, not an error of the program
    """What makes a log false: a kind such as "changed" for programs, and a sentence for people."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class Malformed(Exception):  # noqa: N818 - becomes a Problem where the place is known
    """Bytes that are not what they have to be; the sentence says in what way."""


@dataclass
class Findings:
    """What needs an explanation: how often each kind was met, and the first sentences of each."""

    counts: dict[str, int] = field(default_factory=dict)
    sentences: list[tuple[str, str]] = field(default_factory=list)

    def add(self, kind: str, sentence: str) -> None:
        """Count a finding and keep its sentence, unless there are `KEPT_FINDINGS` of its kind."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if self.counts[kind] <= KEPT_FINDINGS:
            self.sentences.append((kind, sentence))


@dataclass(frozen=True)
class Report:
    """What was verified in a log that holds."""

    head: Note
    key: Key
    key_was_pinned: bool
    keys: int
    checkpoints: int
    erased: int
    results: int
    witnesses: int
    anchors: int
    seconds: float
    findings: Findings


# ---------------------------------------------------------------------------------------------------
# 2  Hashes and labels (protocol section 1)


def framed(*parts: bytes) -> bytes:
    """Return the parts, each behind its length as 8 bytes big-endian."""
    return b"".join([len(part).to_bytes(8, "big") + part for part in parts])


def labelled(purpose: str) -> bytes:
    """Return the domain-separation label of a purpose."""
    return b"QFLARE/1 " + purpose.encode("ascii")


def labelled_digest(purpose: str, *parts: bytes) -> bytes:
    """Return the 64-byte SHA3-512 digest of the label and the framed parts."""
    return hashlib.sha3_512(framed(labelled(purpose), *parts)).digest()


_ENTRY_PREFIX = framed(labelled("audit entry"))
_DISCLOSURE_PREFIX = framed(labelled("audit disclosure"))

# ---------------------------------------------------------------------------------------------------
# 3  Deterministic CBOR (RFC 8949 section 4.2.1) as QF/1 uses it: no tags, no indefinite lengths

MAX_NESTING = 16
MAX_ITEMS = 1 << 20
_LEAST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}
_LENGTH = {24: 1, 25: 2, 26: 4, 27: 8}
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}


def read_cbor(data: bytes) -> Any:
    """Return the one item that the bytes encode deterministically. Raises `Malformed` for everything else."""
    reader = _CborReader(data)
    try:
        value, end = reader.item(0, MAX_NESTING)
    except (IndexError, struct.error) as error:
        raise Malformed("is cut short") from error
    except UnicodeDecodeError as error:
        raise Malformed("holds text that is not UTF-8") from error
    if end != len(data):
        raise Malformed("is followed by other bytes" if end < len(data) else "is cut short")
    return value


class _CborReader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items = 0

    def item(self, at: int, depth: int) -> tuple[Any, int]:
        """Return an item and where the next one begins; a string that runs over the end is found by the caller."""
        self._items += 1
        if depth == 0 or self._items > MAX_ITEMS:
            raise Malformed("is nested too deeply or holds too many items")
        data = self._data
        initial = data[at]
        major, argument, at = initial >> 5, initial & 31, at + 1
        if major == 7:
            return self._simple(argument, at)
        if argument >= 24:
            argument, at = self._argument(argument, at)
        if major == 3:
            return data[at : at + argument].decode(), at + argument
        if major == 2:
            return data[at : at + argument], at + argument
        if major == 0:
            return argument, at
        if major == 5:
            return self._map(argument, at, depth)
        if major == 4:
            return self._array(argument, at, depth)
        if major == 1:
            return -1 - argument, at
        raise Malformed("holds a tag, which QF/1 does not use")

    def _argument(self, information: int, at: int) -> tuple[int, int]:
        if information not in _LENGTH:
            raise Malformed("has a part of indefinite length, or none that CBOR knows")
        end = at + _LENGTH[information]
        if end > len(self._data):
            raise Malformed("is cut short")
        value = int.from_bytes(self._data[at:end], "big")
        if value < _LEAST[information]:
            raise Malformed("has a number that is not in its shortest form")
        return value, end

    def _map(self, length: int, at: int, depth: int) -> tuple[dict[Any, Any], int]:
        found: dict[Any, Any] = {}
        data, previous = self._data, b""
        for _ in range(length):
            begin, initial = at, data[at]
            if 0x60 <= initial < 0x78:
                at = begin + initial - 0x5F
                key: Any = data[begin + 1 : at].decode()
                self._items += 1
            elif initial < 24 or initial >> 5 == 3:
                key, at = self.item(at, 1)
            else:
                raise Malformed("has a map key that is neither text nor 0 to 23")
            encoded = data[begin:at]
            if encoded <= previous or at > len(data):
                raise Malformed("has map keys that are not in their order")
            previous = encoded
            found[key], at = self.item(at, depth - 1)
        return found, at

    def _array(self, length: int, at: int, depth: int) -> tuple[list[Any], int]:
        found = []
        for _ in range(length):
            value, at = self.item(at, depth - 1)
            found.append(value)
        return found, at

    def _simple(self, information: int, at: int) -> tuple[Any, int]:
        if information in (20, 21, 22):
            return (False, True, None)[information - 20], at
        if information not in _FLOATS:
            raise Malformed("holds a value of a type that QF/1 does not use")
        value = struct.unpack_from(_FLOATS[information], self._data, at)[0]
        end = at + _LENGTH[information]
        if shortest_float(value) != self._data[at - 1 : end]:
            raise Malformed("has a number that is not in its shortest form")
        return value, end


def shortest_float(value: float) -> bytes:
    """Return the shortest encoding that keeps the value (RFC 8949 section 4.2.1); of every NaN the same."""
    if value != value:
        return b"\xf9\x7e\x00"
    for initial, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            packed = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, packed)[0] == value:
            return initial + packed
    return b"\xfb" + struct.pack(">d", value)


def unsigned(value: int) -> bytes:
    """Return the shortest encoding of a whole number from 0."""
    if value < 24:
        return bytes((value,))
    size = next(size for size in (1, 2, 4, 8) if value >> (8 * size) == 0)
    return bytes((0x17 + size.bit_length(),)) + value.to_bytes(size, "big")


# ---------------------------------------------------------------------------------------------------
# 4  Keys and signatures: ML-DSA, C2SP signed-note and tlog-cosignature, COSE_Sign1

_DASH = "\N{EM DASH} "
_SIGNATURE_TYPE = b"\x06"
MAX_NOTE_BYTES = 1 << 16
_PUBLIC: dict[str, Any] = {
    "ML-DSA-44": mldsa.MLDSA44PublicKey,
    "ML-DSA-65": mldsa.MLDSA65PublicKey,
    "ML-DSA-87": mldsa.MLDSA87PublicKey,
}
_COSE_ALGORITHMS = {-48: "ML-DSA-44", -49: "ML-DSA-65", -50: "ML-DSA-87"}


class Key:
    """A public ML-DSA key."""

    def __init__(self, public: bytes, algorithm: str = "ML-DSA-44") -> None:
        try:
            self._key = _PUBLIC[algorithm].from_public_bytes(public)
        except ValueError as error:
            raise Malformed(f"holds no {algorithm} key") from error
        self.public, self.algorithm = public, algorithm

    @property
    def fingerprint(self) -> bytes:
        """The 32-byte key fingerprint (protocol section 1)."""
        return labelled_digest("key fingerprint", self.algorithm.encode(), self.public)[:32]

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Return whether this key signed the message (FIPS 204, pure, empty context)."""
        try:
            self._key.verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def key_id(self, name: str) -> bytes:
        """Return the 4-byte key id of signed-note for a cosignature key of that name."""
        return hashlib.sha256(name.encode() + b"\n" + _SIGNATURE_TYPE + self.public).digest()[:4]


def read_verifier_key(line: str) -> tuple[str, Key]:
    """Return (origin, key) of a verifier key `<name>+<key id>+<base64>` (C2SP signed-note). Raises `Malformed`."""
    name, _, rest = line.strip().partition("+")
    stated, _, encoded = rest.partition("+")
    material = from_base64(encoded)
    if material[:1] != _SIGNATURE_TYPE:
        raise Malformed("holds a verifier key that is not of the signature type 0x06 (ML-DSA-44 cosignature)")
    key = Key(material[1:])
    if not name or key.key_id(name).hex() != stated:
        raise Malformed("holds a verifier key that does not have its own key id")
    return name, key


def from_base64(text: str) -> bytes:
    """Return what standard base64 in its one canonical form stands for. Raises `Malformed`."""
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise Malformed("holds a part that is not base64") from error
    if base64.b64encode(data).decode() != text:
        raise Malformed("holds base64 that is not in its one form")
    return data


@dataclass(frozen=True)
class Note:
    """A checkpoint as its note states it; `time` (POSIX seconds) is set once a key's signature has been verified."""

    origin: str
    size: int
    root: bytes
    signatures: tuple[tuple[str, bytes], ...]
    time: int = 0

    @classmethod
    def parse(cls, text: str) -> Note:
        """Read a signed note of exactly three lines (C2SP tlog-checkpoint). Raises `Malformed`."""
        body, separator, signatures = text.rpartition("\n\n")
        lines, signed = body.split("\n"), signatures.removesuffix("\n").split("\n")
        if not separator or not text.endswith("\n") or len(lines) != 3:
            raise Malformed("is not a checkpoint: three lines, an empty one, and signature lines")
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", lines[1]) or not lines[0] or re.search(r"[\s+]", lines[0]):
            raise Malformed("is not a checkpoint: its origin or size is not in its one form")
        root = from_base64(lines[2])
        if len(root) != 32 or not all(line.startswith(_DASH) and line.count(" ") == 2 for line in signed):
            raise Malformed("is not a checkpoint: its root or a signature line is not in its form")
        named = tuple((line.split(" ")[1], from_base64(line.split(" ")[2])) for line in signed)
        return cls(lines[0], int(lines[1]), root, named)

    def verified(self, key: Key, name: str | None = None) -> Note:
        """Return the checkpoint with its time when the key signed it exactly once. Raises `Malformed`."""
        name = name or self.origin
        wanted = key.key_id(name)
        blobs = [blob[4:] for signer, blob in self.signatures if signer == name and blob[:4] == wanted]
        if len(blobs) != 1:
            raise Malformed(f"is not signed by the key {key.fingerprint.hex()[:16]} exactly once")
        time = int.from_bytes(blobs[0][:8], "big")
        if not key.signed(self._cosigned_message(name, time), blobs[0][8:]):
            raise Malformed(f"has a signature that the key {key.fingerprint.hex()[:16]} did not make")
        return Note(self.origin, self.size, self.root, self.signatures, time)

    def _cosigned_message(self, name: str, time: int) -> bytes:
        """Return what C2SP tlog-cosignature signs with ML-DSA-44."""
        signer, origin = name.encode(), self.origin.encode()
        head = b"subtree/v1\n\0" + bytes((len(signer),)) + signer + time.to_bytes(8, "big")
        return head + bytes((len(origin),)) + origin + bytes(8) + self.size.to_bytes(8, "big") + self.root


def moment(seconds: float) -> str:
    """Return a time as people read it."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"the second {seconds:.0f} since 1970"


def read_sign1(signed: bytes, key: Key, purpose: str) -> Any:
    """Return the payload of a COSE_Sign1 structure that this key signed for this purpose. Raises `Malformed`."""
    parts = read_cbor(signed)
    if not isinstance(parts, list) or len(parts) != 4 or parts[1] != {}:
        raise Malformed("is not a COSE_Sign1 structure")
    protected, _, body, signature = parts
    if not all(isinstance(part, bytes) for part in (protected, body, signature)):
        raise Malformed("is not a COSE_Sign1 structure")
    header = read_cbor(protected)
    if not isinstance(header, dict) or set(header) != {1, 4} or header[4] != key.fingerprint:
        raise Malformed("is signed by another key")
    if _COSE_ALGORITHMS.get(header[1]) != key.algorithm:
        raise Malformed("is signed by another algorithm")
    external = framed(labelled(purpose), b"")
    message = b"\x84\x6aSignature1" + b"".join(map(_byte_string, (protected, external, body)))
    if not key.signed(message, signature):
        raise Malformed("has a signature that does not hold")
    return read_cbor(body)


def _byte_string(data: bytes) -> bytes:
    header = unsigned(len(data))
    return bytes((header[0] | 0x40,)) + header[1:] + data


# ---------------------------------------------------------------------------------------------------
# 5  The Merkle tree (RFC 6962, RFC 9162) and its tiles (C2SP tlog-tiles)

TILE_WIDTH = 256
HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def subtrees(hashes: Sequence[bytes]) -> list[Sequence[bytes]]:
    """Return all complete subtrees over hashes, level by level."""
    sha256, levels = hashlib.sha256, [hashes]
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2], strict=False)
        hashes = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
        levels.append(hashes)
    return levels


def root_over(hashes: Sequence[bytes]) -> bytes:
    """Return the root over the hashes of all leaves of a tree (RFC 6962 section 2.1)."""
    while len(hashes) > 1:
        rest = hashes[len(hashes) & ~1 :]
        hashes = [*map(node_hash, hashes[::2], hashes[1::2]), *rest]
    return hashes[0] if hashes else EMPTY_ROOT


class Tree:
    """The right edge of a tree that grows by whole bundles, and its upper tiles."""

    def __init__(self) -> None:
        self.bundles = 0
        self.edges: list[list[bytes]] = []
        self._peaks: list[bytes] = []

    def append_bundle(self, root: bytes) -> list[tuple[int, int, list[bytes]]]:
        """Add the root over a full bundle; return the upper tiles that it fills: (level, index, hashes)."""
        peak, count = root, self.bundles
        while count & 1:
            peak, count = node_hash(self._peaks.pop(), peak), count >> 1
        self._peaks.append(peak)
        self.bundles += 1
        return self._fill_tiles(root)

    def _fill_tiles(self, root: bytes) -> list[tuple[int, int, list[bytes]]]:
        filled: list[tuple[int, int, list[bytes]]] = []
        level = 0
        while True:
            if level == len(self.edges):
                self.edges.append([])
            self.edges[level].append(root)
            if len(self.edges[level]) < TILE_WIDTH:
                return filled
            hashes, self.edges[level] = self.edges[level], []
            filled.append((level + 1, (self.bundles >> (8 * (level + 1))) - 1, hashes))
            root, level = subtrees(hashes)[-1][0], level + 1

    def root(self, levels: Sequence[Sequence[bytes]], count: int) -> bytes:
        """Return the root over all bundles and the first `count` leaves of the next, given that one's subtrees."""
        peaks = [levels[bit][(count >> bit) - 1] for bit in range(9) if count >> bit & 1] + self._peaks[::-1]
        if not peaks:
            return EMPTY_ROOT
        root = peaks[0]
        for peak in peaks[1:]:
            root = node_hash(peak, root)
        return root


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Return the root to which an inclusion proof leads (RFC 9162 section 2.1.3.2). Raises `Malformed`."""
    if not 0 <= index < size:
        raise Malformed(f"is a proof of entry {index} in a log of {size}")
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Malformed("has a proof that is too long")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise Malformed("has a proof that is too short")
    return computed


def tile_path(level: int | str, index: int, width: int) -> PurePosixPath:
    """Return the path of a tile; x001/x234/067 for 1234067, and .p/<width> for a partial one."""
    groups = [f"{index % 1000:03d}"]
    while index := index // 1000:
        groups.insert(0, f"x{index % 1000:03d}")
    path = PurePosixPath("tile", str(level), *groups)
    return path if width == TILE_WIDTH else path.with_name(f"{path.name}.p") / str(width)


def disclosures_path(index: int, width: int) -> PurePosixPath:
    """Return the path of the disclosures of an entry bundle."""
    return PurePosixPath("disclosures", *tile_path("entries", index, width).parts[2:])


def split_bundle(bundle: bytes) -> list[bytes]:
    """Return the entries of a bundle, each behind its length as 2 bytes. Raises `Malformed` where it is cut."""
    entries, at, end = [], 0, len(bundle)
    while at < end:
        begin = at + 2
        at = begin + (bundle[at] << 8 | bundle[begin - 1]) if begin <= end else begin
        entries.append(bundle[begin:at])
    if at != end:
        raise Malformed("is cut short")
    return entries


# ---------------------------------------------------------------------------------------------------
# 6  Entries and their disclosures (protocol section 13.1)

MAX_ENTRY_BYTES = 1024
MAX_DISCLOSURE_BYTES = (1 << 16) - 1
_HASH_HEADER = b"\x58\x40"
_TAIL = 2 * (2 + 64)
_SALT_HEADER = b"\x83\x58\x20"
_KNOWN_KINDS = 1000
_KIND = re.compile(r"[a-z][a-z_]*(\.[a-z][a-z_]*)+")


@dataclass(frozen=True)
class Entry:
    """One entry of the log: [index, microseconds since 1970, kind, commitment, hash of the entry before]."""

    index: int
    time: int
    kind: str
    commitment: bytes
    previous_hash: bytes


def read_entry(data: bytes) -> Entry:
    """Read the canonical bytes of an entry. Raises `Malformed`."""
    members = read_cbor(data) if len(data) <= MAX_ENTRY_BYTES else None
    if not isinstance(members, list) or [type(member) for member in members] != [int, int, str, bytes, bytes]:
        raise Malformed("is not [index, time, kind, commitment, previous hash]")
    if (len(members[3]), len(members[4])) != (64, 64):
        raise Malformed("does not have a commitment and a previous hash of 64 bytes each")
    return Entry(*members)


def entry_hash(data: bytes) -> bytes:
    """Return the hash by which the next entry names this one."""
    return hashlib.sha3_512(_ENTRY_PREFIX + len(data).to_bytes(8, "big") + data).digest()


def commitment(data: bytes) -> bytes:
    """Return the commitment to the canonical bytes of a disclosure."""
    return hashlib.sha3_512(_DISCLOSURE_PREFIX + len(data).to_bytes(8, "big") + data).digest()


def read_disclosure(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return actor and payload of a disclosure [salt, actor, payload]. Raises `Malformed`."""
    members = read_cbor(data)
    if not isinstance(members, list) or [type(member) for member in members] != [bytes, str, dict]:
        raise Malformed("is not [salt, actor, payload]")
    if len(members[0]) != 32:
        raise Malformed("does not have a salt of 32 bytes")
    return members[1], members[2]


def is_plain_disclosure(data: bytes) -> bool:
    """Return whether this is surely a disclosure of the usual form: a flat map of ASCII texts and small numbers.

    False says nothing: `read_disclosure` decides. Reading each by all the rules of CBOR would take longer
    than all hashes of the log.
    """
    try:
        at = 36 + data[35] - 0x60 if data[35] != 0x78 else 37 + data[36]
        members, start, previous = data[at] - 0xA0, at, b""
        if data[:3] != _SALT_HEADER or not (0x60 <= data[35] < 0x78 or data[36] >= 24) or not 0 <= members < 24:
            return False
        at += 1
        for _ in range(members):
            end = at + data[at] - 0x5F
            key = data[at:end]
            initial = data[end]
            if not 0x60 <= data[at] < 0x78 or key <= previous:
                return False
            previous, at = key, end + 1
            if 0x60 <= initial < 0x78:
                at += initial - 0x60
            elif initial == 0x78 and data[at] >= 24:
                at += 1 + data[at]
            elif initial >= 24:
                return False
    except IndexError:
        return False
    return at == len(data) and data[35:start].isascii() and data[start + 1 :].isascii()


class Chain:
    """The hash chain, entry by entry; entries of the usual form are taken apart without reading all their CBOR."""

    def __init__(self) -> None:
        self.size = 0
        self.previous = bytes(64)
        self._kinds: dict[bytes, str] = {}

    def take(self, entries: Sequence[bytes], place: str) -> tuple[list[int], list[str], list[bytes]]:
        """Check entries that follow; return their times, kinds and commitments. Raises `Problem`."""
        times, kinds, commitments = [], [], []
        known, sha3, previous, index = self._kinds, hashlib.sha3_512, self.previous, self.size
        for data in entries:
            cut = len(data) - _TAIL
            begin = b"\x85" + unsigned(index) + b"\x1b"
            after = len(begin) + 8
            kind = known.get(data[after:cut]) if data.startswith(begin) else None
            time = int.from_bytes(data[after - 8 : after], "big")
            usual = kind is not None and time >> 32 and data[cut : cut + 2] == data[-66:-64] == _HASH_HEADER
            if not usual or data[-64:] != previous or cut > MAX_ENTRY_BYTES - _TAIL:
                entry = self._read(index, data, previous, entries, place)
                if data.startswith(begin) and len(known) < _KNOWN_KINDS:
                    known[data[after:cut]] = entry.kind
                time, kind = entry.time, entry.kind
            times.append(time)
            kinds.append(kind or "")
            commitments.append(data[cut + 2 : cut + 66])
            previous = sha3(_ENTRY_PREFIX + len(data).to_bytes(8, "big") + data).digest()
            index += 1
        self.previous, self.size = previous, index
        return times, kinds, commitments

    def _read(self, index: int, data: bytes, previous: bytes, bundle: Sequence[bytes], place: str) -> Entry:
        """Read an entry of unusual form, or one that does not fit. Raises `Problem`."""
        try:
            entry = read_entry(data)
        except Malformed as fault:
            raise Problem("malformed", f"Entry {index} in {place} {fault}.") from fault
        if entry.index != index:
            raise _misplaced(index, entry.index, bundle, place)
        if not _KIND.fullmatch(entry.kind):
            raise Problem("malformed", f"Entry {index} in {place} is of the kind {entry.kind!r}, which no kind is.")
        if entry.previous_hash != previous:
            sentence = "does not follow the entry before it: one of the two was changed"
            raise Problem("changed", f"Entry {index} in {place} {sentence}.")
        return entry


def _misplaced(index: int, found: int, bundle: Sequence[bytes], place: str) -> Problem:
    """Say what happened where another entry stands than has to."""
    there = f"Entry {index} in {place} says that it is entry {found}"
    if found < index:
        return Problem("inserted", f"{there}: an entry was inserted or repeated before it.")
    if any(data.startswith(b"\x85" + unsigned(index)) for data in bundle):
        return Problem("reordered", f"{there}, and entry {index} stands elsewhere: the order was changed.")
    return Problem("deleted", f"{there}: entry {index} was deleted.")


# ---------------------------------------------------------------------------------------------------
# 7  The folder


class Folder:
    """Reads files of an export, each of a size that it may have; names them as they stand in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, name: PurePosixPath | str, maximum_bytes: int) -> bytes:
        """Return the content of a file. Raises `Problem`."""
        try:
            with (self.path / name).open("rb") as file:
                data = file.read(maximum_bytes + 1)
        except OSError as error:
            raise Problem("missing", f"{name} cannot be read: {error.strerror}.") from error
        if len(data) > maximum_bytes:
            raise Problem("malformed", f"{name} is longer than {maximum_bytes} bytes.")
        return data

    def text(self, name: str, maximum_bytes: int = MAX_NOTE_BYTES) -> str:
        """Return the content of a text file. Raises `Problem`."""
        try:
            return self.read(name, maximum_bytes).decode()
        except UnicodeDecodeError as error:
            raise Problem("malformed", f"{name} is not text in UTF-8.") from error

    def has(self, name: PurePosixPath | str) -> bool:
        """Return whether there is such a file."""
        return (self.path / name).is_file()

    def notes(self, name: str) -> Iterator[Note]:
        """Yield the notes of a file that holds one behind the other. Raises `Problem`."""
        try:
            with (self.path / name).open("rb") as file:
                lines: list[bytes] = []
                while line := file.readline(MAX_NOTE_BYTES):
                    dash = line.startswith(_DASH.encode())
                    if lines and not dash and lines[-1].startswith(_DASH.encode()):
                        yield _parsed_note(name, lines)
                        lines = []
                    lines.append(line)
                    if len(lines) > 100:
                        raise Problem("malformed", f"{name} holds something that is no checkpoint.")
                if lines:
                    yield _parsed_note(name, lines)
        except OSError as error:
            raise Problem("missing", f"{name} cannot be read: {error.strerror}.") from error

    def json_lines(self, name: str, maximum_bytes: int = 1 << 20) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the place and the object of each line of a file; none where it is absent. Raises `Problem`."""
        if not self.has(name):
            return
        with (self.path / name).open("rb") as file:
            for number in range(1, sys.maxsize):
                line = file.readline(maximum_bytes)
                if not line:
                    return
                place = f"{name}, line {number}"
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise Problem("malformed", f"{place} is not JSON.") from error
                if not isinstance(value, dict):
                    raise Problem("malformed", f"{place} is not a JSON object.")
                yield place, value


def _parsed_note(name: str, lines: Sequence[bytes]) -> Note:
    try:
        return Note.parse(b"".join(lines).decode())
    except (Malformed, UnicodeDecodeError) as fault:
        why = fault if isinstance(fault, Malformed) else "is not text in UTF-8"
        raise Problem("malformed", f"A checkpoint in {name} {why}.") from fault


# ---------------------------------------------------------------------------------------------------
# 8  Checkpoints: signatures, order, key rotation, silence, time


@dataclass
class Span:
    """The entries since the last checkpoint: how many, and which of them are the earliest and the latest."""

    earliest: tuple[int, int] | None = None
    latest: tuple[int, int] | None = None

    def add(self, times: Sequence[int], first: int) -> None:
        """Take in the times of entries from index `first`."""
        if times:
            low, high = min(times), max(times)
            if self.earliest is None or low < self.earliest[0]:
                self.earliest = low, first + times.index(low)
            if self.latest is None or high > self.latest[0]:
                self.latest = high, first + times.index(high)


class Heads:
    """All checkpoints of an export in their order, each compared with the tree at its size."""

    def __init__(self, notes: Iterator[Note], name: str, origin: str, keys: Sequence[Key], findings: Findings) -> None:
        self._notes, self._name, self._origin, self._findings = notes, name, origin, findings
        self._keys, self._at = keys, 0
        self._successors: list[int] = []
        self.span, self.checked, self.last = Span(), 0, None  # type: tuple[Span, int, Note | None]
        self.waiting: Note | None = self._next()

    @property
    def key(self) -> Key:
        """The key that signs at this place of the log."""
        return self._keys[self._at]

    def _next(self) -> Note | None:
        note = next(self._notes, None)
        if note is None:
            return None
        if note.origin != self._origin:
            raise Problem("another-log", f"{self._name} holds a checkpoint of {note.origin}, not of {self._origin}.")
        if self.last is not None and note.size < self.last.size:
            sentence = f"{self._name} holds a checkpoint of {note.size} entries after one of {self.last.size}"
            raise Problem("forked", f"{sentence}: the log was rolled back.")
        return note

    def rotate(self, index: int, old: str, new: str) -> None:
        """Take note that entry `index` names the next key. Raises `Problem` for other keys than the export's."""
        at = self._at + len(self._successors)
        stated = [key.fingerprint.hex() for key in self._keys[at : at + 2]]
        if [old, new] != stated:
            sentence = f"Entry {index} replaces the key {old[:16]} by {new[:16]}, which log.vkeys does not have so"
            raise Problem("another-key", f"{sentence}.")
        self._successors.append(index)

    def check(self, root: bytes) -> None:
        """Check the waiting checkpoint against the root at its size. Raises `Problem`."""
        note, place = self.waiting, self.place()
        if note is None:
            raise ValueError("no checkpoint is waiting")
        try:
            signed = note.verified(self.key)
        except Malformed as fault:
            raise Problem("another-key", f"{place} {fault}.") from fault
        if signed.root != root:
            raise self._another_root(place, note)
        self._check_time(place, signed)
        if self._successors and note.size > self._successors[0]:
            self._at += 1
            if note.size > self._successors.pop(0) + 1:
                sentence = "covers more than the entry that names the next key, and is signed by the one before"
                raise Problem("another-key", f"{place} {sentence}.")
        self.last, self.checked, self.span = signed, self.checked + 1, Span()
        self.waiting = self._next()

    def place(self) -> str:
        """Return how sentences name the waiting checkpoint."""
        size = self.waiting.size if self.waiting else 0
        return f"The checkpoint of {size} entries in {self._name}"

    def _another_root(self, place: str, note: Note) -> Problem:
        if self.last is not None and self.last.size == note.size:
            sentence = "has another root than the one of the same size before it: the log was forked"
            return Problem("forked", f"{place} {sentence}.")
        begin = self.last.size if self.last else 0
        sentence = f"has another root than these entries: what was signed differs in entries {begin} to {note.size - 1}"
        return Problem("changed", f"{place} {sentence}.")

    def _check_time(self, place: str, note: Note) -> None:
        """Compare the checkpoint's time with the one before it and with the entries that it is the first to cover."""
        if self.last is not None and note.time < self.last.time:
            sentence = f"is of {moment(note.time)}, and one before it of {moment(self.last.time)}"
            raise Problem("back-dated", f"{place} {sentence}: it was back-dated.")
        if self.last is not None and note.time - self.last.time > SILENCE_SECONDS:
            gap = f"between {moment(self.last.time)} and {moment(note.time)} ({self.last.size} to {note.size} entries)"
            self._findings.add("silence", f"No checkpoint was signed {gap}.")
        latest, earliest = self.span.latest, self.span.earliest
        if latest is not None and latest[0] / 1e6 > note.time + SKEW_SECONDS:
            sentence = f"Entry {latest[1]} is of {moment(latest[0] / 1e6)}, after the checkpoint that covers it"
            raise Problem("back-dated", f"{sentence}, of {moment(note.time)}: one of the two was back-dated.")
        before = self.last.time if self.last is not None else None
        if before is not None and earliest is not None and earliest[0] / 1e6 < before - LATE_SECONDS:
            sentence = f"Entry {earliest[1]} is of {moment(earliest[0] / 1e6)}, and no checkpoint up to"
            told = f"{sentence} {moment(before)} covers it: it was back-dated, or waited that long"
            self._findings.add("back-dated", f"{told}.")

    def finish(self, size: int) -> Note:
        """Return the last checkpoint. Raises `Problem` where the entries end before one."""
        if self.waiting is not None:
            sentence = f"{self.place()} covers more than the {size} entries of the export: the log was cut short"
            raise Problem("truncated", f"{sentence}.")
        if self._at + 1 < len(self._keys):
            raise Problem("another-key", f"log.vkeys names {len(self._keys)} keys; the log tells of {self._at + 1}.")
        if self.last is None:
            raise Problem("missing", f"{self._name} holds no checkpoint.")
        return self.last


# ---------------------------------------------------------------------------------------------------
# 9  What others saw of the log: devices, anchors, notes that an auditor holds


@dataclass(frozen=True)
class Mark:
    """That somebody saw the log with this root at this size; `who` begins the sentence if it was another log."""

    size: int
    root: bytes
    who: str
    sort: str = "seen"


def read_seen(path: Path) -> list[Mark]:
    """Read what an auditor or a device has seen: notes, or the `state.json` of a device. Raises `Problem`."""
    folder = Folder(path.parent)
    text = folder.text(path.name, 1 << 24)
    if text.lstrip().startswith("{"):
        try:
            seen = json.loads(text)["checkpoint"]
            return [Mark(int(seen["size"]), bytes.fromhex(seen["root"]), f"{path.name}")] if seen else []
        except (ValueError, KeyError, TypeError) as error:
            raise Problem("malformed", f"{path.name} is not the state of a device.") from error
    return [Mark(note.size, note.root, f"{path.name}") for note in folder.notes(path.name)]


def read_witnesses(folder: Folder, origin: str, registry: Registry) -> Iterator[Mark]:
    """Yield what devices cosigned, in order of size, each signature verified. Raises `Problem`."""
    for place, line in folder.json_lines("witnesses.jsonl"):
        try:
            key = Key(from_base64(line["key"]), line["algorithm"])
            seen = read_sign1(from_base64(line["cosignature"]), key, "log cosignature")
            size, root, device = seen["size"], seen["root"], str(line["device"])
            sound = seen["origin"] == origin and isinstance(size, int) and isinstance(root, bytes)
        except (Malformed, KeyError, TypeError, AttributeError) as fault:
            why = fault if isinstance(fault, Malformed) else "is not a cosignature"
            raise Problem("malformed", f"The cosignature in {place} {why}.") from fault
        if not sound:
            raise Problem("another-log", f"The cosignature in {place} is of another log.")
        yield Mark(size, root, f"Device {device} in {place}", "witness")
        registry.expect_device_key(key.fingerprint, f"{place} (device {device})")


# RFC 3161 time stamps: DER (X.690), CMS SignedData (RFC 5652)

_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_TST_INFO = bytes.fromhex("2a864886f70d0109100104")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_HASHES: dict[bytes, Any] = {
    bytes.fromhex("608648016503040201"): hashes.SHA256(),
    bytes.fromhex("608648016503040202"): hashes.SHA384(),
    bytes.fromhex("608648016503040203"): hashes.SHA512(),
}


def der_items(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """Return (tag, content, whole encoding) of each DER item in a row. Raises `Malformed`."""
    items, at = [], 0
    while at < len(data):
        begin, tag, first = at, data[at], data[at + 1] if at + 1 < len(data) else 0x80
        at += 2
        if first >= 0x80:
            if not 0x81 <= first <= 0x84:
                raise Malformed("holds a time stamp that is not DER")
            first, at = int.from_bytes(data[at : at + first - 0x80], "big"), at + first - 0x80
        if at + first > len(data):
            raise Malformed("holds a time stamp that is cut short")
        items.append((tag, data[at : at + first], data[begin : at + first]))
        at += first
    return items


def check_time_stamp(receipt: bytes, text: str, roots: Sequence[x509.Certificate]) -> None:
    """Return when the answer of a time-stamp authority is of this text and signed up to one of the roots.

    Without roots only what is stamped is compared (RFC 3161 section 2.4.2). Raises `Malformed`.
    """
    try:
        status, token = der_items(der_items(receipt)[0][1])
        kind, wrapped = der_items(token[1])
        signed = der_items(der_items(wrapped[1])[0][1])
        content_kind, content = der_items(signed[2][1])
        stamped = der_items(content[1])[0][1]
        imprint = der_items(der_items(der_items(stamped)[0][1])[2][1])
        algorithm = _HASHES[der_items(imprint[0][1])[0][1]]
        granted = der_items(status[1])[0][1] in (b"\0", b"\1")
        digest = hashlib.new(algorithm.name, text.encode()).digest()
        if not granted or (kind[1], content_kind[1]) != (_SIGNED_DATA, _TST_INFO) or imprint[1][1] != digest:
            raise Malformed("is a time stamp of something else")
        if roots:
            certificates = [x509.load_der_x509_certificate(item[2]) for item in der_items(signed[3][1])]
            _check_stamp_signature(der_items(signed[-1][1])[0][1], stamped, certificates, roots)
    except (IndexError, KeyError, ValueError) as error:
        raise Malformed("is no time stamp of RFC 3161") from error


def _check_stamp_signature(
    info: bytes, stamped: bytes, certificates: list[x509.Certificate], roots: Sequence[x509.Certificate]
) -> None:
    """Check a SignerInfo (RFC 5652 section 5.3) and its certificate. Raises `Malformed`."""
    members = der_items(info)
    serial = int.from_bytes(der_items(members[1][1])[1][1], "big", signed=True)
    algorithm = _HASHES[der_items(members[2][1])[0][1]]
    attributes = {der_items(item[1])[0][1]: der_items(item[1])[1][1] for item in der_items(members[3][1])}
    digest = der_items(attributes[_MESSAGE_DIGEST])[0][1]
    signer = next((one for one in certificates if one.serial_number == serial), None)
    if members[3][0] != 0xA0 or signer is None or hashlib.new(algorithm.name, stamped).digest() != digest:
        raise Malformed("is a time stamp whose signature does not cover what it states")
    message, signature, key = b"\x31" + members[3][2][1:], members[5][1], signer.public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
        else:
            raise Malformed("is a time stamp signed by an algorithm that is not known here")
    except InvalidSignature as error:
        raise Malformed("is a time stamp whose signature does not hold") from error
    purposes = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    if ExtendedKeyUsageOID.TIME_STAMPING not in purposes or not _leads_to(signer, certificates, roots):
        raise Malformed("is a time stamp by an authority that no root certificate vouches for")


def _leads_to(one: x509.Certificate, others: list[x509.Certificate], roots: Sequence[x509.Certificate]) -> bool:
    """Return whether certificates lead from one to a root, in ten steps at most."""
    for _ in range(10):
        if any(_issued(root, one) for root in roots):
            return True
        above = [other for other in others if other != one and _issued(other, one) and _may_issue(other)]
        if not above:
            return False
        one = above[0]
    return False


def _issued(issuer: x509.Certificate, one: x509.Certificate) -> bool:
    try:
        one.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _may_issue(one: x509.Certificate) -> bool:
    try:
        return bool(one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def read_anchors(folder: Folder, known: Known) -> Iterator[Mark]:
    """Yield what was anchored elsewhere, in order of size; receipts of known witnesses verified. Raises `Problem`."""
    for place, line in folder.json_lines("anchors.jsonl"):
        try:
            note = Note.parse(line["note"])
            anchor, kind, receipt = str(line["anchor"]), str(line["kind"]), from_base64(line["receipt"])
            _check_receipt(kind, receipt, line["note"], note, known)
        except (Malformed, KeyError, TypeError, AttributeError, UnicodeDecodeError) as fault:
            why = fault if isinstance(fault, Malformed) else "is not a receipt"
            raise Problem("anchor", f"The receipt in {place} {why}.") from fault
        yield Mark(note.size, note.root, f"Anchor {anchor} in {place}", "anchor")


def _check_receipt(kind: str, receipt: bytes, text: str, note: Note, known: Known) -> None:
    if kind == "witness":
        cosigned = Note.parse(text + receipt.decode())
        for name, key_text in known.witnesses:
            if any(signer == name for signer, _ in cosigned.signatures):
                cosigned.verified(read_verifier_key(key_text)[1], name)
    if kind == "rfc3161":
        check_time_stamp(receipt, text, known.time_roots)


# ---------------------------------------------------------------------------------------------------
# 10  What enclaves made (protocol section 12), against what the log says of it


class Registry:
    """What entries name that later entries and files are held against."""

    def __init__(self, folder: Folder, findings: Findings) -> None:
        self._folder, self._findings = folder, findings
        self._enclaves: set[bytes] = set()
        self._models: dict[str, set[str]] = {}
        self._device_keys: set[bytes] = set()
        self.results = 0

    def take(self, index: int, kind: str, payload: dict[str, Any]) -> None:
        """Take in an entry of a kind that names keys or models. Raises `Problem`."""
        try:
            self._take(index, kind, payload)
        except (KeyError, ValueError, TypeError) as error:
            raise Problem("malformed", f"Entry {index} ({kind}) does not say what its kind has to.") from error

    def _take(self, index: int, kind: str, payload: dict[str, Any]) -> None:
        if kind == "enclave.prepared":
            self._enclaves.add(bytes.fromhex(payload["key_id"]))
        elif kind == "model.published":
            self._models.setdefault(payload["federation_id"], set()).add(payload["model_digest"])
        elif kind == "round.completed":
            self._check_result(index, payload)
        else:
            self._device_keys.add(bytes.fromhex(payload["signature_key"]))

    def expect_device_key(self, fingerprint: bytes, who: str) -> None:
        """Tell of a cosignature by a key that no entry so far has enrolled."""
        if fingerprint not in self._device_keys:
            self._findings.add("unknown-device", f"No entry enrols the key {fingerprint.hex()[:16]} of {who}.")

    def _check_result(self, index: int, payload: dict[str, Any]) -> None:
        """Compare the signed result that an entry names with its file, the enclave's key and the models' digests."""
        name, stated = f"results/{payload['result_digest']}", bytes.fromhex(payload["result_digest"])
        if not self._folder.has(name):
            self._findings.add("missing-result", f"Entry {index} names a round result that is not in the export.")
            return
        place = f"The round result {name[:24]}, which entry {index} names,"
        data = self._folder.read(name, 1 << 26)
        try:
            signed, sealing_key, result_key, algorithm, verdicts = read_cbor(data)
            if labelled_digest("signed round result", signed) != stated:
                raise Problem("result", f"{place} was changed: it does not have the digest that the entry states.")
            result = read_sign1(signed, Key(result_key, algorithm), "round result")
            self._check_verdicts(place, result, verdicts)
        except (Malformed, KeyError, ValueError, TypeError) as fault:
            raise Problem("result", f"{place} {fault if isinstance(fault, Malformed) else 'is none'}.") from fault
        key_id = labelled_digest("enclave key", sealing_key, result_key)[:32]
        self._compare(place, index, payload, result, key_id)
        self.results += 1

    def _check_verdicts(self, place: str, result: Any, verdicts: Sequence[bytes]) -> None:
        """Compare the verdicts on single updates with the root of their tree and the counts that are signed."""
        counts = len(verdicts), sum(read_cbor(leaf)["accepted"] for leaf in verdicts)
        signed = result["verdict_count"], result["accepted_count"]
        if counts != signed or root_over(list(map(leaf_hash, verdicts))) != result["verdicts_root"]:
            raise Problem("result", f"{place} stands for other verdicts than those beside it.")

    def _compare(self, place: str, index: int, payload: dict[str, Any], result: Any, key_id: bytes) -> None:
        if result["enclave_key_id"] != key_id or key_id not in self._enclaves:
            raise Problem("result", f"{place} is signed by an enclave that no entry before it names.")
        if result["round_id"] != uuid.UUID(payload["round_id"]).bytes:
            raise Problem("result", f"{place} is the result of another round.")
        if result["model_digest"].hex() != payload["model_digest"]:
            raise Problem("result", f"{place} made another model than the entry says was published.")
        published = self._models.get(str(uuid.UUID(bytes=result["federation_id"])), set())
        for member in ("model_digest", "base_model_digest"):
            if result[member].hex() not in published:
                sentence = f"names as {member} one that no entry before {index} publishes"
                raise Problem("result", f"{place} {sentence}.")
        if any(digest.hex() not in published for digest, _ in result.get("older_bases", [])):
            raise Problem("result", f"{place} took updates to an older model that no entry before {index} publishes.")


NAMING = frozenset(
    {
        "enclave.prepared", "model.published", "round.completed", "log.key_rotated", "device.enrolled",
        "device.keys_rotated", "device.reenrolled",
    }
)  # fmt: skip
"""Kinds whose payloads the verifier reads."""

# ---------------------------------------------------------------------------------------------------
# 11  The walk


@dataclass(frozen=True)
class Known:
    """What the auditor brings: the log key's fingerprint, what was seen of it, witnesses' keys, roots of stamps."""

    pinned: bytes | None = None
    seen: tuple[Path, ...] = ()
    witnesses: tuple[tuple[str, str], ...] = ()
    time_roots: tuple[x509.Certificate, ...] = ()


def verify_export(path: Path, known: Known = Known(), progress: Progress | None = None) -> Report:  # noqa: B008
    """Verify an exported log. Raises `Problem` at the first thing that makes it false."""
    begun, findings, folder = clock.monotonic(), Findings(), Folder(path)
    origin, keys = _read_keys(folder)
    if known.pinned is not None and known.pinned not in [key.fingerprint for key in keys]:
        found = keys[-1].fingerprint.hex()
        raise Problem("another-key", f"log.vkey: the export is signed by key {found}, not by the pinned one.")
    head = _read_head(folder, origin, keys[-1])
    name = "checkpoints" if folder.has("checkpoints") else "checkpoint"
    if name == "checkpoint":
        findings.add("one-checkpoint", "The export holds its last checkpoint only: earlier ones cannot be compared.")
    heads = Heads(folder.notes(name), name, origin, keys, findings)
    walk = _Walk(folder, head, heads, known, findings, progress)
    walk.run()
    last = heads.finish(walk.chain.size)
    if (last.size, last.root, last.time) != (head.size, head.root, head.time):
        raise Problem("forked", f"checkpoint is not the last one in {name}.")
    walk.finish()
    return Report(
        head, keys[-1], known.pinned is not None, len(keys), heads.checked, walk.erased, walk.registry.results,
        walk.met["witness"], walk.met["anchor"], clock.monotonic() - begun, findings,
    )  # fmt: skip


def _read_keys(folder: Folder) -> tuple[str, list[Key]]:
    """Return the origin and all keys of the log, the first one first."""
    name = "log.vkeys" if folder.has("log.vkeys") else "log.vkey"
    try:
        named = [read_verifier_key(line) for line in folder.text(name, 1 << 20).splitlines()]
        current = read_verifier_key(folder.text("log.vkey"))
    except Malformed as fault:
        raise Problem("malformed", f"{name} {fault}.") from fault
    if not named or {origin for origin, _ in named} != {current[0]} or named[-1][1].public != current[1].public:
        raise Problem("another-key", f"log.vkey is not the last key in {name}.")
    return current[0], [key for _, key in named]


def _read_head(folder: Folder, origin: str, key: Key) -> Note:
    try:
        head = Note.parse(folder.text("checkpoint"))
        if head.origin != origin:
            raise Malformed(f"is of the log {head.origin}, not of {origin}")
        return head.verified(key)
    except Malformed as fault:
        raise Problem("another-key", f"checkpoint {fault}.") from fault


class Progress:
    """Says on a terminal how far a long walk has come."""

    def __init__(self, size: int = 0) -> None:
        self._last = clock.monotonic()
        self._shown = False

    def tell(self, done: int, size: int) -> None:
        """Say it, at most twice a second."""
        if clock.monotonic() - self._last >= 0.5:
            self._last, self._shown = clock.monotonic(), True
            sys.stderr.write(f"\r{done:,} of {size:,} entries ({100 * done // max(size, 1)} %)")
            sys.stderr.flush()

    def end(self) -> None:
        """Wipe the line."""
        if self._shown:
            sys.stderr.write("\r" + " " * 60 + "\r")


class _Walk:
    """One pass over the entry bundles of a log of `head.size` entries."""

    def __init__(
        self, folder: Folder, head: Note, heads: Heads, known: Known, findings: Findings, progress: Progress | None
    ) -> None:
        self.folder, self.head, self.heads, self.findings = folder, head, heads, findings
        self.chain, self.tree, self.erased = Chain(), Tree(), 0
        self.registry = Registry(folder, findings)
        self.met = {"seen": 0, "witness": 0, "anchor": 0}
        seen = sorted((mark for path in known.seen for mark in read_seen(path)), key=lambda mark: mark.size)
        self._streams: list[Iterator[Mark]] = [
            iter(seen), read_witnesses(folder, head.origin, self.registry), read_anchors(folder, known),
        ]  # fmt: skip
        self._marks: list[Mark | None] = [None, None, None]
        self._progress = progress

    def run(self) -> None:
        """Walk over all bundles. Raises `Problem`."""
        self._compare([[]], 0)
        full, rest = divmod(self.head.size, TILE_WIDTH)
        for index in range(full + (rest > 0)):
            self._bundle(index, TILE_WIDTH if index < full else rest)
            if self._progress is not None:
                self._progress.tell(self.chain.size, self.head.size)
        self._check_upper_edges()

    def finish(self) -> None:
        """Refuse what was seen beyond the end. Raises `Problem`."""
        for mark in self._marks:
            if mark is not None:
                sentence = f"{mark.who} saw {mark.size} entries, and the export ends after {self.head.size}"
                raise Problem("truncated", f"{sentence}: it is older, or the log was cut short.")

    def _bundle(self, index: int, width: int) -> None:
        path, first = tile_path("entries", index, width), index * TILE_WIDTH
        entries = self._frames(path, width, MAX_ENTRY_BYTES)
        levels = subtrees([hashlib.sha256(b"\0" + data).digest() for data in entries])
        self._check_tile(entries, levels[0], _Places(path, tile_path(0, index, width), first))
        times, kinds, commitments = self.chain.take(entries, f"{path}")
        beside = disclosures_path(index, width)
        disclosures = self._frames(beside, width, MAX_DISCLOSURE_BYTES)
        self._disclose(disclosures, kinds, commitments, first, f"{beside}")
        self._compare(levels, first, times)
        if width == TILE_WIDTH:
            for level, upper, hashes in self.tree.append_bundle(levels[-1][0]):
                self._check_upper(level, upper, hashes)

    def _frames(self, path: PurePosixPath, width: int, maximum_bytes: int) -> list[bytes]:
        if not self.folder.has(path):
            sentence = f"{path} is missing: the export ends there, and its checkpoint covers {self.head.size} entries"
            raise Problem("truncated", f"{sentence}.")
        try:
            found = split_bundle(self.folder.read(path, TILE_WIDTH * (maximum_bytes + 2)))
        except Malformed as fault:
            raise Problem("truncated", f"{path} {fault}.") from fault
        if len(found) != width:
            kind = "deleted" if len(found) < width else "inserted"
            raise Problem(kind, f"{path} holds {len(found)} entries instead of {width}: some were {kind}.")
        return found

    def _check_tile(self, entries: Sequence[bytes], hashes: Sequence[bytes], places: _Places) -> None:
        """Compare the leaves of a bundle with their tile, so that a changed entry is named itself."""
        stated = self.folder.read(places.tile, TILE_WIDTH * HASH_BYTES)
        if len(stated) != len(hashes) * HASH_BYTES:
            raise Problem("truncated", f"{places.tile} has {len(stated)} bytes instead of {len(hashes) * HASH_BYTES}.")
        if b"".join(hashes) != stated:
            _explain(entries, hashes, [stated[at : at + 32] for at in range(0, len(stated), 32)], places)

    def _disclose(
        self, disclosures: Sequence[bytes], kinds: Sequence[str], commitments: Sequence[bytes], first: int, path: str
    ) -> None:
        """Check what entries commit to; where it was erased there is nothing to check."""
        sha3, prefix = hashlib.sha3_512, _DISCLOSURE_PREFIX
        for position, data in enumerate(disclosures):
            if not data:
                self._erase(first + position, kinds[position])
                continue
            if sha3(prefix + len(data).to_bytes(8, "big") + data).digest() != commitments[position]:
                sentence = "was changed: the entry commits to another one"
                raise Problem("changed", f"The disclosure of entry {first + position} in {path} {sentence}.")
            kind = kinds[position]
            if kind in NAMING or not is_plain_disclosure(data):
                self._read(first + position, kind, data, path)

    def _read(self, index: int, kind: str, data: bytes, path: str) -> None:
        try:
            payload = read_disclosure(data)[1]
        except Malformed as fault:
            raise Problem("malformed", f"The disclosure of entry {index} in {path} {fault}.") from fault
        if kind in NAMING:
            self._take(index, kind, payload)

    def _erase(self, index: int, kind: str) -> None:
        if kind == "log.key_rotated":
            raise Problem("another-key", f"Entry {index} names the log's next key, and what it tells was erased.")
        self.erased += 1

    def _take(self, index: int, kind: str, payload: dict[str, Any]) -> None:
        if kind == "log.key_rotated":
            self.heads.rotate(index, str(payload.get("old")), str(payload.get("new")))
        else:
            self.registry.take(index, kind, payload)

    def _compare(self, levels: Sequence[Sequence[bytes]], first: int, times: Sequence[int] = ()) -> None:
        """Compare checkpoints and marks within a bundle with the tree at their sizes."""
        end, done = first + len(times), 0
        heads = self.heads
        while heads.waiting is not None and heads.waiting.size <= end:
            count = heads.waiting.size - first
            heads.span.add(times[done:count], first + done)
            heads.check(self.tree.root(levels, count))
            done = count
        heads.span.add(times[done:], first + done)
        for number, stream in enumerate(self._streams):
            while (mark := self._marks[number] or next(stream, None)) is not None and mark.size <= end:
                self._check_mark(mark, levels, mark.size - first)
                self._marks[number] = None
            self._marks[number] = mark

    def _check_mark(self, mark: Mark, levels: Sequence[Sequence[bytes]], count: int) -> None:
        if count < 0:
            raise Problem("malformed", f"{mark.who} is not in the order of the log's sizes.")
        if self.tree.root(levels, count) != mark.root:
            sentence = f"{mark.who} saw another log of {mark.size} entries: this one was forked or rewritten"
            raise Problem("forked", f"{sentence}.")
        self.met[mark.sort] += 1

    def _check_upper(self, level: int, index: int, hashes: Sequence[bytes]) -> None:
        tile = tile_path(level, index, len(hashes))
        stated = self.folder.read(tile, TILE_WIDTH * HASH_BYTES)
        if len(stated) != len(hashes) * HASH_BYTES:
            raise Problem("truncated", f"{tile} has {len(stated)} bytes instead of {len(hashes) * HASH_BYTES}.")
        for position, value in enumerate(hashes):
            if stated[32 * position : 32 * position + 32] != value:
                raise Problem("changed", f"Hash {position} in {tile} is not that of the tile below it.")

    def _check_upper_edges(self) -> None:
        for below, edge in enumerate(self.tree.edges):
            if edge:
                self._check_upper(below + 1, self.tree.bundles >> (8 * (below + 1)), edge)


def _explain(entries: Sequence[bytes], found: Sequence[bytes], stated: Sequence[bytes], places: _Places) -> NoReturn:
    """Say how the entries of a bundle differ from the hashes that their tile states."""
    at = next(position for position, pair in enumerate(zip(found, stated, strict=True)) if pair[0] != pair[1])
    entry, tile = f"Entry {places.first + at} in {places.bundle}", places.tile
    try:
        claimed = read_entry(entries[at]).index
    except Malformed:
        claimed = places.first + at
    if sorted(found) == sorted(stated):
        raise Problem("reordered", f"{entry} stands in another order than {tile} states.")
    if found[at : at + 1] == stated[at + 1 : at + 2] or claimed == places.first + at + 1:
        raise Problem("deleted", f"{entry} was deleted: the one after it stands in its place.")
    if found[at + 1 : at + 2] == stated[at : at + 1] or claimed < places.first + at:
        raise Problem("inserted", f"{entry} was inserted: {tile} does not state it there.")
    raise Problem("changed", f"{entry} was changed: it does not have the hash that {tile} states for it.")


@dataclass(frozen=True)
class _Places:
    """Where a bundle and its tile stand, and the index of its first entry."""

    bundle: PurePosixPath
    tile: PurePosixPath
    first: int


# ---------------------------------------------------------------------------------------------------
# 12  The proof of one entry (C2SP tlog-proof)

PROOF_HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class ProvedEntry:
    """An entry that a proof shows to be in the log, and what it discloses, unless that was erased."""

    entry: Entry
    actor: str | None
    payload: dict[str, Any] | None
    head: Note
    key: Key


def verify_proof(text: str, key_line: str, entry: bytes | None = None, disclosure: bytes = b"") -> ProvedEntry:
    """Verify a proof under a verifier key; the entry is in its `extra` line unless it is given. Raises `Problem`."""
    try:
        origin, key = read_verifier_key(key_line)
        lines, _, note = text.partition("\n\n")
        extra, index, proof = _proof_parts(lines.split("\n"))
        if entry is None:
            entry, disclosure = split_bundle(extra) if extra else (b"", b"")
        found = read_entry(entry)
        head = Note.parse(note)
        if head.origin != origin:
            raise Malformed(f"is of the log {head.origin}, not of {origin}")
        if found.index != index:
            raise Malformed(f"is a proof of entry {index} and holds entry {found.index}")
        if root_from_inclusion(leaf_hash(entry), index, head.size, proof) != head.root:
            raise Malformed("does not lead from the entry to the root of its checkpoint")
        head = head.verified(key)
        if disclosure and commitment(disclosure) != found.commitment:
            raise Malformed("discloses something else than the entry commits to")
        told = read_disclosure(disclosure) if disclosure else (None, None)
    except (Malformed, ValueError) as fault:
        raise Problem("proof", f"The proof {fault if isinstance(fault, Malformed) else 'is none'}.") from fault
    return ProvedEntry(found, told[0], told[1], head, key)


def _proof_parts(lines: list[str]) -> tuple[bytes, int, list[bytes]]:
    """Return extra data, index and hashes of the lines above the checkpoint."""
    if lines.pop(0) != PROOF_HEADER or not lines:
        raise Malformed(f"does not begin with {PROOF_HEADER}")
    extra = from_base64(lines.pop(0).removeprefix("extra ")) if lines[0].startswith("extra ") else b""
    index = re.fullmatch(r"index (0|[1-9][0-9]{0,17})", lines.pop(0) if lines else "")
    hashes = [from_base64(line) for line in lines]
    if index is None or any(len(value) != HASH_BYTES for value in hashes):
        raise Malformed("does not state an index, or holds something else than hashes")
    return extra, int(index[1]), hashes


# ---------------------------------------------------------------------------------------------------
# 13  The command

_FINGERPRINT_DIGITS = 64


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when the log holds, 1 when it does not, 2 (by argparse) for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        if options.proof is not None:
            return _tell_proof(options)
        progress = Progress() if sys.stderr.isatty() and not options.json else None
        pinned = options.key.fingerprint if options.key else None
        known = Known(pinned, tuple(options.seen), tuple(options.witness_key), tuple(options.time_root or ()))
        try:
            report = verify_export(options.folder, known, progress)
        finally:
            if progress is not None:
                progress.end()
    except Problem as problem:
        if options.json:
            sys.stdout.write(json.dumps({"holds": False, "problem": problem.kind, "sentence": str(problem)}) + "\n")
        else:
            what = "proof" if options.proof else "log"
            sys.stderr.write(printable(f"The {what} does NOT hold.\n{problem}\n"))
        return 1
    sys.stdout.write(json.dumps(_as_json(report)) + "\n" if options.json else printable(_in_words(report)))
    return 1 if options.strict and report.findings.counts else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="qflare-verify", description="Check an exported QFLARE log offline.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("folder", metavar="DIR", type=Path, nargs="?", help="the exported log")
    what.add_argument("--proof", metavar="FILE", type=Path, help="the proof of one entry, instead of a whole log")
    parser.add_argument(
        "--key", type=_pinned_key, metavar="FILE|FINGERPRINT", help="the log's key as you know it from elsewhere"
    )
    parser.add_argument(
        "--seen", type=Path, action="append", default=[], metavar="FILE",
        help="checkpoints that were seen elsewhere: notes, or the state.json of a device",
    )  # fmt: skip
    parser.add_argument(
        "--witness-key", type=_witness_key, action="append", default=[], metavar="FILE",
        help="the verifier key of a witness whose cosignatures have to hold",
    )  # fmt: skip
    parser.add_argument(
        "--time-root", type=_certificates, metavar="FILE",
        help="PEM file with the root certificates of the time-stamp authorities whose stamps have to hold",
    )  # fmt: skip
    parser.add_argument("--entry", type=Path, metavar="FILE", help="with --proof: the entry, where it holds none")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of sentences")
    parser.add_argument("--strict", action="store_true", help="exit 1 for anything that needs an explanation, too")
    return parser


@dataclass(frozen=True)
class _PinnedKey:
    fingerprint: bytes
    line: str = ""


def _pinned_key(text: str) -> _PinnedKey:
    """Read `--key`: a verifier key file, or the 64 hexadecimal digits of a key fingerprint."""
    if Path(text).is_file():
        try:
            line = Folder(Path(text).parent).text(Path(text).name)
            return _PinnedKey(read_verifier_key(line)[1].fingerprint, line)
        except (Malformed, Problem) as error:
            raise argparse.ArgumentTypeError(f"{text} does not hold a verifier key: it {error}") from error
    if len(text) != _FINGERPRINT_DIGITS or not set(text) <= set(string.hexdigits):
        raise argparse.ArgumentTypeError(f"{text} is neither a file nor {_FINGERPRINT_DIGITS} hexadecimal digits")
    return _PinnedKey(bytes.fromhex(text))


def _witness_key(text: str) -> tuple[str, str]:
    try:
        line = Folder(Path(text).parent).text(Path(text).name).strip()
        return read_verifier_key(line)[0], line
    except (Malformed, Problem) as error:
        raise argparse.ArgumentTypeError(f"{text} does not hold a verifier key: it {error}") from error


def _certificates(text: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(Path(text).read_bytes())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} does not hold certificates in PEM") from error


def _in_words(report: Report) -> str:
    head, counts = report.head, report.findings.counts
    source = "the key you pinned" if report.key_was_pinned else "the key found in the export"
    if report.key_was_pinned and report.keys > 1:
        source = "a key to which the log leads from the one you pinned"
    lines = [
        f"The log holds: {head.size} entries of {head.origin}, chain, tree and tiles agree.",
        f"Root {head.root.hex()}",
        f"{report.checkpoints} checkpoints agree with it and with each other.",
        f"Signed {moment(head.time)} by {source}, fingerprint {report.key.fingerprint.hex()}.",
    ]
    told = (
        (report.erased, "entries were erased: what they tell is gone, that they stood there is proved."),
        (report.results, "signed round results agree with the models that the log names."),
        (report.witnesses, "cosignatures of devices are of this very log."),
        (report.anchors, "anchored checkpoints are of this very log."),
    )
    lines += [f"{number} {sentence}" for number, sentence in told if number]
    if counts:
        lines.append(f"What needs an explanation ({sum(counts.values())}):")
        lines += [f"- {sentence}" for _, sentence in report.findings.sentences]
    if not report.key_was_pinned:
        lines.append("The key itself was NOT pinned: compare its fingerprint with one you trust, or pass it as --key.")
    return "\n".join([*lines, ""])


def printable(text: str) -> str:
    """Return text that cannot steer a terminal: names in a forged export may try to."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def _as_json(report: Report) -> dict[str, Any]:
    head = report.head
    return {
        "holds": True, "origin": head.origin, "entries": head.size, "root": head.root.hex(), "signed_at": head.time,
        "key_fingerprint": report.key.fingerprint.hex(), "key_was_pinned": report.key_was_pinned,
        "checkpoints": report.checkpoints, "erased": report.erased, "results": report.results,
        "witnesses": report.witnesses, "anchors": report.anchors, "seconds": round(report.seconds, 3),
        "findings": {"counts": report.findings.counts, "sentences": [text for _, text in report.findings.sentences]},
    }  # fmt: skip


def _tell_proof(options: argparse.Namespace) -> int:
    if options.key is None or not options.key.line:
        raise Problem("usage", "A proof needs the log's whole key: pass its file (log.vkey) as --key.")
    folder = Folder(options.proof.parent)
    entry = Folder(options.entry.parent).read(options.entry.name, MAX_ENTRY_BYTES) if options.entry else None
    proved = verify_proof(folder.text(options.proof.name, 1 << 20), options.key.line, entry)
    told = "what it tells was erased or is not in the proof"
    if proved.payload is not None:
        told = f"by {proved.actor}: {json.dumps(proved.payload, default=repr, ensure_ascii=False)}"
    when = moment(proved.entry.time / 1e6)
    said = (
        f"Entry {proved.entry.index} is in the log {proved.head.origin} of {proved.head.size} entries.\n"
        f"{proved.entry.kind} at {when}, {told}\n"
        f"Checkpoint signed {moment(proved.head.time)} by the key {proved.key.fingerprint.hex()}.\n"
    )
    sys.stdout.write(printable(said))
    return 0


if __name__ == "__main__":
    sys.exit(main())
