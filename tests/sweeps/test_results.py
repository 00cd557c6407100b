from __future__ import annotations

import csv
import json
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discern.runs.state import State
from discern.sweeps.names import short_names
from discern.sweeps.ranking import Spread
from discern.sweeps.results import (
    mean_and_sd,
    results_table,
    rounded,
    write_results,
)
from discern.sweeps.rows import Objective, Row

LOSS = Objective("val/loss", "minimize")
ACCURACY = Objective("val/accuracy", "maximize")
REASON = (
    "CUDA ran out of memory: a batch of 4096 pictures of 3x224x224 does not fit into the 2 GiB "
    "that are left on /device/with/quite/a/long/name/of/its/own."
)

ROWS = [
    Row(0, Path("out/0"), {"optimizer.lr": "0.1", "model": "mlp"}, State.DONE,
        {"val/loss": 0.51234567, "val/accuracy": 0.9}, 12, 31.26),
    Row(1, Path("out/1"), {"optimizer.lr": "10", "model": "mlp"}, State.FAILED, {}, None, None,
        REASON),
    Row(2, Path("out/2"), {"optimizer.lr": "0.01", "model": "[relu,gelu]"}, State.DONE,
        {"val/loss": 0.25, "val/accuracy": 0.8}, 10, 20.0, "It did not get better."),
    Row(3, Path("out/3"), {"optimizer.lr": "0.1", "model": "[relu,gelu]"}, State.WAITING),
]  # fmt: skip


def seeded() -> list[Row]:
    rows = []
    for lr, losses in (("0.1", (0.5, 0.6, None)), ("0.01", (0.2, 0.25, 0.3))):
        for seed, loss in enumerate(losses):
            state = State.FAILED if loss is None else State.DONE
            rows.append(
                Row(len(rows), Path(f"out/{len(rows)}"), {"optimizer.lr": lr, "seed": str(seed)},
                    state, {"val/loss": loss}, 10, 4.0, REASON if loss is None else "")
            )  # fmt: skip
    return rows


@pytest.fixture
def shown(monkeypatch):
    def show(rows, *objectives, columns=100) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        text = results_table(rows, objectives or [LOSS])
        assert max(map(len, text.splitlines())) <= columns
        return text

    return show


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_table_has_the_jobs_best_first(shown):
    head, _, *lines = words(shown(ROWS, LOSS, ACCURACY))
    assert head[:4] == ["rank", "job", "lr", "model"]
    assert head[4:] == ["val/loss", "val/accuracy", "epochs", "seconds", "state"]
    assert lines[0] == ["1", "2", "0.01", "[relu,gelu]", "0.2500", "0.8000", "10", "20", "done"]
    assert lines[1] == ["1", "0", "0.1", "mlp", "0.5123", "0.9000", "12", "31.3", "done"]
    assert lines[2] == ["–", "1", "10", "mlp", "–", "–", "–", "–", "failed"]
    assert lines[3] == ["–", "3", "0.1", "[relu,gelu]", "–", "–", "–", "–", "not", "run"]


@pytest.mark.parametrize("columns", [40, 60, 100, 200])
def test_reasons_are_complete_and_jobs_share_them(shown, columns):
    rows = [*ROWS, Row(4, Path("out/4"), {"optimizer.lr": "20"}, State.FAILED, reason=REASON)]
    flat = " ".join(shown(rows, columns=max(columns, 60)).split())
    assert f"jobs 1, 4 failed: {REASON}" in flat
    assert "did not get better" not in flat


def test_a_narrow_terminal_has_a_table_of_what_matters(shown):
    head, _, first, *rest = words(shown(ROWS, LOSS, ACCURACY, columns=66))
    assert head == ["rank", "job", "lr", "model", "val/loss", "val/accuracy", "state"]
    assert first == ["1", "2", "0.01", "[relu,gelu]", "0.2500", "0.8000", "done"]
    assert ["Not", "shown", "on", "this", "narrow", "terminal:", "seconds,", "epochs."] in rest


