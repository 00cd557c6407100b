from __future__ import annotations

import pytest

from discern.reports.lettering import distinct, shortened, width_of, wrapped

LONG = "golden retriever with a rather long name"


def test_a_width_is_that_of_the_longest_line_and_grows_with_the_font():
    assert width_of("wide\ni", 8) == width_of("wide", 8)
    assert width_of("wide", 16) == pytest.approx(2 * width_of("wide", 8), rel=0.1)
    assert width_of("wide", 8, "bold") > width_of("wide", 8) > width_of("illi", 8)


@pytest.mark.parametrize("text", [LONG, "x" * 90, "Ж" * 50, "ab\ncd " * 9])
@pytest.mark.parametrize("width", [0.3, 1.0])
def test_a_text_is_shortened_in_its_middle_to_the_width_and_stays_on_one_line(text, width):
    short = shortened(text, width, 8)
    assert width_of(short, 8) <= width
    head, _, tail = short.partition("…")
    line = " ".join(text.split())
    assert line.startswith(head)
    assert line.endswith(tail)
    assert abs(len(head) - len(tail)) <= 1
    assert shortened("short", width, 8) == "short"


def test_an_accent_stays_with_its_letter():
    short = shortened("e\u0301" * 30, 0.5, 8)
    assert short.replace("e\u0301", "") == "…"


def test_a_long_name_is_wrapped_between_words_and_shortened_if_it_must():
    lines = wrapped(LONG, 1.3, 8, lines=2).split("\n")
    assert " ".join(lines) == LONG
    lines = wrapped(LONG, 0.9, 8, lines=2).split("\n")
    assert len(lines) == 2
    assert all(width_of(line, 8) <= 0.9 for line in lines)
    assert wrapped("ship", 1, 8, lines=2) == "ship"


def test_names_that_differ_in_the_middle_still_differ_when_shortened():
    names = [f"{LONG} {middle} {LONG}" for middle in ("one", "two")]
    shown = distinct([*names, "ship"], 1.2, 8)
    assert len(set(shown)) == 3
    assert [text[-3:] for text in shown] == [" #0", " #1", "hip"]
    assert all(width_of(text, 8) <= 1.2 for text in shown)
