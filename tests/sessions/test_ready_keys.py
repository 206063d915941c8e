"""Ephemeral keys made ahead: each handed out once, to one process, and shown to nobody."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from qflare_protocol import pqc
from sessions import ready_keys
from sessions.ready_keys import ReadyKeys, fresh_key_pair

KEM = "ML-KEM-1024"


def filled(ready: int = 8) -> ReadyKeys:
    """Return a store that has been filled once."""
    store = ReadyKeys(KEM, ready)
    store.take()
    for _ in range(2000):
        if len(store._pairs) == ready:
            break
        threading.Event().wait(0.005)
    assert len(store._pairs) == ready
    return store


def test_no_key_is_handed_out_twice():
    store = filled()
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: store.take().public, range(64)))
    assert len(set(taken)) == 64


def test_a_key_works_and_an_empty_store_makes_one_on_the_spot():
    pair = ReadyKeys(KEM, ready=0).take()
    secret, ciphertext = pqc.kem(KEM).encapsulate(pair.public)
    assert pqc.kem(KEM).decapsulate(pair.private, ciphertext) == secret


def test_a_forked_child_holds_none_of_its_parents_keys():
    """Two processes that held the same key would use it in two places."""
    fresh_key_pair(KEM)
    parent = ready_keys._STORES[KEM]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # what follows runs in the child alone, and ends without pytest's own ending
        os.write(writing, b"none" if not ready_keys._STORES else b"some")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 4) == b"none"
    assert ready_keys._STORES[KEM] is parent
    os.close(reading)
    os.close(writing)


def test_no_key_shows():
    store = filled(2)
    assert repr(store) == "ReadyKeys(ML-KEM-1024, 2 of 2)"
