"""The embedded broker loses nothing and never shows half a file."""

import json
import multiprocessing
import threading
import time
from queue import Empty

import pytest
from kombu import Connection

from qflare_site import celery  # noqa: F401 - registers the transport's scheme
from qflare_site.stores import filesystem_broker_options

PRODUCERS, CONSUMERS, EACH = 3, 2, 150


def connect(folder):
    return Connection("atomic-filesystem://", transport_options=filesystem_broker_options(folder))


def produce(folder, producer):
    with connect(folder) as connection, connection.SimpleQueue("default") as queue:
        for number in range(EACH):
            queue.put({"producer": producer, "number": number, "padding": "x" * 4000})


def consume(folder, received, until):
    with connect(folder) as connection, connection.SimpleQueue("default") as queue:
        while not until.is_set():
            try:
                message = queue.get(timeout=0.2)
            except Empty:
                continue
            received.put((message.payload["producer"], message.payload["number"]))
            message.ack()


def test_three_producers_and_two_consumers_lose_nothing_and_see_nothing_twice(tmp_path):
    context = multiprocessing.get_context("spawn")
    received, until = context.Queue(), context.Event()
    consumers = [context.Process(target=consume, args=(tmp_path, received, until)) for _ in range(CONSUMERS)]
    producers = [context.Process(target=produce, args=(tmp_path, number)) for number in range(PRODUCERS)]
    for process in consumers + producers:
        process.start()
    got = [received.get(timeout=60) for _ in range(PRODUCERS * EACH)]
    until.set()
    for process in consumers + producers:
        process.join(timeout=20)
    assert [process.exitcode for process in consumers + producers] == [0] * (CONSUMERS + PRODUCERS)
    assert sorted(got) == [(producer, number) for producer in range(PRODUCERS) for number in range(EACH)]
    assert not list((tmp_path / "messages").iterdir())


def test_a_draft_is_not_a_message(tmp_path):
    with connect(tmp_path) as connection, connection.SimpleQueue("default") as queue:
        (tmp_path / "messages" / ".0001.draft").write_text("")
        (tmp_path / "messages" / ".0001_x.default.msg.taken").write_text("")
        assert queue.qsize() == 0
        with pytest.raises(Empty):
            queue.get(block=False)


def test_messages_leave_in_the_order_they_came(tmp_path):
    with connect(tmp_path) as connection, connection.SimpleQueue("default") as queue:
        for number in range(10):
            queue.put(number)
        assert [queue.get(timeout=1).payload for _ in range(10)] == list(range(10))


def test_queues_do_not_mix(tmp_path):
    with connect(tmp_path) as connection:
        connection.SimpleQueue("audit").put("for audit")
        with pytest.raises(Empty):
            connection.SimpleQueue("enclave").get(block=False)
        assert connection.SimpleQueue("audit").get(timeout=1).payload == "for audit"


def test_an_exchange_table_is_never_seen_half_written(tmp_path):
    with connect(tmp_path) as connection:
        channel = connection.default_channel
        tables, stop = [], threading.Event()

        def read():
            while not stop.is_set():
                tables.append(channel.get_table("many"))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(100):
            channel._queue_bind("many", f"key-{number}", "", f"queue-{number}")
        for number in range(50):
            channel._delete(f"queue-{number}", "many", f"key-{number}", "")
        time.sleep(0.01)
        stop.set()
        reader.join()
    assert len(tables) > 1
    assert sorted(json.loads((tmp_path / "exchanges" / "many.exchange").read_text())) == sorted(
        [f"key-{n}", "", f"queue-{n}"] for n in range(50, 100)
    )


def test_binding_twice_is_binding_once(tmp_path):
    with connect(tmp_path) as connection:
        channel = connection.default_channel
        channel._queue_bind("one", "key", "", "queue")
        channel._queue_bind("one", "key", "", "queue")
        assert len(channel.get_table("one")) == 1
