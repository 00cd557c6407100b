from __future__ import annotations

import itertools
import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from discern.runs.state import State
from discern.sweeps.picture import draw_sweep
from discern.sweeps.ranking import is_geometric
from discern.sweeps.rows import Objective, Row

LOSS = Objective("val/loss", "minimize")
ACCURACY = Objective("val/accuracy", "maximize")


def grid(failed=(), pruned=(), **axes) -> list[Row]:
    """A job for each combination; the loss of job n is (n + 1) / 10, the accuracy the same."""
    rows = []
    for number, values in enumerate(itertools.product(*axes.values())):
        state = State.PRUNED if number in pruned else State.DONE
        value = None if number in failed else (number + 1) / 10
        rows.append(
            Row(
                number,
                Path(f"{number}"),
                dict(zip(axes, values, strict=True)),
                State.FAILED if number in failed else state,
                {"val/loss": value, "val/accuracy": value},
            )
        )
    return rows


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws, looks whether all of it is on the page, and gives the figure."""
    figures = []
    save = Figure.savefig

    def keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(rows, objective=LOSS, title="a sweep"):
        figures.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw_sweep(rows, objective, title, tmp_path / "sweep.png")
        (figure,) = figures
        assert_uncut(figure)
        return figure

    return draw


def assert_uncut(figure: Figure) -> None:
    # The file had other dots per inch than the figure, and what was laid out last has its places.
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    page = figure.bbox
    for text in figure.findobj(Text):
        # A tick outside of the limits is not drawn.
        if text.get_visible() and text.get_text() and is_shown(text):
            box = text.get_window_extent(renderer)
            assert box.x0 >= page.x0 - 1, text
            assert box.y0 >= page.y0 - 1, text
            assert box.x1 <= page.x1 + 1, text
            assert box.y1 <= page.y1 + 1, text


def is_shown(text: Text) -> bool:
    for axes in text.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if text in (tick.label1, tick.label2):
                    low, high = sorted(axis.get_view_interval())
                    return low <= tick.get_loc() <= high
    return True


def legend(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def points(axes, label) -> list[tuple[float, float]]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return list(zip(*map(list, line.get_data()), strict=True))


def test_one_numeric_parameter_is_a_line_over_it(drawn):
    figure = drawn(grid(lr=["0.1", "1e-3", "0.01"]))
    (axes,) = figure.axes
    assert figure.get_suptitle() == "a sweep"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "val/loss (less is better)")
    assert axes.get_xscale() == "log"
    joined = axes.get_lines()[0]
    assert list(joined.get_xdata()) == [0.001, 0.01, 0.1]
    assert list(joined.get_ydata()) == [0.2, 0.3, 0.1]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1e-3", "0.01", "0.1"]
    assert legend(figure) == ["job", "best: 0.1000 at lr=0.1"]
    assert points(axes, "best: 0.1000 at lr=0.1") == [(0.1, 0.1)]


def test_more_can_be_better(drawn):
    figure = drawn(grid(width=["10", "20", "30"]), ACCURACY)
    assert figure.axes[0].get_ylabel() == "val/accuracy (more is better)"
    assert figure.axes[0].get_xscale() == "linear"
    assert legend(figure)[-1] == "best: 0.3000 at width=30"


def test_seeds_are_points_with_their_mean_and_deviation(drawn):
    rows = grid(lr=["1", "2"], seed=["0", "1", "2"], pruned=(1,), failed=(5,))
    figure = drawn(rows)
    (axes,) = figure.axes
    assert sorted(points(axes, "job")) == [(1, 0.1), (1, 0.3), (2, 0.4), (2, 0.5)]
    assert points(axes, "pruned job") == [(1, 0.2)]
    (bars,) = axes.containers
    assert bars[0].get_ydata() == pytest.approx([0.2, 0.45])
    segments = bars[2][0].get_segments()
    assert np.ptp(segments[0][:, 1]) == pytest.approx(0.2)
    assert legend(figure)[-1] == "best: 0.2000 ± 0.10 at lr=1"


def test_values_without_a_job_that_has_one_are_crosses(drawn):
    axes = drawn(grid(lr=["1", "2", "3"], failed=(1,))).axes[0]
    assert points(axes, "no value") == [(2, 0.03)]


def test_a_zero_among_powers_stands_apart(drawn):
    axes = drawn(grid(weight_decay=["0", "1e-4", "1e-3", "1e-2"])).axes[0]
    assert axes.get_xscale() == "symlog"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1e-4", "1e-3", "1e-2"]


def test_many_values_are_points_without_a_line(drawn):
    draw = random.Random(0).uniform
    figure = drawn(grid(lr=[repr(10 ** draw(-5, -1)) for _ in range(200)]))
    labels = [line.get_label() for line in figure.axes[0].get_lines()]
    assert labels == ["job", "best: 0.1000 at lr=" + labels[1].split("=")[-1]]
    assert len(labels[1]) < 40


def test_a_categorical_parameter_is_a_list_best_on_top(drawn):
    names = ["mlp", "$x$_y", "an_uncommonly_long_name_of_a_model_that_somebody_has_made_up"]
    figure = drawn(grid(model=names, seed=["0", "1"], failed=(0, 1)))
    (axes,) = figure.axes
    shown = [tick.get_text() for tick in axes.get_yticklabels()]
    assert shown[0] == "$x$_y"
    assert shown[1].startswith("an_uncommonly_long")
    assert shown[2] == "mlp"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert axes.get_ylabel() == "model"
    (right,) = axes.child_axes
    means = [tick.get_text() for tick in right.get_yticklabels()]
    assert means == ["0.3500 ± 0.071", "0.5500 ± 0.071", "no value"]
    assert sorted(points(axes, "job")) == [(0.3, 0), (0.4, 0), (0.5, 1), (0.6, 1)]


def test_a_long_list_ends(drawn):
    (axes,) = drawn(grid(model=[f"m{number}" for number in range(250)])).axes
    assert axes.get_ylabel() == "model (best 200 of 250)"
    assert len(axes.get_yticklabels()) == 200


def test_seeds_alone_are_a_list_with_their_mean(drawn):
    figure = drawn(grid(seed=["3", "1", "2"]))
    assert figure.axes[0].get_ylabel() == "seed"
    assert "mean (0.2000)" in legend(figure)


def cells(axes) -> np.ndarray:
    (mesh,) = [artist for artist in axes.collections if isinstance(artist, QuadMesh)]
    return np.ma.filled(mesh.get_array(), np.nan).tolist()


def test_two_numeric_parameters_are_a_heat_map(drawn):
    figure = drawn(grid(**{"optimizer.lr": ["0.1", "0.01", "1"], "n": ["32", "16"]}, failed=(5,)))
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "n")
    assert bar.get_ylabel() == "val/loss (less is better)"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.01", "0.1", "1"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["16", "32"]
    assert cells(axes) == [[0.4, 0.2, pytest.approx(np.nan, nan_ok=True)], [0.3, 0.1, 0.5]]
    assert sorted(texts(axes)) == ["0.100", "0.200", "0.300", "0.400", "0.500"]
    marked = {patch.get_label(): patch for patch in axes.patches if isinstance(patch, Rectangle)}
    assert marked["no value"].get_xy() == (1.5, -0.5)
    assert marked["no value"].get_hatch()
    assert marked["best: 0.1000 at lr=0.1, n=32"].get_xy() == (0.5, 0.5)


def test_cells_are_means_over_seeds(drawn):
    axes = drawn(grid(a=["1", "2"], b=["1", "2"], seed=["0", "1", "2"])).axes[0]
    assert texts(axes)[0] == "0.200\n± 0.10"
    assert np.allclose(cells(axes), [[0.2, 0.8], [0.5, 1.1]])


def test_one_value_typed_in_two_ways_is_one_cell_with_the_better(drawn):
    axes = drawn(grid(a=["0.1", "1e-1", "2"], b=["1", "2"])).axes[0]
    assert np.allclose(cells(axes), [[0.1, 0.5], [0.2, 0.6]])


def test_two_numeric_parameters_that_are_no_grid_are_points(drawn):
    draw = random.Random(0).uniform
    rows = [
        Row(n, Path(f"{n}"), {"lr": repr(10 ** draw(-5, -1)), "p": repr(draw(0, 1))}, State.DONE,
            {"val/loss": draw(0.1, 1)})
        for n in range(30)
    ]  # fmt: skip
    axes, bar = drawn([*rows, Row(30, Path("30"), {"lr": "1e-3", "p": "0.5"}, State.FAILED)]).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    (scatter,) = [found for found in axes.collections if isinstance(found, PathCollection)]
    assert len(scatter.get_offsets()) == 30
    assert points(axes, "no value") == [(0.001, 0.5)]
    assert bar.get_ylabel() == "val/loss (less is better)"


def lines(axes) -> list[np.ndarray]:
    (found,) = [artist for artist in axes.collections if isinstance(artist, LineCollection)]
    return found.get_segments()


@pytest.mark.parametrize(
    "axes",
    [
        {"model": ["mlp", "cnn"], "lr": ["0.1", "0.01"]},
        {"a": ["1", "2"], "b": ["1", "3"], "c": ["0.1", "10"]},
        {"model": ["mlp", "cnn"], "act": ["relu", "gelu"], "seed": ["0", "1"]},
    ],
    ids=["mixed", "three", "categorical"],
)
def test_others_are_parallel_coordinates(drawn, axes):
    rows = grid(**axes, failed=(0, 1))
    figure = drawn(rows)
    panel, bar = figure.axes
    names = [name for name in axes if name != "seed"]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == names
    assert set(texts(panel)) == {value for name in names for value in axes[name]}
    assert bar.get_ylabel() == "val/loss (less is better)"
    found = lines(panel)
    assert len(found) == (3 if "seed" in axes else len(rows) - 2)
    # They end where the colour bar says: the worst was drawn first.
    assert [line[-1][1] for line in (found[0], found[-1])] == [1, 0]
    assert legend(figure)[0] == "no value"
    assert legend(figure)[-1].startswith("best: ")


def test_lines_that_share_a_value_are_told_apart(drawn):
    rows = grid(model=["mlp", "cnn"], lr=["0.1", "0.01"])
    starts = [line[0][1] for line in lines(drawn(rows).axes[0])]
    assert len(set(starts)) == 4
    cnn, mlp = sorted(starts)[:2], sorted(starts)[2:]
    assert max(cnn) < 0.3 < 0.7 < min(mlp)


def test_200_jobs_of_many_parameters_stay_on_the_page(drawn):
    choose = random.Random(0)
    rows = [
        Row(
            number,
            Path(f"{number}"),
            {
                "optimizer.lr": repr(10 ** choose.uniform(-5, -1)),
                "model": choose.choice([f"a_model_with_a_long_name_{n}" for n in range(50)]),
                "weight_decay_of_the_head_only": choose.choice(["0", "1e-4", "1e-2"]),
                **{f"p{n}": choose.choice(["null", "5", "10"]) for n in range(6)},
            },
            State.DONE,
            {"val/loss": choose.lognormvariate(0, 3)},
        )
        for number in range(200)
    ]
    figure = drawn(rows, title="a title that is long " * 12)
    assert len(lines(figure.axes[0])) == 200
    assert "\n" in figure.get_suptitle()


@pytest.mark.parametrize("others", [{}, {"n": ["1", "2"]}, {"model": ["a", "b"]}], ids=len)
def test_long_names_are_broken(drawn, others):
    metric = "val/an_objective_whose_name_is_longer_than_the_axis_that_it_is_of"
    axes = {"a.parameter_whose_name_is_longer_than_the_axis_that_it_is_of": ["1", "2", "3"]}
    rows = [
        Row(row.number, row.folder, row.overrides, row.state, {metric: 1.0})
        for row in grid(**axes, **others)
    ]
    figure = drawn(rows, Objective(metric, "minimize"))
    assert any("\n" in axes.get_ylabel() for axes in figure.axes)


@pytest.mark.parametrize("rows", [[], grid(lr=["1", "2"], failed=(0, 1))], ids=["none", "failed"])
def test_without_a_value_the_picture_says_so(drawn, rows):
    (text,) = texts(drawn(rows).axes[0])
    assert text.startswith("No job has a value of val/loss.")
    assert ("2 failed" if rows else "no jobs") in text


@pytest.mark.parametrize(
    "axes",
    [
        {},
        {"lr": ["0.1"]},
        {"seed": ["1"]},
        {"model": ["mlp"]},
        {"lr": ["0.1"], "n": ["32"]},
        {"lr": ["0.1"], "n": ["0"], "p": ["-1"]},
        {"lr": ["0.1"], "model": ["mlp"]},
    ],
    ids=lambda axes: "+".join(axes) or "nothing",
)
def test_one_job_is_enough(drawn, axes):
    assert legend(drawn(grid(**axes)))[-1].startswith("best: 0.1000")


def test_a_setting_that_some_jobs_lack_is_categorical(drawn):
    rows = [*grid(lr=["0.1", "0.2"]), Row(2, Path("2"), {}, State.DONE, {"val/loss": 0.5})]
    labels = [tick.get_text() for tick in drawn(rows).axes[0].get_yticklabels()]
    assert labels == ["0.1", "0.2", "–"]


def test_the_same_rows_give_the_same_file(tmp_path):
    rows = grid(model=["mlp", "cnn"], lr=["0.1", "0.01"], failed=(2,))
    for name in ("a.png", "b.png"):
        draw_sweep(rows, LOSS, "title", tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    width, height = struct.unpack(">2I", first[16:24])
    assert min(width, height) >= 500


@pytest.mark.parametrize(
    ("values", "geometric"),
    [
        ([0.1, 0.01], True),
        ([0.1, 0.02], False),
        ([16, 32, 64], True),
        ([1, 2, 3, 4], False),
        ([10, 20, 30, 40, 50, 60, 70, 80, 90, 100], False),
        ([0, 1e-4, 1e-3], True),
        ([0, 0.25, 0.5], False),
        ([-1, 10, 100], False),
        ([5], False),
        ([0, 5], False),
        ([], False),
    ],
)
def test_an_axis_is_logarithmic_where_values_are(values, geometric):
    assert is_geometric(values) == geometric


@given(st.floats(1e-6, 1e6), st.floats(2.5, 100), st.integers(3, 9))
def test_geometric_series_are_geometric_and_arithmetic_ones_are_not(start, factor, count):
    assert is_geometric([start * factor**place for place in range(count)])
    assert not is_geometric([start * (1 + (factor - 1) * place) for place in range(count)])


def test_folds_alone_are_a_list_in_their_order_with_their_mean(drawn):
    rows = [
        Row(n, Path(f"{n}"), {"data.fold": str(n)}, State.DONE, {"val/loss": value})
        for n, value in enumerate((0.5, 0.3, 0.4))
    ]
    (axes,) = drawn(rows).axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "1", "2"]
    labels = axes.get_legend_handles_labels()[1]
    assert "0.4000 ± 0.10 over 3 folds" in labels
    assert not any("best" in label for label in labels)


def test_a_fold_is_no_parameter(drawn):
    rows = [
        Row(n, Path(f"{n}"), {"lr": lr, "data.fold": fold}, State.DONE, {"val/loss": 0.1 * n})
        for n, (lr, fold) in enumerate((lr, fold) for lr in ("1", "2", "3") for fold in "01")
    ]
    axes = drawn(rows).axes[0]
    assert axes.get_xlabel() == "lr"
    (label,) = [each for each in axes.get_legend_handles_labels()[1] if each.startswith("best")]
    assert "at lr=1" in label
    assert "fold" not in label
