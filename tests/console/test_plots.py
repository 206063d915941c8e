"""The plots: scales with round ticks, and forms whose marks lie inside their frame whatever the data."""

import math
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qflare_site.console.plots.drawing import MARKER, SERIES, TONES, Point, Series, marker
from qflare_site.console.plots.forms import StripCell, line_plot, scatter_plot, stacked_bars, strip
from qflare_site.console.plots.scales import (
    category_scale,
    fixed_scale,
    log_scale,
    nice_step,
    number_scale,
    spans_decades,
    time_scale,
)
from qflare_site.console.plots.units import BYTES, COUNT, PERCENT, PLAIN, SECONDS

UNITS = (PLAIN, COUNT, PERCENT, BYTES, SECONDS)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SLACK = 1.4 * MARKER


def labels(scale):
    return [tick.label for tick in scale.ticks]


def corners(path):
    """Return the corners of a path of M, L, h, v and a, as (x, y) in order."""
    x = y = 0.0
    places = []
    for command, text in re.findall(r"([MLhvaz])([^MLhvaz]*)", path):
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        if command in "ML":
            places += pairs
            x, y = places[-1]
        elif command in "hv":
            x, y = (x + numbers[0], y) if command == "h" else (x, y + numbers[0])
            places.append((x, y))
        elif command == "a":
            x, y = x + numbers[5], y + numbers[6]
            places.append((x, y))
    return places


def assert_inside(drawing, slack=SLACK):
    frame = drawing.frame
    for mark in drawing.marks:
        for x, y in corners(mark.path):
            assert frame.left - slack <= x <= frame.right + slack
            assert frame.top - slack <= y <= frame.bottom + slack


def one_series(values, style=SERIES[0]):
    return Series("one", style, tuple(Point(place, value, str(value)) for place, value in enumerate(values)))


@pytest.mark.parametrize(
    ("rough", "step"), [(0.7, 1), (1, 1), (1.1, 2), (3, 5), (6, 10), (0.03, 0.05), (1200, 2000), (1e-9, 1e-9)]
)
def test_a_step_is_one_two_or_five_times_a_power_of_ten(rough, step):
    assert nice_step(rough) == pytest.approx(step)


@given(st.lists(FINITE, max_size=20), st.sampled_from(UNITS), st.booleans(), st.booleans())
def test_ticks_increase_have_different_places_and_hold_the_data(values, unit, from_zero, whole):
    scale = number_scale(values, unit, from_zero=from_zero, whole=whole)
    ticks = [tick.value for tick in scale.ticks]
    assert 2 <= len(ticks) <= 8
    assert all(low < high for low, high in zip(ticks, ticks[1:], strict=False))
    assert (scale.low, scale.high) == (ticks[0], ticks[-1])
    assert all(0 <= scale.place(value) <= 1 for value in values)
    if from_zero:
        assert scale.low <= 0 <= scale.high


@given(st.lists(FINITE, max_size=20))
def test_a_logarithmic_scale_takes_any_number(values):
    scale = log_scale(values)
    ticks = [tick.value for tick in scale.ticks]
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 6
    assert all(0 <= scale.place(value) <= 1 for value in values)


def test_ends_far_beyond_each_other_have_a_place():
    scale = log_scale([1e-99, 1e299])
    assert (scale.place(1e-99), scale.place(1e299)) == pytest.approx((0, 1))


def test_powers_of_ten_lie_at_equal_distances_on_a_logarithmic_scale():
    scale = log_scale([0.2, 900.0])
    assert labels(scale) == ["0.1", "1", "10", "100", "1000"]
    assert [scale.place(tick.value) for tick in scale.ticks] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_only_positive_values_that_lie_far_apart_ask_for_it():
    assert spans_decades([1.0, 60.0])
    assert not spans_decades([1.0, 40.0])
    assert not spans_decades([0.0, 60.0])
    assert not spans_decades([])


@given(st.floats(0, 4e9), st.floats(0, 4e9))
def test_times_have_few_ticks_in_order(begin, seconds):
    start = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=begin)
    scale = time_scale(start, start + timedelta(seconds=seconds))
    ticks = [tick.value for tick in scale.ticks]
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 8
    assert all(scale.low <= tick <= scale.high for tick in ticks)


def test_a_day_has_its_hours_and_a_month_its_days_in_utc():
    noon = datetime(2026, 3, 1, 12, 7, tzinfo=UTC)
    assert labels(time_scale(noon - timedelta(hours=24), noon)) == ["18:00", "00:00", "06:00", "12:00"]
    assert labels(time_scale(noon - timedelta(days=30), noon))[:2] == ["05 Feb", "12 Feb"]


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([0, 100], PLAIN, ["0", "50", "100"]),
        ([0.1, 0.45], PERCENT, ["10 %", "20 %", "30 %", "40 %", "50 %"]),
        ([0, 3 * 2**20], BYTES, ["0", "1 MiB", "2 MiB", "3 MiB"]),
        ([0, 230], SECONDS, ["0", "1 min", "2 min", "3 min", "4 min"]),
        ([0, 4000], COUNT, ["0", "1 k", "2 k", "3 k", "4 k"]),
        ([12_345_600, 12_345_800], COUNT, ["12.3456 M", "12.34565 M", "12.3457 M", "12.34575 M", "12.3458 M"]),
    ],
)
def test_ticks_are_told_in_the_unit_and_never_twice_the_same(values, unit, expected):
    told = labels(number_scale(values, unit, from_zero=min(values) == 0))
    assert [float(label.split()[0]) for label in told] == [float(label.split()[0]) for label in expected]
    assert [label.split()[1:] for label in told] == [label.split()[1:] for label in expected]
    assert len(set(told)) == len(told)


