"""Texts from files as Markdown and YAML."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from discern.reports.markdown import code, escaped, front_matter, table

HOSTILE = [
    "a|b", "<script>alert(1)</script>", "[x](javascript:alert(1))", "![x](http://a/b.png)", "a\nb",
    "`code`", "$x$", "**bold**", "@someone", "https://example.org", "www.example.org", "&lt;", "#1",
    "a\r\n---\r\nb", "\\|", "<!-- x", "~~~", "\u202e", "| --- |",
]  # fmt: skip


def test_a_table_has_its_cells_whatever_they_hold():
    lines = table(["one", "two"], [[text, "2"] for text in HOSTILE]).split("\n")
    assert len(lines) == 2 + len(HOSTILE)
    for line in lines:
        bare = line.replace("\\\\", "").replace("\\|", "")
        assert bare.count("|") == 3


@given(st.text(max_size=50))
def test_no_character_is_left_with_a_meaning(text):
    shown = escaped(text)
    assert "\n" not in shown
    assert "<" not in shown
    bare = shown.replace("\\\\", "")
    for character in "`*_[]|$@":
        assert bare.count(character) == bare.count(f"\\{character}")


def test_a_block_of_code_ends_where_it_ends():
    block = code("a\n```\n````\nb", "sh")
    assert block.startswith("`````sh\n")
    assert block.endswith("\n`````")


@given(st.dictionaries(st.sampled_from("abc"), st.text("a-:#\"'|>{}[]%@&*! ", max_size=20)))
def test_a_header_is_read_as_it_was(values):
    text = front_matter(values)
    begin, inside, end = text.partition("---\n")[0], text[4:-3], text[-3:]
    assert (begin, end) == ("", "---")
    assert yaml.safe_load(inside) == values
    assert "\n---" not in inside
