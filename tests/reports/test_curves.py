from __future__ import annotations

import struct
import warnings

import pytest
from matplotlib.figure import Figure

from discern.reports.curves import draw_curves

ROWS = [
    {
        "epoch": epoch,
        "train/loss": 2.0 / epoch,
        "train/accuracy": 0.5 + 0.1 * epoch,
        "val/loss": 1.5 - 0.2 * epoch,
        "val/accuracy": 0.6 + 0.1 * epoch,
    }
    for epoch in range(1, 5)
]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws, and gives the panels by their first label."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(rows, best_epoch, title="mlp on MNIST sample"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw_curves(rows, best_epoch, title, tmp_path / "curves.png")
        (figure,) = figures
        return figure

    return draw


def lines(axes) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): tuple(map(list, line.get_data())) for line in axes.get_lines()}


def test_loss_and_accuracy_of_training_and_validation_are_drawn(drawn):
    figure = drawn(ROWS, best_epoch=3)
    for axes, metric in zip(figure.axes, ("loss", "accuracy"), strict=True):
        found = lines(axes)
        assert found["training"] == ([1, 2, 3, 4], [row[f"train/{metric}"] for row in ROWS])
        assert found["validation"] == ([1, 2, 3, 4], [row[f"val/{metric}"] for row in ROWS])
        assert found["best epoch (3)"][0] == [3, 3]
        shown = {text.get_text() for text in axes.get_legend().get_texts()}
        assert shown == {"training", "validation", "best epoch (3)"}


def test_it_can_be_read_by_itself(drawn, tmp_path):
    figure = drawn(ROWS, best_epoch=1, title="mlp on MNIST sample")
    assert figure.get_suptitle() == "mlp on MNIST sample"
    assert [axes.get_xlabel() for axes in figure.axes] == ["Epoch", "Epoch"]
    loss, accuracy = (axes.get_ylabel().lower() for axes in figure.axes)
    assert loss.startswith("loss (")
    assert accuracy.startswith("accuracy (")
    content = (tmp_path / "curves.png").read_bytes()
    width, height = struct.unpack(">2I", content[16:24])
    assert content.startswith(b"\x89PNG")
    assert width > 2 * height * 0.8
    assert width >= 1000


def test_without_validation_and_best_epoch_the_training_curve_stands_alone(drawn):
    rows = [{k: v for k, v in row.items() if not k.startswith("val/")} for row in ROWS]
    figure = drawn(rows, best_epoch=None)
    assert list(lines(figure.axes[0])) == ["training"]


def test_a_validation_every_other_epoch_has_points_there_only(drawn):
    rows = [
        row if row["epoch"] % 2 == 0 else {k: row[k] for k in row if "val" not in k} for row in ROWS
    ]
    figure = drawn(rows, best_epoch=3)
    assert lines(figure.axes[0])["validation"][0] == [2, 4]


@pytest.mark.parametrize("rows", [[], ROWS[:1]], ids=["none", "one"])
def test_few_epochs_are_no_reason_to_warn(drawn, rows, tmp_path):
    drawn(rows, best_epoch=None)
    assert (tmp_path / "curves.png").stat().st_size > 5_000


def test_epochs_are_whole_numbers(drawn):
    axes = drawn(ROWS[:2], best_epoch=None).axes[0]
    low, high = axes.get_xlim()
    assert all(tick == round(tick) for tick in axes.get_xticks() if low <= tick <= high)


def test_no_label_is_over_a_curve(drawn):
    figure = drawn(ROWS, best_epoch=3, title="a title that is long, " * 12)
    for axes in figure.axes:
        legend = axes.get_legend().get_window_extent()
        assert legend.y0 >= axes.bbox.y1 - 1
        assert legend.x1 <= figure.bbox.x1
        assert legend.y1 <= figure._suptitle.get_window_extent().y0
