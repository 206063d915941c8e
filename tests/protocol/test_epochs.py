"""Key epochs: the chain goes forward only, and what it left behind it cannot give again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_protocol.encoding import encode
from qflare_protocol.epochs import BUCKET_SECONDS, GRACE_SECONDS, EpochChain, bucket_of, receive_epoch
from qflare_protocol.errors import Refusal
from qflare_protocol.kdf import expand

START = 1000
BEGIN = START * BUCKET_SECONDS


def chain():
    return EpochChain(START, b"c" * 32, b"r" * 32)


def refused(call):
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.code == "epoch-expired"


@given(st.integers(0, 10**12))
def test_a_bucket_holds_five_minutes(time):
    assert bucket_of(bucket_of(time) * BUCKET_SECONDS) == bucket_of(time) == bucket_of(time + 0.9)
    assert bucket_of(time + BUCKET_SECONDS) == bucket_of(time) + 1


def test_the_chain_is_the_documented_one():
    following = expand(b"c" * 32, "next epoch", (START + 1).to_bytes(8, "big"))
    assert chain().advance(START + 1, now=BEGIN).chain_key == following
    assert chain().derive_key("traffic") == expand(b"c" * 32, "epoch traffic", START.to_bytes(8, "big"))


@given(st.lists(st.integers(0, 20), max_size=6))
def test_many_steps_lead_where_one_leads(steps):
    moved = chain()
    for epoch in sorted(steps):
        moved = moved.advance(START + epoch, now=0)
    direct = chain().advance(START + max(steps, default=0), now=0)
    assert (moved.epoch, moved.chain_key) == (direct.epoch, direct.chain_key)


@given(st.integers(1, 1000))
def test_a_chain_never_goes_back(epochs):
    with pytest.raises(ValueError, match="never goes back"):
        chain().advance(START - epochs, now=BEGIN)


def test_the_previous_key_dies_after_thirty_seconds():
    end = BEGIN + BUCKET_SECONDS + GRACE_SECONDS
    moved = chain().advance(START + 1, now=BEGIN + BUCKET_SECONDS)
    assert moved.traffic_key(START, 0, now=end - 0.1) == chain().derive_key("traffic")
    refused(lambda: moved.traffic_key(START, 0, now=end))
    assert moved.without_stale_keys(now=end).past == ()
    assert moved.without_stale_keys(now=end - 0.1) == moved


@given(st.integers(1, 5), st.floats(0, 4 * BUCKET_SECONDS))
def test_what_is_stored_after_advancing_gives_no_earlier_key(epochs, seconds):
    now = BEGIN + epochs * BUCKET_SECONDS + seconds
    stored = chain().advance(START + epochs, now=now).to_bytes()
    assert chain().chain_key not in stored
    earlier = [chain().advance(START + epoch, now=now).derive_key("traffic") for epoch in range(epochs)]
    kept = [key in stored for key in earlier]
    assert not any(kept[:-1])
    assert kept[-1] == (seconds < GRACE_SECONDS)


def test_two_epochs_on_nothing_of_the_first_is_left():
    moved = chain().advance(START + 2, now=BEGIN + 2 * BUCKET_SECONDS)
    for epoch in (START, START - 1, START + 3):
        refused(lambda epoch=epoch: moved.traffic_key(epoch, 0, now=BEGIN + 2 * BUCKET_SECONDS))


def test_the_stored_form_comes_back():
    for epoch, now in ((START, BEGIN), (START + 1, BEGIN + BUCKET_SECONDS)):
        moved = chain().advance(epoch, now=now)
        assert EpochChain.from_bytes(moved.to_bytes()) == moved
    with pytest.raises(Refusal):
        EpochChain.from_bytes(encode("chain") + b"\0")


@pytest.mark.parametrize(("epoch", "fits"), [(-2, False), (-1, True), (0, True), (1, True), (2, False), (10**9, False)])
def test_a_message_may_come_from_the_buckets_around_the_clock(epoch, fits):
    now = BEGIN + BUCKET_SECONDS * 5
    started = EpochChain(START + 4, b"c" * 32, b"r" * 32)
    if not fits:
        refused(lambda: receive_epoch(started, START + 5 + epoch, 0, now=now))
        return
    moved, key = receive_epoch(started, START + 5 + epoch, 0, now=now)
    assert moved.epoch == START + 5 + max(epoch, 0)
    assert key == started.advance(START + 5 + epoch, now=0).derive_key("traffic")


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_received_messages_never_move_the_chain_back(epoch, seconds):
    started = chain()
    try:
        moved, _ = receive_epoch(started, epoch, 0, now=BEGIN + seconds % 3000)
    except Refusal as refusal:
        assert refusal.code == "epoch-expired"
    else:
        assert moved.epoch >= started.epoch


def test_purposes_have_keys_of_their_own():
    assert len({chain().derive_key(purpose) for purpose in ("traffic", "export", "signing")}) == 3


def test_no_key_shows():
    moved = chain().advance(START + 1, now=BEGIN)
    assert "ccc" not in repr(chain())
    assert "rrr" not in repr(chain())
    assert repr(moved.past[0].key)[2:10] not in repr(moved)


def test_the_ratchet_key_leads_to_no_chain_key_and_stays_through_the_epochs():
    begun = EpochChain.begin(b"R" * 64, START)
    assert begun.chain_key == expand(b"R" * 64, "chain")
    assert begun.ratchet_key == expand(b"R" * 64, "ratchet")
    assert begun.advance(START + 5, now=BEGIN).ratchet_key == begun.ratchet_key != begun.chain_key


@pytest.mark.parametrize("generation", [1, 2, 10**9 - 1])
def test_a_message_of_another_generation_does_not_open(generation):
    refused(lambda: receive_epoch(chain(), START, generation, now=BEGIN))


def test_at_most_two_past_keys_are_kept():
    moved = chain().advance(START + 9, now=0)
    assert [key.epoch for key in moved.past] == [START + 8, START + 7]
