from __future__ import annotations

import json
import math
import re

from hypothesis import given
from hypothesis import strategies as st

from discern.reports.page import as_json, duration, size

TEXTS = st.text() | st.sampled_from(["</script>", "<!--", "]]>", "&lt;", "\u2028"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | TEXTS,
    lambda inside: st.lists(inside) | st.dictionaries(TEXTS, inside),
)


@given(VALUES)
def test_data_survives_in_a_script_element_and_cannot_end_it(value):
    text = str(as_json(value))
    assert not re.search(r"[<>&\u2028\u2029]", text)
    assert json.loads(text) == value


def test_what_is_no_number_is_null():
    assert json.loads(as_json({"a": [math.nan, math.inf, 0.5]})) == {"a": [None, None, 0.5]}


def test_times_and_sizes_are_as_people_say_them():
    assert [duration(s) for s in (0.04, 59.94, 61, 3600, 7384)] == [
        "0.0 s", "59.9 s", "1 min 1 s", "1 h 0 min", "2 h 3 min",
    ]  # fmt: skip
    assert [size(b) for b in (0, 999, 1500, 2.5e6, 3e12)] == [
        "0 bytes", "999 bytes", "1.5 kB", "2.5 MB", "3000.0 GB",
    ]  # fmt: skip
