"""Make the test vectors of the protocol: `python -m tests.vectors.make docs/vectors`.

Each file is made by the real code. Signatures, encapsulations and keys are drawn anew, so that only the
files without them come out the same again; `tests/vectors/test_vectors.py` checks the stored ones.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.vectors.subjects import (
    checkpoint,
    chunked_stream,
    derivations,
    encoding,
    enrolment,
    epochs,
    evidence,
    handshake,
    hpke,
    key_rotation,
    qkd_key,
    rekey,
    round_result,
    sealed_request,
    server_time,
    suites,
    update,
    update_forms,
)
from tests.vectors.vector_file import Receiver, VectorFile

_MODULES = {
    "encoding": encoding,
    "derivations": derivations,
    "enrolment": enrolment,
    "handshake": handshake,
    "qkd_key": qkd_key,
    "server_time": server_time,
    "epochs": epochs,
    "rekey": rekey,
    "key_rotation": key_rotation,
    "sealed_request": sealed_request,
    "hpke": hpke,
    "chunked_stream": chunked_stream,
    "update": update,
    "update_forms": update_forms,
    "evidence": evidence,
    "round_result": round_result,
    "checkpoint": checkpoint,
}

MAKERS: dict[str, Callable[[], VectorFile]] = {name: module.make for name, module in _MODULES.items()} | suites.MAKERS
RECEIVERS: dict[str, dict[str, Receiver]] = {name: module.RECEIVERS for name, module in _MODULES.items()}
RECEIVERS |= dict.fromkeys(suites.MAKERS, suites.RECEIVERS)

FIXED = ("encoding", "derivations", "epochs", "sealed_request", "chunked_stream", "update_forms")
"""The files in which nothing is random: made again they are the same, byte for byte."""


def make_all(folder: Path, names: Sequence[str] = tuple(MAKERS)) -> None:
    """Write these files, by default every one, into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        MAKERS[name]().write(folder / f"{name}.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.vectors.make", description="Make the test vectors.")
    parser.add_argument("folder", metavar="DIR", type=Path, help="where the files are written")
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"only these of {', '.join(MAKERS)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(MAKERS):
        parser.error(f"there is no file {', '.join(sorted(unknown))}")
    make_all(options.folder, options.names or tuple(MAKERS))
    sizes = {file.name: file.stat().st_size for file in sorted(options.folder.glob("*.json"))}
    sys.stdout.write("".join(f"{name:28}{size:>10,} bytes\n" for name, size in sizes.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
