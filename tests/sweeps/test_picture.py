from __future__ import annotations

import itertools
import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from discern.runs.state import State
from discern.sweeps.picture import draw_sweep
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


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(axes, axis: str) -> list[str]:
    return [tick.get_text() for tick in getattr(axes, f"get_{axis}ticklabels")()]


def bars(axes) -> list[float]:
    return [bar.get_width() for bar in axes.patches]


def test_one_numeric_setting_is_a_line_over_it(drawn):
    figure = drawn(grid(**{"optimizer.lr": ["0.1", "1e-3", "0.01"]}))
    (axes,) = figure.axes
    assert figure.get_suptitle() == "a sweep\nbest: 0.1000 at lr=0.1"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "val/loss (less is better)")
    assert axes.get_xscale() == "log"
    joined, *_, best = axes.get_lines()
    assert joined.get_xydata().tolist() == [[0.001, 0.2], [0.01, 0.3], [0.1, 0.1]]
    assert best.get_xydata().tolist() == [[0.1, 0.1]]
    assert ticks(axes, "x") == ["1e-3", "0.01", "0.1"]


def test_more_can_be_better(drawn):
    figure = drawn(grid(width=["10", "20", "30"]), ACCURACY)
    assert figure.axes[0].get_ylabel() == "val/accuracy (more is better)"
    assert figure.axes[0].get_xscale() == "linear"
    assert figure.get_suptitle().endswith("best: 0.3000 at width=30")


def test_seeds_and_folds_are_a_mean_with_its_deviation(drawn):
    rows = grid(**{"lr": ["1", "2"], "data.fold": ["0", "1", "2"]}, pruned=(1,), failed=(5,))
    figure = drawn(rows)
    (errors,) = figure.axes[0].containers
    assert errors[0].get_ydata() == pytest.approx([0.2, 0.45])
    assert np.ptp(errors[2][0].get_segments()[0][:, 1]) == pytest.approx(0.2)
    assert figure.get_suptitle().endswith("best: 0.2000 ± 0.10 at lr=1")


def test_a_zero_among_powers_stands_apart(drawn):
    axes = drawn(grid(weight_decay=["0", "1e-4", "1e-3", "1e-2"])).axes[0]
    assert axes.get_xscale() == "symlog"
    assert ticks(axes, "x") == ["0", "1e-4", "1e-3", "1e-2"]


def test_many_values_are_points_without_a_line(drawn):
    draw = random.Random(0).uniform
    figure = drawn(grid(lr=[repr(10 ** draw(-5, -1)) for _ in range(200)]))
    assert [line.get_linestyle() for line in figure.axes[0].get_lines()[:1]] == ["None"]


