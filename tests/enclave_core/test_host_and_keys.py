import dataclasses
import fcntl
import os
import threading
from contextlib import contextmanager

import pytest

from enclave.core.host import (
    DecisionRecord,
    HostDirectory,
    acting_as,
    attestation_public_key,
    destroy_round_key,
    initialise_host_directory,
)
from enclave.core.keys import WrappingContext, generate_round_keys, unwrap_keys, wrap_keys
from qflare_protocol.errors import Refusal

ROUND, OTHER = b"r" * 16, b"o" * 16
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its uid")


@pytest.fixture
def directory(tmp_path):
    initialise_host_directory(tmp_path / "host", os.getuid(), os.getgid())
    return tmp_path / "host"


def assert_refused(code, action, *arguments):
    with pytest.raises(Refusal) as caught:
        action(*arguments)
    assert caught.value.code == code


def mode(path):
    return path.stat().st_mode & 0o777


def test_only_the_owner_may_read_the_directory_and_its_keys(directory):
    with HostDirectory(directory) as host:
        host.create_sealing_key(ROUND)
    assert mode(directory) == mode(directory / "rounds") == 0o700
    assert mode(directory / "attestation.pub") == 0o644
    assert mode(directory / "attestation.key") == mode(directory / "rounds" / f"{ROUND.hex()}.key") == 0o600


def test_initialising_again_keeps_the_attestation_key(directory):
    before = attestation_public_key(directory)
    initialise_host_directory(directory, os.getuid(), os.getgid())
    assert attestation_public_key(directory) == before
    assert len(before) == 1312


def test_once_the_public_key_stands_the_seed_is_not_read_again(directory, monkeypatch):
    monkeypatch.setattr(HostDirectory, "attestation_signer", lambda host: pytest.fail("the seed was read"))
    initialise_host_directory(directory, os.getuid(), os.getgid())
    assert len(attestation_public_key(directory)) == 1312


def test_the_public_key_file_is_that_of_the_seed(directory):
    with HostDirectory(directory) as host:
        assert host.attestation_signer().public == attestation_public_key(directory)


def test_a_directory_with_a_key_and_no_public_file_is_completed(directory):
    seed, public = (directory / "attestation.key").read_bytes(), attestation_public_key(directory)
    (directory / "attestation.pub").unlink()
    assert_refused("enclave-failed", attestation_public_key, directory)
    initialise_host_directory(directory, os.getuid(), os.getgid())
    assert (directory / "attestation.key").read_bytes() == seed
    assert attestation_public_key(directory) == public


def test_a_lost_seed_is_not_replaced_behind_the_back_of_those_who_pin_it(directory):
    (directory / "attestation.key").unlink()
    initialise_host_directory(directory, os.getuid(), os.getgid())
    with HostDirectory(directory) as host:
        assert_refused("enclave-failed", host.attestation_signer)


@as_root
def test_the_directory_belongs_to_the_enclaves_uid(tmp_path):
    initialise_host_directory(tmp_path / "host", 65534, 65534)
    for name in ("", "rounds", "attestation.key", "attestation.pub"):
        path = tmp_path / "host" / name
        assert path.stat().st_uid == 65534


@as_root
def test_another_uid_cannot_read_the_keys(directory):
    with HostDirectory(directory) as host, acting_as(65534, 65534):
        assert_refused("enclave-failed", host.attestation_signer)
    assert os.geteuid() == 0


def test_acting_as_another_changes_nothing_for_an_ordinary_user(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "seteuid", lambda uid: pytest.fail("an ordinary user cannot change its uid"))
    with acting_as(65534, 65534):
        pass


def test_a_round_has_one_sealing_key_of_its_own(directory):
    with HostDirectory(directory) as host:
        key = host.create_sealing_key(ROUND)
        assert len(key) == 32
        assert host.create_sealing_key(ROUND) == host.sealing_key(ROUND) == key
        assert host.create_sealing_key(OTHER) != key


def test_nothing_half_written_is_left_behind(directory):
    with HostDirectory(directory) as host:
        host.create_sealing_key(ROUND)
        host.create_sealing_key(ROUND)
    assert [path.name for path in (directory / "rounds").iterdir()] == [f"{ROUND.hex()}.key"]


