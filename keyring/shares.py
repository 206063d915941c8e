"""Splitting a backup KEK into SLIP-39 shares and combining it again (package shamir-mnemonic).

Its arithmetic is table-driven and not constant in time: split and combine where nobody else runs code.
"""

from collections.abc import Sequence

from shamir_mnemonic import MnemonicError, Share, combine_mnemonics, generate_mnemonics

from keyring.kek import KEK_BYTES

MAX_SHARES = 16
# The secret is 32 random bytes and no passphrase protects it, so stretching one would gain nothing.
_ITERATION_EXPONENT = 0


class EscrowError(Exception):
    """An escrow cannot be split, opened or recovered; the sentence says why and repeats nothing secret."""


def split_secret(secret: bytes, *, threshold: int, count: int) -> list[str]:
    """Split 32 bytes into `count` mnemonics of 33 words, `threshold` of which combine. Raises `EscrowError`."""
    if len(secret) != KEK_BYTES:
        raise EscrowError(f"An escrow splits {KEK_BYTES} bytes.")
    if not 2 <= threshold <= count <= MAX_SHARES:
        raise EscrowError(
            f"A threshold lies between 2 and the number of custodians, of whom there are at most {MAX_SHARES}."
        )
    (mnemonics,) = generate_mnemonics(1, [(threshold, count)], secret, iteration_exponent=_ITERATION_EXPONENT)
    if combine_secret(mnemonics[-threshold:]) != secret:
        raise EscrowError("The shares that were made do not combine; nothing was stored.")
    return list(mnemonics)


def combine_secret(mnemonics: Sequence[str]) -> bytes:
    """Return the secret of at least as many mnemonics as the threshold. Raises `EscrowError`.

    A mnemonic carries a checksum of its own and the secret a digest, so a wrong share is noticed.
    """
    shares = {}
    for number, mnemonic in enumerate(mnemonics, start=1):
        share = _read_share(mnemonic, number)
        shares[share.index] = (share, mnemonic)
    first = next(iter(shares.values()))[0] if shares else None
    if first is None:
        raise EscrowError("There is no share to combine.")
    if any(share.identifier != first.identifier for share, _ in shares.values()):
        raise EscrowError("The shares come from different splits.")
    if len(shares) < first.member_threshold:
        raise EscrowError(f"{first.member_threshold} different shares are needed; these are {len(shares)}.")
    needed = [mnemonic for _, mnemonic in shares.values()][: first.member_threshold]
    try:
        secret = combine_mnemonics(needed)
    except MnemonicError:
        raise EscrowError("The shares do not combine: one of them is wrong or from another split.") from None
    if len(secret) != KEK_BYTES:
        raise EscrowError(f"The shares combine to {len(secret)} bytes instead of {KEK_BYTES}; they are not ours.")
    return bytes(secret)


def _read_share(mnemonic: str, number: int) -> Share:
    try:
        return Share.from_mnemonic(mnemonic)
    except (MnemonicError, ValueError):  # its own sentence may repeat a word of the share
        raise EscrowError(f"Share {number} is not a valid mnemonic: a word is wrong or missing.") from None
