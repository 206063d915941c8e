"""A checkpoint is believed only in its one form, from its own log and under the log's key."""

import base64
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol import pqc
from qflare_protocol.checkpoint import (
    Checkpoint,
    format_verifier_key,
    key_id,
    parse_verifier_key,
    sign_checkpoint,
    verify_checkpoint,
)
from qflare_protocol.cose import Signer, Verifier
from qflare_protocol.errors import Refusal

ORIGIN = "qflare.example/log"
TIME = 1_800_000_000
CHECKPOINT = Checkpoint(ORIGIN, 7, bytes(range(32)))


def new_signer() -> Signer:
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


LOG = new_signer()
STRANGER = new_signer()
NOTE = sign_checkpoint(LOG, CHECKPOINT, TIME)


def code_of(call: Any, *arguments: Any) -> str:
    with pytest.raises(Refusal) as refused:
        call(*arguments)
    return refused.value.code


def test_a_signed_checkpoint_is_read_back_with_its_time() -> None:
    signed = verify_checkpoint(NOTE, LOG.verifier, ORIGIN)
    assert (signed.checkpoint, signed.timestamp) == (CHECKPOINT, TIME)


def test_the_note_has_the_form_of_the_published_formats() -> None:
    body, signature = NOTE.split("\n\n")
    assert body == f"{ORIGIN}\n7\n{base64.b64encode(bytes(range(32))).decode()}"
    dash, name, encoded = signature.strip().split(" ")
    blob = base64.b64decode(encoded)
    assert (dash, name, len(blob)) == ("\u2014", ORIGIN, 4 + 8 + 2420)
    assert blob[:4] == hashlib.sha256(ORIGIN.encode() + b"\n\x06" + LOG.public).digest()[:4]
    assert int.from_bytes(blob[4:12], "big") == TIME


def test_the_signed_bytes_are_the_cosigned_message_of_tlog_cosignature() -> None:
    signature = base64.b64decode(NOTE.split(" ")[-1])[12:]
    name = bytes([len(ORIGIN)]) + ORIGIN.encode()
    sizes = (0).to_bytes(8, "big") + (7).to_bytes(8, "big")
    message = b"subtree/v1\n\0" + name + TIME.to_bytes(8, "big") + name + sizes + CHECKPOINT.root
    pqc.signature("ML-DSA-44").verify(LOG.public, message, signature)


def test_another_key_or_another_origin_is_refused() -> None:
    assert code_of(verify_checkpoint, NOTE, STRANGER.verifier, ORIGIN) == "invalid-signature"
    assert code_of(verify_checkpoint, NOTE, LOG.verifier, "other.example/log") == "proof-refused"


@pytest.mark.parametrize("old_new", [("\n7\n", "\n8\n"), (ORIGIN + "\n", "other.example\n"), ("\nAAEC", "\nAAED")])
def test_a_changed_line_is_refused(old_new: tuple[str, str]) -> None:
    changed = NOTE.replace(*old_new, 1)
    assert changed != NOTE
    assert code_of(verify_checkpoint, changed, LOG.verifier, ORIGIN) in {"invalid-signature", "proof-refused"}


@pytest.mark.parametrize("position", [4, 11, 12, 2431])
def test_a_changed_time_or_signature_is_refused(position: int) -> None:
    head, encoded = NOTE.rsplit(" ", 1)
    blob = bytearray(base64.b64decode(encoded))
    blob[position] ^= 1
    changed = f"{head} {base64.b64encode(bytes(blob)).decode()}\n"
    assert code_of(verify_checkpoint, changed, LOG.verifier, ORIGIN) == "invalid-signature"


def test_signatures_of_witnesses_are_ignored_and_do_not_replace_the_logs() -> None:
    witness = NOTE.split("\n\n")[1].replace(ORIGIN, "witness.example")
    assert verify_checkpoint(NOTE + witness, LOG.verifier, ORIGIN).checkpoint == CHECKPOINT
    only_witness = CHECKPOINT.to_text() + "\n" + witness
    assert code_of(verify_checkpoint, only_witness, LOG.verifier, ORIGIN) == "invalid-signature"


