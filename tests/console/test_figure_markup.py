"""The markup of a figure, and the contrast of its colours."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from django.contrib.staticfiles import finders
from django.template import Context, Template

from qflare_site.console.plots.drawing import SERIES, TONES, Point, Series
from qflare_site.console.plots.figure import Cell, Column, Figure, Table
from qflare_site.console.plots.forms import StripCell, line_plot, stacked_bars, strip
from qflare_site.console.plots.scales import category_scale, fixed_scale

LEAST_CONTRAST = 3.0
X, Y = category_scale(["1", "2"]), fixed_scale(0, 1, 0.5)
NUMBERS = Table(
    (Column("Round"), Column("Accuracy"), Column("Why", number=False)),
    ((Cell("1", "/rounds/1"), Cell("0.5"), Cell("a < b")),),
)


def series(name, style, href=""):
    return Series(name, style, (Point(0, 0.5, f"{name} <1>", href), Point(1, 0.25, name)))


def drawn(drawing, table=NUMBERS, slug="one"):
    figure = Figure(slug, "Accuracy & loss", "What is shown.", drawing, table, "Nothing is there yet.")
    return Template("{% load plots %}{% figure shown %}").render(Context({"shown": figure}))


def tree_of(markup):
    return ElementTree.fromstring(markup)  # noqa: S314 - our own markup, which has to be well formed


def test_a_figure_is_well_formed_and_says_what_it_is():
    tree = tree_of(drawn(line_plot([series("a", SERIES[0]), series("b", SERIES[1])], X, Y)))
    plot = tree.find("svg")
    named_by = plot.get("aria-labelledby").split()
    assert plot.get("role") == "img"
    assert [plot.find("title").get("id"), plot.find("desc").get("id")] == named_by
    assert plot.find("title").text == "Accuracy & loss"
    assert tree.find("figcaption/strong").get("id") == tree.get("aria-labelledby")


def test_every_mark_says_what_it_is_and_leads_to_its_row():
    tree = tree_of(drawn(line_plot([series("a", SERIES[0], "/rounds/1")], X, Y)))
    (link,) = tree.find("svg").findall("a")
    assert (link.get("href"), link.get("tabindex")) == ("/rounds/1", "-1")
    assert link.find("path/title").text == "a <1>"
    marks = [path for path in tree.find("svg").iter("path") if "marker" in path.get("class", "")]
    assert all(mark.find("title") is not None for mark in marks)


def test_a_plot_that_leads_somewhere_is_a_group_and_no_picture():
    tree = tree_of(drawn(line_plot([series("a", SERIES[0], "/rounds/1")], X, Y)))
    assert tree.find("svg").get("role") == "group"
    rows = tree_of(drawn(strip([("edge", "/d")], ["1"], [], ())))
    assert rows.find("svg").get("role") == "group"


def test_the_legend_has_a_word_and_a_sample_for_each_series():
    tree = tree_of(
        drawn(stacked_bars([series("Accepted", TONES["success"]), series("Rejected", TONES["danger"])], X, Y))
    )
    items = tree.findall("ul/li")
    assert ["".join(item.itertext()).strip() for item in items] == ["Accepted", "Rejected"]
    assert [path.get("class", path.get("fill")) for path in items[1].iter("path")] == [
        "area danger", "url(#one-rising)",
    ]  # fmt: skip


def test_every_pattern_that_is_used_is_defined_under_the_figures_own_name():
    layers = [series(style.colour, style) for style in (*SERIES, *TONES.values())]
    markup = drawn(stacked_bars(layers, X, Y), slug="two")
    used = set(re.findall(r"url\(#([^)]+)\)", markup))
    defined = {pattern.get("id") for pattern in tree_of(markup).iter("pattern")}
    assert used == defined == {f"two-{name}" for name in ("rising", "falling", "dots", "level", "grid")}


def test_the_numbers_lie_beneath_with_their_links_in_a_region_that_scrolls():
    tree = tree_of(drawn(line_plot([series("a", SERIES[0])], X, Y)))
    region = tree.find("details/div")
    assert (region.get("tabindex"), region.get("role")) == ("0", "group")
    assert region.get("aria-label") == "Numbers of Accuracy & loss"
    assert [head.get("class") for head in region.iter("th")] == ["number", "number", None, "number"]
    assert region.find("table/tbody/tr/th/a").get("href") == "/rounds/1"
    assert [cell.text for cell in region.iter("td")] == ["0.5", "a < b"]


def test_a_figure_without_data_says_why_and_draws_nothing():
    tree = tree_of(drawn(None))
    assert tree.find("p").text == "Nothing is there yet."
    assert tree.find("svg") is None
    assert tree.find("details") is None


def test_nothing_needs_inline_style_or_script():
    layers = [series("a", SERIES[1], "/a"), series("b", SERIES[2])]
    cells = [StripCell(0, 0, 1.0, TONES["danger"], "rejected", "/p")]
    for drawing in (stacked_bars(layers, X, Y), strip([("edge", "/d")], ["1"], cells, ())):
        tree = tree_of(drawn(drawing))
        assert not [one for element in tree.iter() for one in element.attrib if one == "style" or one.startswith("on")]
        assert not [element for element in tree.iter() if element.tag in ("style", "script")]


def test_a_long_name_in_a_strip_is_cut_and_told_whole():
    tree = tree_of(drawn(strip([("a-very-long-name-of-a-device", "/d")], ["1"], [], ())))
    (label,) = tree.find("svg").findall("a/text")
    assert label.text == "a-very-long-n…"
    assert label.find("title").text == "a-very-long-name-of-a-device"


def schemes():
    """Return the variables of the style sheet for the light and the dark scheme."""
    css = Path(finders.find("plots.css")).read_text(encoding="utf-8")
    blocks = re.findall(r"(:root|html\.dark) \{(.*?)\n\}", css, re.DOTALL)
    return {name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for name, block in blocks}


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [":root", "html.dark"])
def test_every_colour_stands_out_from_its_ground(scheme):
    colours = schemes()[scheme]
    ground = colours["figure-ground"]
    marks = {name for name in colours if name.startswith(("series", "tone"))}
    assert len(marks) == len(SERIES) + len(TONES)
    assert {name: value for name in marks if (value := contrast(colours[name], ground)) < LEAST_CONTRAST} == {}
    assert all(contrast(colours[name], ground) >= 4.5 for name in ("figure-ink", "figure-muted", "figure-link"))


def test_the_style_sheet_knows_every_style():
    css = Path(finders.find("plots.css")).read_text(encoding="utf-8")
    for style in (*SERIES, *TONES.values()):
        assert f".figure .{style.colour} {{" in css