def test_a_terminal_too_narrow_for_a_table_has_lines_for_each_job(shown):
    text = shown(ROWS, LOSS, ACCURACY, columns=50)
    assert "…" not in text
    assert text.startswith(
        textwrap.dedent("""\
        1. val/loss 0.2500, val/accuracy 0.8000
           optimizer.lr=0.01 model=[relu,gelu]
           job 2: done, 10 epochs, 20 s
        1. val/loss 0.5123, val/accuracy 0.9000
           optimizer.lr=0.1 model=mlp
           job 0: done, 12 epochs, 31.3 s
        –  val/loss –, val/accuracy –
           optimizer.lr=10 model=mlp
           job 1: failed
        """)
    )


def test_an_ellipsis_of_the_settings_own_is_no_sign_of_a_cut(shown):
    rows = [Row(n, Path(f"{n}"), {"a": f"x…{n}"}) for n in range(2)]
    assert words(shown(rows))[0][:3] == ["rank", "job", "a"]


def test_seeds_are_summed_up(shown):
    head, _, best, other, *rest = words(shown(seeded()))
    assert head == ["rank", "lr", "val/loss", "n", "epochs", "seconds", "state"]
    assert best == ["1", "0.01", "0.2500", "±", "0.050", "3", "10", "12", "3", "done"]
    assert other[:5] == ["2", "0.1", "0.5500", "±", "0.071"]
    assert other[5:] == ["2", "10", "12", "2", "done,", "1", "failed"]
    assert ["job", "2", "failed:", "CUDA"] in [line[:4] for line in rest]
    head, _, best, *_ = words(shown(seeded(), columns=50))
    assert head == ["rank", "lr", "val/loss", "n", "state"]
    assert best == ["1", "0.01", "0.2500", "±", "0.050", "3", "3", "done"]


def test_seeds_alone_are_listed_and_summed_up(shown):
    lines = shown(seeded()[3:]).splitlines()
    assert lines[0].split()[:3] == ["rank", "job", "seed"]
    assert len(lines) == 6
    assert lines[-1] == "val/loss: 0.2500 ± 0.050 (mean ± sd over 3 seeds)"


def test_few_jobs_are_no_reason_to_fail(shown):
    assert words(shown([]))[0][0] == "rank"
    assert words(shown(ROWS[:1]))[2][:4] == ["1", "0", "0.1", "mlp"]
    assert words(shown(ROWS[1:2]))[2][0] == "–"
    assert words(shown([Row(0, Path("0"), {})]))[2][:2] == ["–", "0"]
    assert words(shown([Row(0, Path("0"), {}, State.DONE, {"val/loss": float("inf")})]))


def test_names_are_as_short_as_they_are_unique():
    assert short_names(["optimizer.lr", "model.dropout", "seed"]) == ["lr", "dropout", "seed"]
    assert short_names(["a.b.lr", "a.c.lr", "lr"]) == ["b.lr", "c.lr", "lr"]
    assert short_names([]) == []


@given(st.lists(st.from_regex(r"[ab](\.[ab]){0,3}", fullmatch=True), unique=True, max_size=6))
def test_short_names_stay_unique_ends_of_their_names(names):
    short = short_names(names)
    assert len(set(short)) == len(names)
    assert all(name.endswith(end) for name, end in zip(names, short, strict=True))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.9000"), (0.98765, "0.9877"), (12.0, "12.00"), (0.00012345, "0.0001234"),
        (1e-7, "1.000e-07"), (123456.0, "123456"), (0.0, "0"), (-0.5, "-0.5000"), (None, "–"),
        (float("inf"), "inf"), (5e-324, "4.941e-324"),
    ],
)  # fmt: skip
def test_values_have_four_digits(value, text):
    assert rounded(value) == text


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (Spread(3, 0.97321, 0.0021), "0.9732 ± 0.0021"),
        (Spread(3, 12.3456, 0.00031), "12.34560 ± 0.00031"),
        (Spread(1, 0.5, None), "0.5000"), (Spread(2, 0.5, 0.0), "0.5000 ± 0"),
        (Spread(0, None, None), "–"), (Spread(2, 0.0, 0.1), "0 ± 0.10"),
    ],
)  # fmt: skip
def test_a_mean_has_the_digits_that_its_deviation_leaves(spread, text):
    assert mean_and_sd(spread) == text


