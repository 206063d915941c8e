"""How the benchmarks take time and what they say of it; no test asserts how fast anything is."""

import json
import os

import pytest

from bench.measuring import Stopwatch, interleaved_medians, steady
from bench.report import Figure, parse_options, show


def test_a_stopwatch_keeps_the_median_by_its_clock():
    ticks = iter([0.0, 1.0, 10.0, 15.0, 20.0, 22.0])
    watch = Stopwatch(lambda: next(ticks))
    assert [watch.run("work", lambda value: value, number) for number in (7, 8, 9)] == [7, 8, 9]
    assert watch.medians() == {"work": 2.0}
    assert (watch.spent("work"), watch.spent("rest")) == (8.0, 0)


def test_cases_take_turns():
    order = []
    slow = {name: lambda name=name: (order.append(name), sum(range(5_000_000))) for name in "ab"}
    medians = interleaved_medians(slow, repetitions=3)
    measured = order[-6:]
    assert measured == ["a", "b"] * 3
    assert all(seconds > 0 for seconds in medians.values())


def test_a_case_that_has_had_its_time_sits_out():
    calls = {"slow": 0, "quick": 0}

    def run(name, count):
        calls[name] += 1
        sum(range(count))

    cases = {"slow": lambda: run("slow", 2_000_000), "quick": lambda: run("quick", 300_000)}
    interleaved_medians(cases, repetitions=5, seconds_each=0.001)
    assert calls["slow"] == 3  # warm-up, calibration, one sample


def test_the_process_gets_its_cores_back():
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), steady():
        assert len(os.sched_getaffinity(0)) == 1
        raise RuntimeError
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({}, ""),
        ({"most_times": 2.0}, "met"),
        ({"most_times": 1.9}, "missed"),
        ({"most_seconds": 0.004}, "met"),
        ({"most_seconds": 0.003}, "missed"),
        ({"most_times": 1.9, "most_seconds": 0.004}, "missed"),
        ({"most_times": 2.0, "most_seconds": 0.003}, "missed"),
    ],
)
def test_a_figure_is_held_to_every_limit_it_has(limits, verdict):
    figure = Figure("seal", 0.004, "AES", 0.002, **limits)
    assert figure.ratio == 2.0
    assert figure.verdict == verdict


FIGURES = [Figure("seal", 0.004, "AES", 0.002, most_times=1.5), Figure("hash", 0.001, "AES", 0.002)]


def test_the_table_names_reference_ratio_and_limit(capsys):
    show("Sealing", FIGURES, as_json=False, notes=["a note"])
    title, _, seal, hash_, note, *_ = capsys.readouterr().out.splitlines()
    assert title.startswith("Sealing (Python")
    assert seal.split() == ["seal", "4.000", "AES", "2.000", "2.00", "ratio", "1.50:", "missed"]
    assert hash_.split() == ["hash", "1.000", "AES", "2.000", "0.50"]
    assert note.strip() == "a note"


def test_json_carries_the_same(capsys):
    show("Sealing", FIGURES, as_json=True)
    first, second = json.loads(capsys.readouterr().out)["figures"]
    assert (first["milliseconds"], first["ratio"], first["verdict"]) == (4.0, 2.0, "missed")
    assert second["most_times"] is None


def test_no_repetition_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse_options("bench", ["--repetitions", "0"], repetitions=5)
    assert "at least 1" in capsys.readouterr().err
