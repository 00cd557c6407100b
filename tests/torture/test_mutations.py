from __future__ import annotations

from pathlib import Path

import pytest

from torture.mutations import MUTATIONS

SOURCES = Path(__file__).resolve().parents[2] / "src" / "discern"


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_finds_its_line(name):
    mutation = MUTATIONS[name]
    assert (SOURCES / mutation.file).read_text(encoding="utf-8").count(mutation.text) == 1
