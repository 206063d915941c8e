"""What the tables, the plot and the page say of outcomes."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench.attacks import report
from bench.attacks.report import Result

SETTING = "non-iid, f = 4"


def result(pipeline, attack, accuracy, *, seed=0, backdoor=0.0):
    return Result(SETTING, pipeline, attack, seed, accuracy, backdoor)


RESULTS = [
    result("mean", "none", 0.92),
    result("mean", "inner product 0.1", 0.9),
    result("mean", "inner product 10", 0.1),
    result("mean", "sign flip", 0.7, seed=0),
    result("mean", "sign flip", 0.8, seed=1),
    result("mean", "replacement", 0.91, backdoor=1.0),
    result("<median>", "none", 0.9),
    result("<median>", "inner product 0.1", 0.8),
    result("<median>", "inner product 10", 0.85),
    result("<median>", "sign flip", 0.88),
    result("<median>", "replacement", 0.89, backdoor=0.02),
]


@pytest.fixture
def lines():
    return report.lines_by_setting(RESULTS)


def test_seeds_are_averaged_and_the_worst_attack_of_a_family_counts(lines):
    mean, median = lines[SETTING]
    assert mean.accuracy == pytest.approx({"sign flip": 0.75, "inner product": 0.1, "replacement": 0.91})
    assert (mean.attack_free, mean.worst_family, mean.worst) == (0.92, "inner product", 0.1)
    assert (median.worst, median.backdoor) == (0.8, {"replacement": 0.02})


def test_the_table_has_every_family_and_marks_the_best_worst_case(lines):
    head, ruler, mean, median = report.table(lines[SETTING]).splitlines()
    assert head == ("| pipeline | no attack | sign flip | inner product | replacement | worst | replacement: success |")
    assert ruler.count("---") == 7
    assert mean == "| mean | 92.0 | 75.0 | 10.0 | 91.0 | 10.0 | 100.0 |"
    assert median == "| <median> | 90.0 | 88.0 | 80.0 | 89.0 | **80.0** | 2.0 |"


def test_the_plot_is_well_formed_and_says_every_number(lines):
    drawn = ElementTree.fromstring(report.plot(lines, "<median>"))  # noqa: S314 - made a line above
    said = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")][1:]
    assert said == [
        "mean: 92.0% without an attack, 10.0% under inner product",
        "<median>: 90.0% without an attack, 80.0% under inner product",
    ]
    width, height = map(float, drawn.attrib["viewBox"].split()[2:])
    for circle in drawn.iter("{http://www.w3.org/2000/svg}circle"):
        assert 0 < float(circle.attrib["cx"]) < width
        assert 0 < float(circle.attrib["cy"]) < height


def test_a_page_keeps_what_stands_outside_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- begin tables -->\nold\n<!-- end tables -->\nbelow\n")
    for text in ("new", "newer"):
        report.put_between_marks(page, "tables", text)
        assert page.read_text() == f"above\n<!-- begin tables -->\n\n{text}\n\n<!-- end tables -->\nbelow\n"


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- begin tables -->\n")
    with pytest.raises(ValueError, match="no marks"):
        report.put_between_marks(page, "tables", "new")
    assert page.read_text() == "above\n<!-- begin tables -->\n"
