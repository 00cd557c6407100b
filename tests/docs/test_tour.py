"""docs/tour.ipynb runs, cell by cell, without a network and from any folder."""

from __future__ import annotations

import sys

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from pages import DOCS, program

TOUR = DOCS / "tour.ipynb"


@pytest.fixture(autouse=True)
def _single_threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_every_cell_of_the_tour_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest's workers have it, and the lines are long
    notebook = program("tour").execute(TOUR, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [
        output.data["text/html"] for output in outputs if "text/html" in output.get("data", {})
    ]
    assert len(pages) == 6
    assert all('src="data:image/png;base64,' in page for page in pages)
    shown = "".join(output.text for output in outputs if output.output_type == "stream")
    # A line an epoch, once; the bars are gone.
    assert shown.count("epoch 1   train loss") == 2
    assert "\r" not in shown
    assert "images/s]" not in shown
    assert [output.name for output in outputs if output.get("name") == "stderr"] == []
    assert not any(output.get("data", {}).get("text/plain") == "" for output in outputs)


def test_a_cell_that_fails_fails(tmp_path):
    cells = [nbformat.v4.new_code_cell("import sys, discern; print(sys.executable)"),
             nbformat.v4.new_code_cell("discern.compose(['model=mpl'])")]  # fmt: skip
    path = tmp_path / "broken.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(CellExecutionError, match="did you mean mlp"):
        program("tour").execute(path, tmp_path)


def test_the_kernel_is_this_python(tmp_path):
    path = tmp_path / "which.ipynb"
    cell = nbformat.v4.new_code_cell("import sys; print(sys.executable, end='')")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook.metadata["kernelspec"] = {"name": "another", "display_name": "Another"}
    nbformat.write(notebook, path)
    done = program("tour").execute(path, tmp_path)
    assert done.cells[0].outputs[0].text == sys.executable


def test_the_tour_is_committed_with_its_outputs_and_names_no_machine():
    text = TOUR.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert len(text) < 1_000_000
    for place in ("/home/", "/root/", "/tmp/", "/Users/", "site-packages"):
        assert place not in text
