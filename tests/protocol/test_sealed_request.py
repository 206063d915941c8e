"""Sealed requests and answers: one key for one message, and every member bound."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.errors import Refusal
from qflare_protocol.sealed_request import (
    Authorization,
    MessageNumber,
    RequestOpener,
    SealedAnswer,
    Target,
    new_salt,
    open_answer,
    seal_answer,
    seal_request,
)

KEY, SESSION = b"k" * 32, b"s" * 16
TARGET = Target("POST", "/api/work?a=1", "application/cbor", 5)

numbers = st.builds(
    MessageNumber,
    st.binary(min_size=16, max_size=16),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**12 - 1),
    st.integers(1, 10**15 - 1),
    st.binary(min_size=16, max_size=16),
)
authorizations = st.builds(Authorization, numbers, st.binary(min_size=16, max_size=16))


def opened(authorization, target, ciphertext, key=KEY, piece=2):
    opener = RequestOpener(key, authorization, target)
    plain = b"".join(opener.update(ciphertext[start : start + piece]) for start in range(0, len(ciphertext), piece))
    opener.finish()
    return plain


def sealed(body=b"hello", **changes):
    number = MessageNumber(SESSION, 0, changes.get("epoch", 7), changes.get("sequence", 1), new_salt())
    return seal_request(KEY, number, TARGET, body)


@given(authorizations)
def test_the_header_comes_back(authorization):
    assert Authorization.from_header(authorization.to_header()) == authorization


@given(st.text(max_size=200))
def test_any_other_header_is_refused(text):
    for value in (text, "QFLARE1 " + text):
        with pytest.raises(Refusal, match="malformed-message"):
            Authorization.from_header(value)


@given(authorizations, st.integers(0, 150), st.characters())
def test_a_header_is_canonical(authorization, position, character):
    header = authorization.to_header()
    changed = header[:position] + character + header[position + 1 :]
    try:
        parsed = Authorization.from_header(changed)
    except Refusal as refusal:
        assert refusal.code == "malformed-message"
    else:
        assert parsed.to_header() == changed


@pytest.mark.parametrize(
    "change",
    [
        ("epoch=7", "epoch=07"),
        ("generation=0", "generation=00"),
        ("generation=0, ", ""),
        ("sequence=1", "sequence=0"),
        ("sequence=1", "sequence=+1"),
        ("sequence=1", "sequence=\N{ARABIC-INDIC DIGIT ONE}"),
        (", ", ","),
        ("QFLARE1", "qflare1"),
    ],
)
def test_another_spelling_of_a_header_is_refused(change):
    authorization, _ = sealed()
    with pytest.raises(Refusal, match="malformed-message"):
        Authorization.from_header(authorization.to_header().replace(*change))


@given(st.binary(max_size=100), st.integers(1, 7))
def test_a_request_opens_piece_by_piece(body, piece):
    target = replace(TARGET, length=len(body))
    authorization, ciphertext = seal_request(KEY, MessageNumber(SESSION, 0, 7, 1, new_salt()), target, body)
    assert len(ciphertext) == len(body)
    assert opened(authorization, target, ciphertext, piece=piece) == body


NUMBER_CHANGES = {"session_id": b"t" * 16, "generation": 1, "epoch": 8, "sequence": 2, "salt": bytes(16)}
TARGET_CHANGES = {"method": "PUT", "path": "/api/work", "content_type": "", "length": 6}


@pytest.mark.parametrize("member", NUMBER_CHANGES)
def test_a_changed_number_is_refused(member):
    authorization, ciphertext = sealed()
    number = replace(authorization.number, **{member: NUMBER_CHANGES[member]})
    with pytest.raises(Refusal, match="request-not-authentic"):
        opened(replace(authorization, number=number), TARGET, ciphertext)


@pytest.mark.parametrize("member", TARGET_CHANGES)
def test_a_changed_target_is_refused(member):
    authorization, ciphertext = sealed()
    with pytest.raises(Refusal, match="request-not-authentic"):
        opened(authorization, replace(TARGET, **{member: TARGET_CHANGES[member]}), ciphertext)


def test_a_changed_tag_body_or_key_is_refused():
    authorization, ciphertext = sealed()
    attempts = [
        (replace(authorization, tag=bytes(16)), ciphertext, KEY),
        (authorization, b"hallo", KEY),
        (authorization, ciphertext[:-1], KEY),
        (authorization, ciphertext + b"\0", KEY),
        (authorization, ciphertext, b"l" * 32),
    ]
    for changed, body, key in attempts:
        with pytest.raises(Refusal, match="request-not-authentic"):
            opened(changed, TARGET, body, key)


def test_fields_do_not_run_into_each_other():
    authorization, ciphertext = sealed()
    with pytest.raises(Refusal, match="request-not-authentic"):
        opened(authorization, replace(TARGET, method="POST/", path="api/work?a=1"), ciphertext)


def test_the_same_request_twice_shares_neither_salt_nor_ciphertext():
    (first, one), (second, two) = sealed(bytes(50)), sealed(bytes(50))
    assert first.number.salt != second.number.salt
    assert one != two


def test_an_answer_opens_for_its_request_alone():
    (request, _), (other, _) = sealed(), sealed()
    answer = seal_answer(KEY, request, 200, "application/cbor", b"fine")
    assert open_answer(KEY, request, answer) == b"fine"
    for changed in (
        other,
        replace(request, tag=bytes(16)),
        replace(request, number=replace(request.number, sequence=2)),
    ):
        with pytest.raises(Refusal, match="answer-not-authentic"):
            open_answer(KEY, changed, answer)


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 201},
        {"content_type": ""},
        {"salt": bytes(16)},
        {"salt": b""},
        {"body": bytes(20)},
        {"body": b""},
        {"body": bytes(15)},
    ],
)
def test_a_changed_answer_is_refused(changes):
    request, _ = sealed()
    answer = seal_answer(KEY, request, 200, "application/cbor", b"fine")
    with pytest.raises(Refusal, match="answer-not-authentic"):
        open_answer(KEY, request, replace(answer, **changes))
    with pytest.raises(Refusal, match="answer-not-authentic"):
        open_answer(b"l" * 32, request, answer)


def test_a_request_does_not_pass_for_its_own_answer():
    request, ciphertext = sealed()
    with pytest.raises(Refusal, match="answer-not-authentic"):
        open_answer(KEY, request, SealedAnswer(200, TARGET.content_type, request.number.salt, ciphertext + request.tag))


def test_the_digest_of_a_request_names_its_number_target_and_tag():
    authorization, _ = sealed()
    same = RequestOpener(KEY, authorization, TARGET).request_digest
    assert same == RequestOpener(KEY, authorization, TARGET).request_digest
    others = [(replace(authorization, tag=bytes(16)), TARGET), (authorization, replace(TARGET, length=6))]
    assert all(RequestOpener(KEY, *other).request_digest != same for other in others)


def test_the_header_has_the_documented_form():
    authorization, _ = sealed()
    form = r"QFLARE1 session=(73){16}, generation=0, epoch=7, sequence=1, salt=[0-9a-f]{32}, tag=[0-9a-f]{32}"
    assert re.fullmatch(form, authorization.to_header())
