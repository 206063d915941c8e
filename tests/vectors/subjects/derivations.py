"""The hashes and key derivations of section 1, and names that are digests."""

from typing import Any

from qflare_protocol.checkpoint import key_id
from qflare_protocol.cose import Verifier, key_fingerprint
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES
from tests.vectors.vector_file import Case, Receiver, VectorFile

PATTERN = bytes(range(256))


def make() -> VectorFile:
    """Make the file."""
    cases = [_frames(), _keys(), *_fingerprints(), _measurement(), _log_key_id()]
    return VectorFile("Frame, digest, extract, expand, mac and fingerprints of fixed inputs.", "1 Conventions", cases)


def _frames() -> Case:
    case = Case("frames and digests", {"empty": b"", "two": b"ab", "text": "é", "number": 2**40, "long": PATTERN})
    case.step("frame", "frame_of_nothing", inputs=[])
    case.step("frame", "frame_of_empty", inputs=["empty"])
    case.step("frame", "frame_of_four", inputs=["two", "empty", "text", "number"])
    case.step("labelled frame", "labelled_frame_of_two", label="example", inputs=["two", "empty"])
    case.step("digest", "digest_of_nothing", label="example", inputs=[])
    case.step("digest", "digest_of_two", label="example", inputs=["two", "empty"])
    case.step("digest", "digest_of_long", label="example", inputs=["long", "number", "text"])
    case.step("digest", "first_16_bytes", label="example", inputs=["two"], length=16)
    return case


def _keys() -> Case:
    values = {"salt": PATTERN[:64], "no_salt": b"", "long_salt": PATTERN, "secret": PATTERN[:32], "other": b"\x01"}
    case = Case("extract, expand and mac", values | {"context": "context", "number": 7})
    case.step("extract", "extracted_from_one", salt="salt", inputs=["secret"])
    case.step("extract", "extracted_from_two", salt="salt", inputs=["secret", "other"])
    case.step("extract", "extracted_without_salt", salt="no_salt", inputs=["secret"])
    case.step("extract", "extracted_with_long_salt", salt="long_salt", inputs=["secret"])
    for length in (1, 32, 44, 64, 65, 200):
        options = {"label": "example", "inputs": ["context", "number"], "length": length}
        case.step("expand", f"expanded_to_{length}", key="extracted_from_one", **options)
    case.step("expand", "expanded_without_context", key="extracted_from_one", label="example", inputs=[], length=32)
    case.step("mac", "mac", key="extracted_from_two", label="example", inputs=["secret", "context"])
    case.step("mac", "mac_of_nothing", key="extracted_from_two", label="example", inputs=[])
    return case


def _fingerprints() -> list[Case]:
    """Fingerprints of bytes of a public key's length; the largest key would only be long."""
    rows = {name: kem.public_key_bytes for name, kem in KEMS.items()}
    rows |= {name: signature.public_key_bytes for name, signature in SIGNATURES.items()}
    cases = []
    for algorithm, length in rows.items():
        if length <= len(PATTERN) * 8:
            public = (PATTERN * 8)[:length]
            case = Case(f"fingerprint, {algorithm}", {"algorithm": algorithm, "key_public": public})
            case.fingerprint("key_public", algorithm="algorithm")
            cases.append(case)
    return cases


def _measurement() -> Case:
    """The measurement of two made-up files on a made-up platform."""
    values = {"path_1": "enclave/__init__.py", "content_1": b"", "path_2": "qflare_protocol/a.py"}
    values |= {"content_2": b"x = 1\n", "interpreter": "CPython 3.11.2", "library_1": "blake3 1.0.0"}
    case = Case("code measurement", values | {"library_2": "numpy 2.0.0"})
    for number in (1, 2):
        case.step("SHA3-512", f"digest_{number}", input=f"content_{number}")
    case.step("frame", "sources", inputs=["path_1", "digest_1", "path_2", "digest_2"])
    case.step("frame", "platform", inputs=["interpreter", "library_1", "library_2"])
    case.step("digest", "measurement", label="code measurement", inputs=["sources", "platform"])
    return case


def _log_key_id() -> Case:
    public = (PATTERN * 6)[: SIGNATURES["ML-DSA-44"].public_key_bytes]
    case = Case("key id of a log's key", {"origin": "qflare/example", "key_public": public})
    case.values["hashed"] = b"qflare/example\n\x06" + public
    case.step("SHA-256", "hash", input="hashed")
    case.step("slice", "key_id", input="hash", begin=0, end=4)
    return case


def _check(values: dict[str, Any]) -> None:
    """The functions of the code that name keys give the same as the written steps."""
    if "algorithm" in values:
        assert key_fingerprint(values["algorithm"], values["key_public"]) == values["key_fingerprint"]
    if "origin" in values:
        assert key_id(values["origin"], Verifier("ML-DSA-44", values["key_public"])) == values["key_id"]


RECEIVERS: dict[str, Receiver] = {"names of keys": _check}