def test_extension_lines_are_refused_because_nothing_signs_them() -> None:
    extended = NOTE.replace("\n\n", "\nextension\n\n", 1)
    assert code_of(verify_checkpoint, extended, LOG.verifier, ORIGIN) == "malformed-message"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n1\n",
        "origin\n01\n" + "A" * 43 + "=\n",
        "origin\n-1\n" + "A" * 43 + "=\n",
        "origin\n\u0661\n" + "A" * 43 + "=\n",
        "origin\n1\nAAAA\n",
        "origin\n1\n" + "A" * 42 + "B=\n",
        "origin\n99999999999999999999\n" + "A" * 43 + "=\n",
        "with space\n1\n" + "A" * 43 + "=\n",
        "with+plus\n1\n" + "A" * 43 + "=\n",
        "\n1\n" + "A" * 43 + "=\n",
        "origin\n1\n" + "A" * 43 + "=",
        "origin\n1\n" + "!" * 43 + "=\n",
        "origin\n1\n" + "\u00e4" * 43 + "=\n",
    ],
)
def test_every_other_form_of_a_checkpoint_is_refused(text: str) -> None:
    assert code_of(Checkpoint.parse, text) == "malformed-message"


@given(st.text(max_size=200))
def test_any_text_is_refused_or_formats_to_itself(text: str) -> None:
    try:
        assert Checkpoint.parse(text).to_text() == text
    except Refusal as refusal:
        assert refusal.code == "malformed-message"


@given(st.text(max_size=200))
def test_any_note_is_refused_without_a_crash(text: str) -> None:
    assert code_of(verify_checkpoint, text, LOG.verifier, ORIGIN) == "malformed-message"


@given(st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_formatting_is_inverted_by_parsing(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(ORIGIN, size, root)
    assert Checkpoint.parse(checkpoint.to_text()) == checkpoint


def test_a_note_without_signature_or_of_endless_length_is_refused() -> None:
    assert code_of(verify_checkpoint, CHECKPOINT.to_text(), LOG.verifier, ORIGIN) == "malformed-message"
    endless = CHECKPOINT.to_text() + "\n" + "x" * 70_000 + "\n"
    assert code_of(verify_checkpoint, endless, LOG.verifier, ORIGIN) == "malformed-message"


def test_only_an_mldsa44_key_at_a_real_time_signs_checkpoints() -> None:
    pair = pqc.signature("ML-DSA-65").generate()
    with pytest.raises(ValueError, match="ML-DSA-44"):
        sign_checkpoint(Signer("ML-DSA-65", pair.private, pair.public), CHECKPOINT, TIME)
    with pytest.raises(ValueError, match="positive time"):
        sign_checkpoint(LOG, CHECKPOINT, 0)


def test_a_verifier_key_is_read_back() -> None:
    text = format_verifier_key(ORIGIN, LOG.verifier)
    assert text.startswith(f"{ORIGIN}+{key_id(ORIGIN, LOG.verifier).hex()}+")
    assert parse_verifier_key(text + "\n") == (ORIGIN, LOG.verifier)


def test_a_damaged_verifier_key_is_refused() -> None:
    text = format_verifier_key(ORIGIN, LOG.verifier)
    name, identifier, material = text.split("+", 2)
    for damaged in ("", name, f"{name}+00000000+{material}", f"other+{identifier}+{material}", text[:-8]):
        assert code_of(parse_verifier_key, damaged) in {"malformed-message", "invalid-key"}
    other_type = base64.b64encode(b"\x01" + LOG.public).decode()
    assert code_of(parse_verifier_key, f"{name}+{identifier}+{other_type}") == "malformed-message"


def test_a_key_id_depends_on_name_and_key() -> None:
    identifiers = {key_id(ORIGIN, LOG.verifier), key_id("other", LOG.verifier), key_id(ORIGIN, STRANGER.verifier)}
    assert len(identifiers) == 3
    assert key_id(ORIGIN, Verifier("ML-DSA-44", LOG.public)) in identifiers