def test_words_are_bars_best_on_top(drawn):
    names = ["mlp", "$x$_y", "an_uncommonly_long_name_of_a_model_that_somebody_has_made_up"]
    (axes,) = drawn(grid(model=names, seed=["0", "1"], failed=(0, 1))).axes
    assert [label[:20] for label in ticks(axes, "y")] == ["model=$x$_y", "model=an_uncommonly_"]
    assert bars(axes) == pytest.approx([0.35, 0.55])
    assert texts(axes) == ["0.3500 ± 0.071", "0.5500 ± 0.071"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


@pytest.mark.parametrize(
    "axes",
    [
        {"a": ["1", "2"], "b": ["1", "3"], "c": ["0.1", "10"]},
        {"model": ["mlp", "cnn"], "act": ["relu", "gelu"], "lr": ["0.1"], "n": ["1", "2"]},
    ],
    ids=["numbers", "mixed"],
)
def test_three_settings_are_bars(drawn, axes):
    (panel,) = drawn(grid(**axes, failed=(0,))).axes
    assert bars(panel) == pytest.approx([n / 10 for n in range(2, 9)])
    names = [name for name in axes if len(axes[name]) > 1]
    assert ticks(panel, "y")[0] == ", ".join(
        f"{name}={axes[name][0 if name != names[-1] else 1]}" for name in names
    )


def test_a_long_list_ends(drawn):
    (axes,) = drawn(grid(model=[f"m{number}" for number in range(250)])).axes
    assert axes.get_ylabel() == "the best 40 of 250"
    assert len(bars(axes)) == 40


def test_far_apart_values_are_on_a_logarithmic_scale(drawn):
    rows = [
        Row(n, Path(f"{n}"), {"model": f"m{n}"}, State.DONE, {"val/loss": 10.0**n})
        for n in range(4)
    ]
    assert drawn(rows).axes[0].get_xscale() == "log"


def test_seeds_alone_are_bars_with_their_mean(drawn):
    figure = drawn(grid(seed=["3", "1", "2"]))
    assert ticks(figure.axes[0], "y") == ["seed=3", "seed=1", "seed=2"]
    assert figure.get_suptitle().endswith("val/loss: 0.2000 ± 0.10 (mean ± sd over 3 seeds)")
    assert figure.axes[0].get_lines()[-1].get_xdata() == pytest.approx([0.2, 0.2])


def test_folds_alone_are_bars_in_their_order_and_none_is_the_best(drawn):
    rows = [
        Row(n, Path(f"{n}"), {"data.fold": str(n)}, State.DONE, {"val/loss": value})
        for n, value in enumerate((0.5, 0.3, 0.4))
    ]
    figure = drawn(rows)
    assert bars(figure.axes[0]) == [0.5, 0.3, 0.4]
    assert len({bar.get_facecolor() for bar in figure.axes[0].patches}) == 1
    assert "over 3 folds" in figure.get_suptitle()
    assert "best" not in figure.get_suptitle()


def cells(axes) -> np.ndarray:
    (mesh,) = [artist for artist in axes.collections if isinstance(artist, QuadMesh)]
    return np.ma.filled(mesh.get_array(), np.nan)


def test_two_settings_are_a_heat_map(drawn):
    figure = drawn(grid(**{"optimizer.lr": ["0.1", "0.01", "1"], "n": ["32", "16"]}, failed=(5,)))
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("lr", "n")
    assert bar.get_ylabel() == "val/loss (less is better)"
    assert (ticks(axes, "x"), ticks(axes, "y")) == (["0.01", "0.1", "1"], ["16", "32"])
    assert np.allclose(cells(axes), [[0.4, 0.2, np.nan], [0.3, 0.1, 0.5]], equal_nan=True)
    assert sorted(texts(axes)) == ["0.100", "0.200", "0.300", "0.400", "0.500"]
    (frame,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frame.get_xy() == (1, 1)


def test_words_are_sides_of_a_heat_map_too(drawn):
    axes = drawn(grid(model=["mlp", "cnn"], lr=["0.1", "0.01"])).axes[0]
    assert ticks(axes, "x") == ["cnn", "mlp"]


def test_cells_are_means_over_seeds(drawn):
    axes = drawn(grid(a=["1", "2"], b=["1", "2"], seed=["0", "1", "2"])).axes[0]
    assert texts(axes)[0] == "0.200\n± 0.10"
    assert np.allclose(cells(axes), [[0.2, 0.8], [0.5, 1.1]])


def test_one_value_typed_in_two_ways_is_one_cell_with_the_better(drawn):
    axes = drawn(grid(a=["0.1", "1e-1", "2"], b=["1", "2"])).axes[0]
    assert np.allclose(cells(axes), [[0.1, 0.5], [0.2, 0.6]])
    assert len(texts(axes)) == 4


def test_two_settings_that_are_no_grid_are_bars(drawn):
    draw = random.Random(0).uniform
    rows = [
        Row(n, Path(f"{n}"), {"lr": repr(10 ** draw(-5, -1)), "p": repr(draw(0, 1))}, State.DONE,
            {"val/loss": draw(0.1, 1)})
        for n in range(30)
    ]  # fmt: skip
    (axes,) = drawn(rows).axes
    assert bars(axes) == sorted(row.values["val/loss"] for row in rows)


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
    assert len(bars(figure.axes[0])) == 40


@pytest.mark.parametrize("others", [{}, {"n": ["1", "2"]}, {"a": ["a", "b"], "b": ["1", "2"]}])
def test_long_names_stay_on_the_page(drawn, others):
    metric = "val/an_objective_whose_name_is_longer_than_the_axis_that_it_is_of"
    axes = {"a.parameter_whose_name_is_longer_than_the_axis_that_it_is_of": ["1", "2", "3"]}
    rows = [
        Row(row.number, row.folder, row.overrides, row.state, {metric: 1.0})
        for row in grid(**axes, **others)
    ]
    drawn(rows, Objective(metric, "minimize"))


@pytest.mark.parametrize("rows", [[], grid(lr=["1", "2"], failed=(0, 1))], ids=["none", "failed"])
def test_without_a_value_the_picture_says_so(drawn, rows):
    assert drawn(rows).get_suptitle().endswith("No job has a value of val/loss.")


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
    assert "best: 0.1000 at " in drawn(grid(**axes)).get_suptitle()


def test_a_setting_that_some_jobs_lack_is_a_word(drawn):
    rows = [*grid(lr=["0.1", "0.2"]), Row(2, Path("2"), {}, State.DONE, {"val/loss": 0.5})]
    assert ticks(drawn(rows).axes[0], "y") == ["lr=0.1", "lr=0.2", "lr=–"]


def test_the_same_rows_give_the_same_file(tmp_path):
    rows = grid(model=["mlp", "cnn"], lr=["0.1", "0.01"], failed=(2,))
    for name in ("a.png", "b.png"):
        draw_sweep(rows, LOSS, "title", tmp_path / name)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    width, height = struct.unpack(">2I", first[16:24])
    assert min(width, height) >= 300
