"""The comparison's page and drawing say what was measured, and what was not."""

import numpy as np

from bench.compare.page import page
from bench.compare.plot import plot
from bench.compare.task import Figures, Task
from bench.compare.wide_model import WideTrainer

DIGITS, WIDE = Task(devices=10, rounds=3), Task(devices=4, rounds=2, wide=True)


def figures(platform: str, *seconds: float) -> Figures:
    accuracies = [0.85 + 0.05 * number for number in range(len(seconds))]
    return Figures(platform, "1.2.3", list(seconds), accuracies, 50.0, 40.0, 2 << 30, 100 << 20, 4_000_000)


def test_a_warm_round_leaves_the_first_out() -> None:
    assert figures("QFLARE", 10.0, 1.0, 2.0).warm_round_seconds == 1.5


def test_time_to_accuracy_adds_up_rounds_until_it_is_reached() -> None:
    assert figures("QFLARE", 10.0, 1.0, 2.0).seconds_to(0.9) == 11.0
    assert figures("QFLARE", 10.0).seconds_to(0.9) is None


def test_the_page_has_a_column_for_each_platform_and_a_table_for_each_task() -> None:
    runs = {"qflare": figures("QFLARE", 8.0, 1.2, 1.4), "nvflare": figures("NVIDIA FLARE", 20.0, 3.0, 3.0)}
    text = page({DIGITS: runs, WIDE: runs}, 300)
    assert text.count("| | QFLARE | NVIDIA FLARE |") == 2
    assert "| seconds of a warm round | 1.30 | 3.00 |" in text
    assert "NVIDIA FLARE 1.2.3 runs in production mode" in text
    assert text.count("accuracy at the end") == 1


def test_the_page_says_how_often_memory_is_looked_at() -> None:
    text = page({DIGITS: {"qflare": figures("QFLARE", 8.0, 1.2, 1.4)}}, 300)
    assert "Memory is looked at\nevery 0.5 s" in text


def test_the_page_says_which_run_did_not_end() -> None:
    text = page({WIDE: {"qflare": figures("QFLARE", 8.0, 1.2), "flower": None, "nvflare": None}}, 300)
    assert "Flower is missing here: its run failed, or did not end in 300 s." in text
    assert "NVIDIA FLARE is missing here" in text


def test_the_page_says_where_nvidia_flare_could_not_be_installed() -> None:
    assert "could not be installed" in page({DIGITS: {"qflare": figures("QFLARE", 8.0, 1.2, 1.1)}}, 300)


def test_the_drawing_has_a_point_for_each_round() -> None:
    drawn = plot([figures("QFLARE", 8.0, 1.0, 1.0), figures("Flower", 30.0, 30.0)])
    assert drawn.count("<circle") == 5


def test_the_wide_model_moves_by_another_step_on_each_shard() -> None:
    trainers = [WideTrainer({"values": 1000}, {"shard": shard}) for shard in ("0", "1")]
    first, second = (trainer.train(trainer.initial_model(), 1).model["w"] for trainer in trainers)
    assert first.shape == second.shape == (1000,)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2
