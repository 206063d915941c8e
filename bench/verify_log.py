"""How fast an exported log is verified, beside its bare hashes, and a proof made, in one run.

`python -m bench.verify_log [ENTRIES]` writes a log of that many entries (default 1,000,000) with a
checkpoint for every 10,000, verifies it in a process of its own, and prints entries a second, the ratio
to the hashes alone, and the largest memory of the verifier.
"""

import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from qflare_protocol import log_tiles, pqc
from qflare_protocol.audit_entry import GENESIS_HASH, AuditEntry, Disclosure, commitment, entry_hash
from qflare_protocol.checkpoint import Checkpoint, format_verifier_key, sign_checkpoint
from qflare_protocol.cose import Signer
from qflare_protocol.growing_tiles import GrowingTiles
from qflare_protocol.log_tiles import TILE_WIDTH, frame_entry
from qflare_protocol.merkle import leaf_hash

ORIGIN = "qflare.example/bench"
BATCH = 10_000
BEGIN = 1_800_000_000
PAYLOAD = {"device": "hospital-17", "session_id": "0b9c6a55-1d3f-4f6e-9a51-5f4b6f2f9d10", "suite": "QF1-F640"}


def write_log(folder: Path, size: int) -> tuple[float, int]:
    """Write an export of that many entries; return the seconds its hashes alone take, and the bytes of an entry."""
    pair = pqc.signature("ML-DSA-44").generate()
    signer = Signer("ML-DSA-44", pair.private, pair.public)
    tree, previous, sample = GrowingTiles(), GENESIS_HASH, []
    bundle, told, hashes = bytearray(), bytearray(), bytearray()
    with (folder / "checkpoints").open("w") as notes:
        for index in range(size):
            disclosure = Disclosure(index.to_bytes(32, "big"), "device:hospital-17", PAYLOAD).to_bytes()
            seconds = BEGIN + index // 1000
            entry = AuditEntry(index, seconds * 1_000_000, "session.opened", commitment(disclosure), previous)
            data = entry.to_bytes()
            previous, leaf = entry_hash(data), leaf_hash(data)
            bundle += frame_entry(data)
            told += frame_entry(disclosure)
            hashes += leaf
            if len(sample) < BATCH:
                sample.append((data, disclosure))
            for tile in tree.append(leaf):
                if tile.level:
                    put(folder / log_tiles.tile_path(tile.level, tile.index, TILE_WIDTH), tile.hashes)
            width = index % TILE_WIDTH + 1
            if width == TILE_WIDTH or index == size - 1:
                put(folder / log_tiles.tile_path("entries", index // TILE_WIDTH, width), bundle)
                put(folder / log_tiles.disclosures_path(index // TILE_WIDTH, width), told)
                put(folder / log_tiles.tile_path(0, index // TILE_WIDTH, width), hashes)
                bundle, told, hashes = bytearray(), bytearray(), bytearray()
            if index % BATCH == BATCH - 1 or index == size - 1:
                note = sign_checkpoint(signer, Checkpoint(ORIGIN, index + 1, tree.root()), seconds + 1)
                notes.write(note)
    for level in log_tiles.tile_levels(size)[1:]:
        index, width = divmod(size >> (8 * level), TILE_WIDTH)
        if width:
            put(folder / log_tiles.tile_path(level, index, width), b"".join(tree._edges[level]))
    (folder / "checkpoint").write_text(note)
    (folder / "log.vkey").write_text(format_verifier_key(ORIGIN, signer.verifier) + "\n")
    return bare_hashes(sample) * size / len(sample), len(sample[0][0])


def bare_hashes(sample: list[tuple[bytes, bytes]]) -> float:
    """Return the seconds that chain, commitments and tree over these take, with nothing else done."""
    begun = time.perf_counter()
    for data, disclosure in sample:
        hashlib.sha3_512(data).digest()
        hashlib.sha3_512(disclosure).digest()
        hashlib.sha256(data).digest()
        hashlib.sha256(data[:65]).digest()
    return time.perf_counter() - begun


def put(path: Path, content: bytes | bytearray) -> None:
    """Write a file and the folders it stands in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def main() -> None:
    """Run and print."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare, entry_bytes = write_log(folder, size)
        verifier = Path(__file__).parents[1] / "verifier" / "qflare_verify.py"
        begun = time.perf_counter()
        ran = subprocess.run(  # noqa: S603
            [sys.executable, "-I", str(verifier), name], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - begun
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    sys.stdout.write(ran.stdout + ran.stderr)
    sys.stdout.write(
        f"{size:,} entries of {entry_bytes} bytes in {seconds:.1f} s: {size / seconds:,.0f} a second, "
        f"{seconds / bare:.1f} times the bare hashes ({size / bare:,.0f} a second); {memory:.0f} MiB at most\n"
    )


if __name__ == "__main__":
    main()