def test_a_count_has_no_tick_between_integers():
    assert labels(number_scale([0, 1], COUNT, from_zero=True, whole=True)) == ["0", "1"]


@pytest.mark.parametrize(
    ("unit", "value", "words"),
    [
        (SECONDS, 0.25, "250 ms"), (SECONDS, 70, "70 s"), (SECONDS, 7000, "1.944 h"), (BYTES, 1536, "1.5 KiB"),
        (BYTES, 0, "0"), (PERCENT, 0.875, "87.5 %"), (COUNT, 1_350_000, "1.35 M"), (PLAIN, 1e300, "1e+300"),
        (PLAIN, 1e-7, "1e-07"),
    ],
)  # fmt: skip
def test_values_are_told_in_a_suitable_size(unit, value, words):
    assert unit.words(value) == words


def test_the_newest_category_always_has_its_name():
    scale = category_scale([str(number) for number in range(1, 41)])
    assert labels(scale) == ["5", "10", "15", "20", "25", "30", "35", "40"]
    assert 0 < scale.place(0) < scale.place(39) < 1


@given(st.lists(st.one_of(st.none(), FINITE), max_size=60))
def test_lines_and_points_of_any_data_lie_inside_the_frame(values):
    series = one_series(values)
    x, y = category_scale([str(place) for place in range(len(values))]), number_scale(series.known())
    for drawing in (line_plot([series], x, y), scatter_plot([series], x, y, names=("one", "other"))):
        assert_inside(drawing)


@given(st.lists(st.lists(st.one_of(st.none(), st.floats(0, 1e290)), min_size=3, max_size=3), max_size=5))
def test_stacked_bars_lie_inside_the_frame(layers):
    series = [one_series(values, SERIES[place]) for place, values in enumerate(layers)]
    totals = [sum(layer[place] or 0 for layer in layers) for place in range(3)]
    y = number_scale(totals, BYTES, from_zero=True)
    assert_inside(stacked_bars(series, category_scale(["1", "2", "3"]), y))


@given(st.integers(0, 12), st.integers(0, 30), st.data())
def test_cells_of_a_strip_lie_inside_its_frame(rows, columns, data):
    places = [(row, column) for row in range(rows) for column in range(columns)]
    taken = data.draw(st.lists(st.sampled_from(places), max_size=10)) if places else []
    cells = [
        StripCell(
            row, column, data.draw(st.floats(-2, 2)), data.draw(st.sampled_from([SERIES[0], TONES["danger"]])), ""
        )
        for row, column in taken
    ]
    drawing = strip([(f"a long name of device {row}", "") for row in range(rows)], ["1"] * columns, cells, ())
    assert_inside(drawing)
    assert drawing.height > drawing.frame.bottom


def test_a_missing_value_breaks_the_line():
    x, y = category_scale("abcde"), fixed_scale(0, 1, 0.5)
    drawing = line_plot([one_series([0.0, 1.0, None, 1.0, 0.0])], x, y)
    lines = [mark for mark in drawing.marks if mark.classes.startswith("line")]
    markers = [mark for mark in drawing.marks if mark.classes.startswith("marker")]
    assert [len(corners(line.path)) for line in lines] == [2, 2]
    assert len(markers) == 4


def test_a_value_alone_has_a_marker_and_no_line():
    drawing = line_plot([one_series([None, 0.5, None])], category_scale("abc"), fixed_scale(0, 1, 0.5))
    assert [mark.classes for mark in drawing.marks] == ["marker series-1"]


def test_layers_lie_upon_each_other_and_nothing_has_no_height():
    layers = [one_series([1.0, None]), one_series([2.0, 0.0], SERIES[1]), one_series([1.0, -3.0], SERIES[2])]
    drawing = stacked_bars(layers, category_scale("ab"), fixed_scale(0, 4, 1))
    spans = [(max(y for _, y in corners(mark.path)), min(y for _, y in corners(mark.path))) for mark in drawing.marks]
    assert [below for below, _ in spans] == [drawing.frame.bottom, spans[0][1], spans[1][1]]
    assert spans[2][1] == drawing.frame.top
    assert drawing.patterns == ["dots", "rising"]


def test_values_beyond_a_fixed_scale_are_drawn_at_its_edge():
    drawing = scatter_plot(
        [one_series([7.0, math.inf])], category_scale("ab"), fixed_scale(0, 1, 0.5), names=("place", "value")
    )
    assert_inside(drawing)
    assert [label.words for label in drawing.labels[-2:]] == ["place →", "↑ value"]


def test_one_series_needs_no_legend_and_several_differ_in_colour_and_shape():
    x, y = category_scale("a"), fixed_scale(0, 1, 0.5)
    assert line_plot([one_series([0.5])], x, y).legend == ()
    assert [item.name for item in line_plot([one_series([0.5]), one_series([1.0])], x, y).legend] == ["one", "one"]
    for styles in (SERIES, tuple(TONES.values())):
        assert len({style.colour for style in styles}) == len({style.shape for style in styles}) == len(styles)
        assert len({style.pattern for style in styles}) == len(styles)


@pytest.mark.parametrize("shape", sorted({style.shape for style in (*SERIES, *TONES.values())}))
def test_a_marker_stays_around_its_place(shape):
    assert all(math.dist(place, (50, 20)) <= 2 * MARKER for place in corners(marker(shape, 50, 20, MARKER)))
