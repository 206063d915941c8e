"""Requests for ranges, read strictly, and answered only by a process that was started for them."""

import os

import pytest

from enclave.core.host import DecisionRecord, HostDirectory, initialise_host_directory
from enclave.core.requests import RangeRequest, read_request
from qflare_protocol.errors import Refusal
from tests.enclave_core.rounds import ROUND, Round
from tests.enclave_core.test_service import Conversation, full_round, state

KEYS = (b"a" * 32, b"b" * 32)
REQUEST = RangeRequest(Round().request(), "read", 1, KEYS)
ASKED = REQUEST.to_map()


def test_range_requests_read_back_as_they_were():
    told = RangeRequest(Round().request(), "decide", 0, KEYS, (b"one", b"two"), (b"three", b"four"))
    assert read_request(ASKED) == REQUEST
    assert read_request(told.to_map()) == told


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"step": "aggregate"},
        {"step": ["read"]},
        {"round": {}},
        {"round": None},
        {"range_index": 2},
        {"range_index": -1},
        {"range_index": True},
        {"key_ids": [b"short"]},
        {"key_ids": {}},
        {"messages": b"message"},
        {"messages": ["text"]},
        {"second_readings": [1]},
        {"step": "combine"},
        {"step": "read-again"},
    ],
    ids=str,
)
def test_a_range_request_out_of_form_is_refused(change):
    with pytest.raises(Refusal) as caught:
        read_request(ASKED | change)
    assert caught.value.code == "malformed-message"


@pytest.mark.parametrize("step", ["read", "read-again", "combine"])
def test_a_process_with_the_rounds_record_does_no_step_of_a_range(step):
    entry = full_round()
    asked = RangeRequest(entry.request(wrapped_keys=b""), step, 0, (entry.key_id, KEYS[0]), (b"message",))
    record = os.memfd_create("record")
    answer = Conversation(state(DecisionRecord(record))).ask(asked.to_map())
    os.close(record)
    assert (answer["kind"], answer["code"]) == ("refused", "enclave-failed")
    assert "not started" in answer["detail"]


def test_a_round_of_one_process_is_not_shared():
    entry = full_round()
    descriptors = [os.memfd_create(f"blob {number}") for number in range(6)]
    request = entry.request(wrapped_keys=entry.prepared.wrapped_keys, descriptors=tuple(descriptors))
    asked = RangeRequest(request, "decide", 0, (entry.key_id,)).to_map()
    record = os.memfd_create("record")
    answer = Conversation(state(DecisionRecord(record), files=descriptors)).ask(asked)
    for descriptor in (record, *descriptors):
        os.close(descriptor)
    assert (answer["code"], "one process" in answer["detail"]) == ("enclave-failed", True)


def test_the_records_of_ranges_go_with_the_rounds_key(tmp_path):
    initialise_host_directory(tmp_path, os.getuid(), os.getgid())
    with HostDirectory(tmp_path) as host:
        host.create_sealing_key(ROUND)
        for index in (None, 0, 15):
            os.close(host.open_decision(ROUND, index))
        assert len(list((tmp_path / "rounds").iterdir())) == 4
        host.destroy_round_key(ROUND)
    assert not list((tmp_path / "rounds").iterdir())
