from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from discern.reports.compare_page import write_compare_page
from discern.reports.comparison import compare
from discern.runs.folder import read_run
from discern.runs.thumbnails import Thumbnails, pixels_of, thumbnails
from made_runs import keep_test, made_run

LABELS = [0, 1, 2] * 20


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [made_run(tmp_path / f"run{n}", tags=[f"tag{n}"]) for n in range(3)]
    for number, folder in enumerate(made[:2]):
        said = [(label + 1) % 3 if n % 7 == number else label for n, label in enumerate(LABELS)]
        keep_test(folder, LABELS, said, sure=0.6 + 0.1 * number)
    return made


def written(folders: list[Path], path: Path) -> tuple[str, dict[str, Any]]:
    """The page, and what its script is told."""
    write_compare_page(compare([read_run(folder) for folder in folders]), path)
    page = path.read_text()
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return page, json.loads(data)


def test_the_curves_of_all_runs_are_in_one_chart(folders, tmp_path):
    (folders[2] / "metrics.csv").unlink()
    page, data = written(folders, tmp_path / "page.html")
    assert set(data["charts"]) == {"val-loss", "val-accuracy", "train-loss"}
    one, other, none = data["charts"]["val-loss"]["series"]
    assert (one["name"], other["name"]) == ("A run0", "B run1")
    assert one["points"] == [[1, 0.8], [2, 0.5]]
    assert none["points"] == []
    assert "<td>tag1</td>" in page


def test_disputed_images_are_shown_with_what_each_run_says(folders, tmp_path):
    page, _ = written(folders[:2], tmp_path / "page.html")
    shown = re.findall(r'aria-label="true (\w+); A: (\w+), (\d+) %; B: (\w+), (\d+) %"', page)
    assert len(shown) == 18  # each of the sixty that one of the two has wrong
    assert all(label in (first, second) and first != second for label, first, _, second, _ in shown)
    assert {(sure, other) for _, _, sure, _, other in shown} == {("60", "70")}
    # A right class at 70 % and at 20 % is further apart than one at 15 % and at 60 %.
    assert [label == second for label, _, _, second, _ in shown] == [True] * 9 + [False] * 9
    assert page.count("data:image/png;base64") == 1


def test_without_a_common_test_there_is_no_such_section(folders, tmp_path):
    page, _ = written(folders[1:], tmp_path / "page.html")
    assert 'id="disputed"' not in page
    assert 'id="pairs"' not in page
    assert "B has no predictions for the test images" in page


@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (4, 3, 32, 32), (1, 1, 8, 8)])
def test_pictures_of_small_images_come_back_as_they_were(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    back = pixels_of(thumbnails(np.arange(len(pixels)), pixels))
    assert np.array_equal(back, pixels)


def test_pictures_of_larger_images_come_back_smaller():
    pixels = np.full((3, 3, 200, 100), 77, np.uint8)
    back = pixels_of(thumbnails(np.arange(3), pixels))
    assert back.shape == (3, 3, 96, 96)
    assert abs(int(back[1, 0, 48, 48]) - 77) < 5


@pytest.mark.parametrize(("cut", "rows", "columns"), [(20, 5, 3), (None, 50, 3), (None, 5, 0)])
def test_pictures_that_make_no_sense_are_refused(cut, rows, columns):
    made = thumbnails(np.arange(5), np.zeros((5, 1, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"pictures|PNG"):
        pixels_of(Thumbnails(np.arange(rows), made.picture[:cut], columns))