def test_a_destroyed_round_key_is_gone_and_destroying_it_again_is_harmless(directory):
    with HostDirectory(directory) as host:
        host.create_sealing_key(ROUND)
        os.close(host.open_decision(ROUND))
    destroy_round_key(directory, ROUND)
    destroy_round_key(directory, ROUND)
    with HostDirectory(directory) as host:
        assert_refused("decryption-failed", host.sealing_key, ROUND)
    assert list((directory / "rounds").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_key_file_of_another_size_is_refused(directory, content):
    for name in ("attestation.key", "attestation.pub"):
        (directory / name).write_bytes(content)
    assert_refused("enclave-failed", attestation_public_key, directory)
    with HostDirectory(directory) as host:
        assert_refused("enclave-failed", host.attestation_signer)


def test_a_link_in_place_of_a_key_is_not_followed(directory, tmp_path):
    (tmp_path / "elsewhere").write_bytes(bytes(32))
    (directory / "attestation.key").unlink()
    (directory / "attestation.key").symlink_to(tmp_path / "elsewhere")
    with HostDirectory(directory) as host:
        assert_refused("enclave-failed", host.attestation_signer)


@contextmanager
def open_record(directory, round_id=ROUND):
    with HostDirectory(directory) as host, os.fdopen(host.open_decision(round_id), "rb") as file:
        yield DecisionRecord(file.fileno())


@pytest.mark.parametrize("kind", ["commit_inputs", "commit_decision"])
def test_what_is_recorded_may_be_repeated_and_not_changed(directory, kind):
    for _ in range(2):
        with open_record(directory) as record:
            getattr(record, kind)(b"a" * 64)
    with open_record(directory) as record:
        assert_refused("conflict", getattr(record, kind), b"b" * 64)
    with open_record(directory, OTHER) as record:
        getattr(record, kind)(b"b" * 64)


def test_the_record_is_the_digest_of_the_inputs_and_then_that_of_the_decision(directory):
    with open_record(directory) as record:
        record.commit_inputs(b"i" * 64)
        record.commit_decision(b"d" * 64)
    assert (directory / "rounds" / f"{ROUND.hex()}.decision").read_bytes() == b"i" * 64 + b"d" * 64


@pytest.mark.parametrize("length", [0, 1, 63])
def test_torn_inputs_are_written_anew(directory, length):
    (directory / "rounds" / f"{ROUND.hex()}.decision").write_bytes(bytes(length))
    with open_record(directory) as record:
        record.commit_inputs(b"a" * 64)
        assert_refused("conflict", record.commit_inputs, b"b" * 64)


@pytest.mark.parametrize("length", [64, 65, 127])
def test_a_torn_decision_is_written_anew_and_the_inputs_stay(directory, length):
    (directory / "rounds" / f"{ROUND.hex()}.decision").write_bytes((b"i" * 64 + b"torn" * 16)[:length])
    with open_record(directory) as record:
        assert_refused("conflict", record.commit_inputs, b"j" * 64)
        record.commit_inputs(b"i" * 64)
        record.commit_decision(b"a" * 64)
        assert_refused("conflict", record.commit_decision, b"b" * 64)


def test_a_record_that_cannot_be_written_whole_is_refused(directory, monkeypatch):
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: 10)
    with open_record(directory) as record:
        assert_refused("enclave-failed", record.commit_inputs, b"a" * 64)


def test_a_second_process_for_the_round_waits_until_the_first_has_decided(directory):
    seen = []

    def second():
        with open_record(directory) as record:
            try:
                record.commit_inputs(b"b" * 64)
            except Refusal as refusal:
                seen.append(refusal.code)

    with open_record(directory) as record:
        with (directory / "rounds" / f"{ROUND.hex()}.decision").open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiting = threading.Thread(target=second)
        waiting.start()
        record.commit_inputs(b"a" * 64)
    waiting.join()
    assert seen == ["conflict"]


CONTEXT = WrappingContext(b"s" * 32, b"m" * 64, b"p" * 64, b"f" * 16, ROUND)


def test_wrapped_keys_open_for_a_successor_with_the_same_code_policy_and_round():
    keys = generate_round_keys()
    wrapped = wrap_keys(keys, CONTEXT)
    assert unwrap_keys(wrapped, CONTEXT) == keys
    assert keys.hpke_private not in wrapped
    assert keys.result_signer.private not in wrapped


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(WrappingContext)])
def test_wrapped_keys_do_not_open_under_anything_else(field):
    wrapped = wrap_keys(generate_round_keys(), CONTEXT)
    other = dataclasses.replace(CONTEXT, **{field: b"x" * len(getattr(CONTEXT, field))})
    assert_refused("decryption-failed", unwrap_keys, wrapped, other)


@pytest.mark.parametrize("change", [lambda w: b"", lambda w: w[:11], lambda w: w[:-1], lambda w: w + bytes(2000)])
def test_damaged_wrapped_keys_do_not_open(change):
    wrapped = wrap_keys(generate_round_keys(), CONTEXT)
    damaged = change(wrapped)
    if damaged[: len(wrapped)] == wrapped:
        damaged = wrapped + b"\0"
    assert_refused("decryption-failed", unwrap_keys, damaged, CONTEXT)


def test_private_keys_do_not_show_in_repr():
    keys = generate_round_keys()
    assert repr(keys.hpke_private) not in repr(keys)
    assert repr(keys.result_signer.private) not in repr(keys)
    assert repr(CONTEXT.sealing_key) not in repr(CONTEXT)
