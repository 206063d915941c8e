"""The benchmark of forms trains with the code of client and enclave, and its page says what it found."""

import pytest

from bench.forms import FORMS, line_of, page
from qflare_protocol.aggregation_policy import Stage


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_learns(form: Stage) -> None:
    line = line_of(form, rounds=12, seeds=1)
    assert line.accuracy > (0.3 if form.parameters.get("fraction") == 0.1 else 0.8)


def test_the_page_compares_bytes_with_the_plain_delta() -> None:
    lines = [line_of(form, rounds=1, seeds=1) for form in (FORMS[0], FORMS[2])]
    assert lines[0].sealed_bytes - lines[1].sealed_bytes >= 2 * 2400
    assert f"| {lines[1].sealed_bytes:,} | 0.58 |" in page(lines, rounds=1, seeds=1)
