"""The geometry of the accuracy plot."""

import pytest

from qflare_site.console.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, accuracy_plot


def test_nothing_measured_is_no_plot():
    assert accuracy_plot([]) is None


def test_one_round_is_one_point_at_the_left():
    (point,) = accuracy_plot([(7, 0.5)]).points
    assert (point.x, point.number) == (LEFT, 7)


def test_points_lie_at_equal_distances_from_edge_to_edge():
    xs = [point.x for point in accuracy_plot([(1, 0.1), (2, 0.2), (3, 0.3)]).points]
    assert xs == [LEFT, (LEFT + WIDTH - RIGHT) / 2, WIDTH - RIGHT]


@pytest.mark.parametrize(("accuracy", "y"), [(0.0, HEIGHT - BOTTOM), (1.0, TOP), (1.5, TOP), (-1.0, HEIGHT - BOTTOM)])
def test_accuracy_goes_upwards_and_stays_inside(accuracy, y):
    assert accuracy_plot([(1, accuracy)]).points[0].y == y


def test_the_line_goes_through_the_points_in_order():
    assert accuracy_plot([(1, 0.0), (2, 1.0)]).line == f"{LEFT},{HEIGHT - BOTTOM} {WIDTH - RIGHT},{TOP}"