@pytest.fixture
def written(tmp_path):
    """Writes, and gives the lines of results.csv and what results.json holds."""

    def write(rows, /, *objectives, **extra) -> tuple[list[list[str]], dict]:
        write_results(tmp_path, rows, objectives or [LOSS], extra)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["results.csv", "results.json"]
        with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
            lines = list(csv.reader(file))

        def refuse(constant):
            raise AssertionError(f"{constant} is not JSON")

        text = (tmp_path / "results.json").read_text(encoding="utf-8")
        return lines, json.loads(text, parse_constant=refuse)

    return write


def test_a_line_a_job_is_written(written, tmp_path):
    rows = [
        Row(row.number, tmp_path / str(row.number), row.overrides, row.state, row.values,
            row.epochs, row.seconds, row.reason)
        for row in ROWS
    ]  # fmt: skip
    (head, *lines), _ = written(rows, ACCURACY, LOSS)
    assert head[:5] == ["rank", "number", "folder", "optimizer.lr", "model"]
    assert head[5:] == ["val/accuracy", "val/loss", "epochs", "seconds", "state", "reason"]
    assert lines[0] == ["1", "0", "0", "0.1", "mlp", "0.9", "0.5123457", "12", "31.26", "done", ""]
    assert lines[2] == ["", "1", "1", "10", "mlp", "", "", "", "", "failed", REASON]
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("typed", "cell"),
    [
        ("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-inf", "'-inf"), ("-1+1", "'-1+1"), ("\t=1", "'\t=1"),
        ("-1e-3", "-1e-3"), ("+.5", "+.5"), ("-2.", "-2."), ("[1,-2]", "[1,-2]"),
        ('a,"b"', 'a,"b"'),
    ],
)  # fmt: skip
def test_a_spreadsheet_computes_nothing(written, typed, cell):
    rows = [
        Row(n, Path(f"{n}"), {"+x": value}, reason=value) for n, value in enumerate((typed, "b"))
    ]
    (head, first, _), facts = written(rows)
    assert head[3] == "'+x"
    assert first[3] == cell
    assert first[-1] == (cell if not typed.startswith("\t") else "'=1")
    assert facts["rows"][0]["overrides"] == {"+x": typed}


def test_json_has_the_objectives_the_rows_the_groups_and_the_verdict(written):
    lines, facts = written(seeded(), LOSS, space={"lr": ["0.1", "0.01"]}, rows="not these")
    assert len(lines) == 7
    assert facts["objectives"] == [{"metric": "val/loss", "direction": "minimize"}]
    assert facts["space"] == {"lr": ["0.1", "0.01"]}
    assert [row["number"] for row in facts["rows"]] == [3, 4, 5, 0, 1, 2]
    assert [row["rank"] for row in facts["rows"]] == [1, 2, 3, 4, 5, None]
    best, other = facts["groups"]
    assert best["overrides"] == {"optimizer.lr": "0.01"}
    assert (best["rank"], best["numbers"], best["states"]) == (1, [3, 4, 5], {"done": 3})
    assert best["values"]["val/loss"] == {
        "n": 3, "mean": pytest.approx(0.25), "sd": pytest.approx(0.05)
    }  # fmt: skip
    assert other["states"] == {"done": 2, "failed": 1}
    assert facts["verdict"].startswith("optimizer.lr=0.01 (0.25) leads optimizer.lr=0.1 (0.55)")


def test_what_json_and_utf8_cannot_hold_is_written_as_what_they_can(written):
    rows = [Row(0, Path("0"), {"a": "\udcff", "b": "é"}, State.DONE, {"val/loss": float("inf")})]
    extra = {"a": float("nan"), "b": (1, float("-inf")), "c": Path("x"), "d": {"e": float("inf")}}
    lines, facts = written(rows, **extra)
    assert {name: facts[name] for name in extra} == {
        "a": None,
        "b": [1, None],
        "c": "x",
        "d": {"e": None},
    }
    assert facts["rows"][0]["values"] == {"val/loss": None}
    assert lines[1][3:6] == ["\\udcff", "é", ""]


def test_without_seeds_there_are_no_groups_and_without_jobs_nothing(written):
    assert written(ROWS)[1]["groups"] == []
    lines, facts = written([])
    assert len(lines) == 1
    assert (facts["rows"], facts["groups"]) == ([], [])
    assert facts["verdict"] == "No job has a value of val/loss."


