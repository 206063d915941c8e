"""Verification of SLH-DSA-SHA2-128f (FIPS 205) with hashlib alone, to check an engine's signatures.

Signing is hedged, so that an engine's signature cannot be compared with a known answer. It is verified
here instead, by code that shares nothing with any engine: SPHINCS+ of the third round, which has the
same sizes, does not pass. Nothing in here is secret. Numbers and names are those of FIPS 205.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

_N, _D, _HEIGHT, _A, _K, _CHAINS = 16, 22, 3, 6, 33, 35
_TREE_BITS = _D * _HEIGHT - _HEIGHT
_DIGEST_BYTES, _FORS_INDEX_BYTES, _TREE_INDEX_BYTES = 34, 25, 8
_WOTS_HASH, _WOTS_PK, _TREE, _FORS_TREE, _FORS_ROOTS = range(5)


def public_half(private: bytes) -> bytes:
    """Return PK.seed || PK.root of the 64-byte private key SK.seed || SK.prf || PK.seed || PK.root."""
    return private[2 * _N :]


def signature_holds(public: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether the 17088-byte signature holds: pure mode, empty context (FIPS 205, algorithm 24)."""
    seed, root = public[:_N], public[_N:]
    pieces = _pieces(signature)
    indices, tree, leaf = _message_indices(next(pieces), seed, root, b"\x00\x00" + message)
    node = _fors_public_key(_Tweak(seed, 0, tree, leaf), pieces, indices)
    for layer in range(_D):
        node = _xmss_root(_Tweak(seed, layer, tree, leaf), pieces, node)
        tree, leaf = tree >> _HEIGHT, tree % (1 << _HEIGHT)
    return hmac.compare_digest(node, root)


@dataclass(frozen=True)
class _Tweak:
    """The functions F, H and T_l of FIPS 205, section 11.2.1, at one place of the hypertree."""

    seed: bytes
    layer: int
    tree: int
    leaf: int

    def hash(self, kind: int, second: int, third: int, message: bytes, *, leaf: bool = True) -> bytes:
        """Hash under the compressed address of that type; its first word is the leaf, or zero for a tree."""
        words = (self.leaf if leaf else 0, second, third)
        address = bytes([self.layer]) + self.tree.to_bytes(8, "big") + bytes([kind])
        address += b"".join(word.to_bytes(4, "big") for word in words)
        return hashlib.sha256(self.seed + bytes(64 - _N) + address + message).digest()[:_N]


def _pieces(signature: bytes) -> Iterator[bytes]:
    return (signature[start : start + _N] for start in range(0, len(signature), _N))


def _message_indices(randomizer: bytes, seed: bytes, root: bytes, message: bytes) -> tuple[list[int], int, int]:
    """Return the FORS indices, the index of the tree and of its leaf: H_msg and algorithm 20, lines 7 to 16."""
    inner = randomizer + seed + hashlib.sha256(randomizer + seed + root + message).digest()
    blocks = (hashlib.sha256(inner + count.to_bytes(4, "big")).digest() for count in range(2))
    digest = b"".join(blocks)[:_DIGEST_BYTES]
    tree = int.from_bytes(digest[_FORS_INDEX_BYTES : _FORS_INDEX_BYTES + _TREE_INDEX_BYTES], "big")
    leaf = int.from_bytes(digest[_FORS_INDEX_BYTES + _TREE_INDEX_BYTES :], "big")
    return _digits(digest, _A, _K), tree % (1 << _TREE_BITS), leaf % (1 << _HEIGHT)


def _digits(data: bytes, bits: int, count: int) -> list[int]:
    """Return the first `count` numbers of so many bits, the highest bits first (algorithm 4)."""
    number, total = int.from_bytes(data, "big"), 8 * len(data)
    return [number >> (total - bits * (index + 1)) & ((1 << bits) - 1) for index in range(count)]


def _fors_public_key(at: _Tweak, pieces: Iterator[bytes], indices: list[int]) -> bytes:
    """Return the FORS public key that the signature leads to (algorithm 17)."""
    roots = b""
    for tree, index in enumerate(indices):
        position = (tree << _A) + index
        node = at.hash(_FORS_TREE, 0, position, next(pieces))
        for height in range(1, _A + 1):
            pair = _ordered(position, node, next(pieces))
            position >>= 1
            node = at.hash(_FORS_TREE, height, position, pair)
        roots += node
    return at.hash(_FORS_ROOTS, 0, 0, roots)


def _xmss_root(at: _Tweak, pieces: Iterator[bytes], message: bytes) -> bytes:
    """Return the root of one XMSS tree that the signature of `message` leads to (algorithm 11)."""
    node, position = _wots_public_key(at, pieces, message), at.leaf
    for height in range(1, _HEIGHT + 1):
        pair = _ordered(position, node, next(pieces))
        position >>= 1
        node = at.hash(_TREE, height, position, pair, leaf=False)
    return node


def _wots_public_key(at: _Tweak, pieces: Iterator[bytes], message: bytes) -> bytes:
    """Return the WOTS+ public key that the signature of `message` leads to (algorithm 8)."""
    digits = _digits(message, 4, 2 * _N)
    checksum = sum(15 - digit for digit in digits) << 4
    ends = b""
    for chain, digit in enumerate(digits + _digits(checksum.to_bytes(2, "big"), 4, _CHAINS - 2 * _N)):
        node = next(pieces)
        for step in range(digit, 15):
            node = at.hash(_WOTS_HASH, chain, step, node)
        ends += node
    return at.hash(_WOTS_PK, 0, 0, ends)


def _ordered(position: int, node: bytes, sibling: bytes) -> bytes:
    return sibling + node if position % 2 else node + sibling
