"""The key store: opens with its own lock only, and every damage is a clear refusal."""

import os
from dataclasses import replace

import pytest

from edge_client import key_store
from edge_client.key_store import DeviceIdentity, KeyFileLock, PassphraseLock, load_identity, save_identity
from qflare_protocol.cose import Verifier
from qflare_protocol.device_keys import generate_device_keypair
from qflare_protocol.errors import Refusal

KEYS = generate_device_keypair("QF1-F640")
IDENTITY = DeviceIdentity(
    "http://server", b"d" * 16, "alice", KEYS, Verifier("ML-DSA-44", b"p" * 1312), "log", b"l" * 1312
)


@pytest.fixture
def lock(tmp_path):
    return KeyFileLock(tmp_path / "key")


@pytest.fixture
def store(tmp_path, lock):
    save_identity(tmp_path / "store", lock, IDENTITY)
    return tmp_path / "store"


def refused(code, call, *arguments):
    with pytest.raises(Refusal) as caught:
        call(*arguments)
    assert caught.value.code == code


def test_an_identity_comes_back(store, lock):
    assert load_identity(store, lock) == IDENTITY


def test_the_files_are_their_owners_alone(store, tmp_path):
    assert store.stat().st_mode & 0o777 == (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_no_key_lies_in_the_clear_or_shows(store):
    content = store.read_bytes()
    assert KEYS.kem.private not in content
    assert KEYS.signer.private not in content
    assert b"alice" not in content
    assert repr(KEYS.signer.private) not in repr(IDENTITY)


def test_saving_again_replaces_the_store_under_a_fresh_salt(store, lock):
    before = store.read_bytes()
    save_identity(store, lock, replace(IDENTITY, name="alice2"))
    assert load_identity(store, lock).name == "alice2"
    assert store.read_bytes()[:60] != before[:60]
    assert [path.name for path in store.parent.iterdir() if path.name.startswith(".")] == []


def test_another_key_file_opens_nothing(store, tmp_path):
    refused("decryption-failed", load_identity, store, KeyFileLock(tmp_path / "other"))


def test_a_passphrase_opens_its_own_store_only(tmp_path):
    path = tmp_path / "store"
    save_identity(path, PassphraseLock("correct horse"), IDENTITY)
    assert load_identity(path, PassphraseLock("correct horse")) == IDENTITY
    refused("decryption-failed", load_identity, path, PassphraseLock("correct horsf"))
    refused("decryption-failed", load_identity, path, KeyFileLock(tmp_path / "key"))


def test_a_short_passphrase_is_refused():
    refused("invalid-key", PassphraseLock, "1234567")


def test_every_damage_is_refused(store, lock):
    content = store.read_bytes()
    ends = (0, len(key_store.MAGIC), len(key_store.MAGIC) + 16, len(key_store.MAGIC) + 28, len(content) - 1)
    for position in ends:
        changed = bytearray(content)
        changed[position] ^= 1
        store.write_bytes(bytes(changed))
        refused("decryption-failed", load_identity, store, lock)
    for length in (0, 5, len(key_store.MAGIC), len(key_store.MAGIC) + 30, len(content) - 1):
        store.write_bytes(content[:length])
        refused("decryption-failed", load_identity, store, lock)


def test_before_enrolment_there_is_nothing_to_load(tmp_path, lock):
    refused("not-found", load_identity, tmp_path / "none", lock)


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "key"
    KeyFileLock(path)
    for mode in (0o644, 0o640, 0o606):
        path.chmod(mode)
        refused("invalid-key", KeyFileLock, path)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_file_of_another_size_is_refused(tmp_path, size):
    path = tmp_path / "key"
    path.write_bytes(os.urandom(size))
    path.chmod(0o600)
    refused("invalid-key", KeyFileLock, path)