def test_a_folder_elsewhere_is_named_in_full(written, tmp_path):
    elsewhere = tmp_path.parent / "elsewhere"
    lines, _ = written([Row(0, elsewhere, {}), Row(1, tmp_path / "a" / "b", {})])
    assert [line[2] for line in lines[1:]] == [str(elsewhere), "a/b"]


def test_a_table_has_long_numbers_rounded_where_that_tells_them_apart(shown):
    def rows(*rates: str) -> list[Row]:
        return [
            Row(
                number, Path(f"out/{number}"), {"optimizer.lr": rate}, State.DONE, {"val/loss": 1.0}
            )
            for number, rate in enumerate(rates)
        ]

    text = shown(rows("0.002054762512591136", "1000000000.0", "0.1", "[256,128]"))
    assert "0.002055 " in text
    assert "1e+09 " in text
    assert "[256,128] " in text
    assert "0.0020547" not in text
    whole = shown(rows("1234567890", "20240131_1205"))
    assert "1234567890 " in whole
    assert "20240131_1205 " in whole
    close = shown(rows("0.002054762512591136", "0.002054762512591137"))
    assert "0.002054762512591136" in close
    assert "0.002054762512591137" in close


def folded() -> list[Row]:
    return [
        Row(row.number, row.folder,
            {"optimizer.lr": row.overrides["optimizer.lr"], "data.fold": row.overrides["seed"]},
            row.state, row.values, row.epochs, row.seconds, row.reason)
        for row in seeded()
    ]  # fmt: skip


def test_folds_are_summed_up_and_missing_ones_counted(shown):
    head, _, best, other, *rest = words(shown(folded()))
    assert head == ["rank", "lr", "val/loss", "n", "epochs", "seconds", "state"]
    assert best[:6] == ["1", "0.01", "0.2500", "±", "0.050", "3"]
    assert other[:8] == ["2", "0.1", "0.5500", "±", "0.071", "2", "of", "3"]
    assert ["job", "2", "failed:", "CUDA"] in [line[:4] for line in rest]
    assert "(n = 2 of 3)" in shown(folded(), columns=45)


def on_images(*counts: int | None) -> list[Row]:
    return [
        replace(row, overrides={"data.val_size": str(count)}, validation_images=count)
        for row, count in zip(seeded(), counts, strict=False)
    ]


def test_jobs_validated_on_different_images_are_said_to_be(shown):
    sentence = (
        "The jobs were validated on different images, 50 to 3,000 of them: their val/loss may "
        "differ by that alone."
    )
    assert sentence in " ".join(shown(on_images(3000, 50, None)).split())
    assert "validated on" not in shown(on_images(50, 50, None))
    of_training = shown(on_images(3000, 50), Objective("train/loss", "minimize"))
    assert "validated on" not in of_training


def test_folds_of_other_sizes_are_no_different_images(shown):
    rows = [replace(row, validation_images=10 + n % 3) for n, row in enumerate(folded())]
    assert "validated on" not in shown(rows)


def test_folds_alone_are_not_ranked(shown):
    lines = shown(folded()[:3]).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["–", "–", "–"]
    assert "val/loss: 0.5500 ± 0.071 (mean ± sd over 2 of 3 folds)" in lines
    assert any(line.startswith("job 2 failed") for line in lines)


def test_the_files_give_each_fold_its_settings_rank(written):
    (head, *lines), told = written(folded())
    rank, fold, lr = (head.index(name) for name in ("rank", "data.fold", "optimizer.lr"))
    assert [(line[rank], line[lr], line[fold]) for line in lines] == [
        ("1", "0.01", "0"), ("1", "0.01", "1"), ("1", "0.01", "2"),
        ("2", "0.1", "0"), ("2", "0.1", "1"), ("", "0.1", "2"),
    ]  # fmt: skip
    assert [group["overrides"] for group in told["groups"]] == [
        {"optimizer.lr": "0.01"}, {"optimizer.lr": "0.1"},
    ]  # fmt: skip
    assert told["groups"][1]["values"]["val/loss"]["n"] == 2
