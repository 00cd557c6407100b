from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from discern.errors import DiscernError
from discern.sweeps.page import write_sweep_page


def sweep(folder: Path, jobs: list[dict[str, str]], values: list[float | None]) -> Path:
    """A sweep's folder as jobs leave it; a job without a value has failed."""
    planned = []
    for number, (overrides, value) in enumerate(zip(jobs, values, strict=True)):
        name = f"job{number}"
        planned.append({"number": number, "name": name, "overrides": overrides})
        of = folder / name
        of.mkdir(parents=True)
        facts: dict[str, Any] = {
            "format": 1,
            "state": "failed",
            "reason": "it broke",
            "metrics": {},
            "seconds": {"total": 2},
        }
        if value is not None:
            facts |= {
                "state": "done",
                "metrics": {"val": {"loss": value}},
            }
            (of / "metrics.csv").write_text(f"epoch,step,val/loss\n1,5,{value + 1}\n2,10,{value}\n")
        (of / "summary.json").write_text(json.dumps(facts))
        (of / "overrides.yaml").write_text("[]\n")
    content = {
        "format": 1, "arguments": ["optimizer.lr=1,2"], "search": None, "jobs": planned,
        "objectives": [{"metric": "val/loss", "direction": "minimize"}],
    }  # fmt: skip
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


def charts(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    return json.loads(found[1])["charts"]


def ranking(page: Path) -> list[str]:
    table = re.search(r'id="jobs">.*?</table>', page.read_text(), re.S)[0]
    return re.findall(r'<th scope="row">(?:<a[^>]*>)?(job\d+)', table)


def test_the_ranking_is_best_first_and_failures_say_why(tmp_path):
    jobs = [{"optimizer.lr": lr} for lr in ("1", "2", "3")]
    page = write_sweep_page(sweep(tmp_path, jobs, [0.5, None, 0.25]))
    assert ranking(page) == ["job2", "job0", "job1"]
    assert "it broke" in page.read_text()
    assert [line["name"] for line in charts(page)["curves0"]["series"]] == ["job2", "job0"]


def test_one_number_is_a_line_on_a_logarithmic_axis(tmp_path):
    jobs = [{"optimizer.lr": lr} for lr in ("1e-3", "1e-1", "1e-2")]
    chart = charts(write_sweep_page(sweep(tmp_path, jobs, [0.5, 0.7, 0.25])))["effect"]
    assert chart["kind"] == "lines"
    assert chart["series"][0]["points"] == [[0.001, 0.5], [0.01, 0.25], [0.1, 0.7]]
    assert chart["logx"] is True


def test_words_are_bars(tmp_path):
    jobs = [{"model": name} for name in ("mlp", "dropout")]
    chart = charts(write_sweep_page(sweep(tmp_path, jobs, [0.5, 0.7])))["effect"]
    assert (chart["kind"], chart["names"], chart["values"]) == (
        "bars", ["mlp", "dropout"], [0.5, 0.7],
    )  # fmt: skip


def test_two_settings_are_a_heat_map_in_order(tmp_path):
    jobs = [
        {"optimizer.lr": lr, "model.dropout": dropout}
        for lr in ("1e-2", "0.001")
        for dropout in ("0.5", "0")
    ]
    chart = charts(write_sweep_page(sweep(tmp_path, jobs, [0.1, 0.2, 0.3, None])))["heat"]
    assert (chart["x"]["values"], chart["y"]["values"]) == (["0.001", "1e-2"], ["0", "0.5"])
    cells = {(x, y): value for x, y, value, _ in chart["cells"]}
    assert cells == {(1, 1): 0.1, (1, 0): 0.2, (0, 1): 0.3}


def test_more_settings_are_parallel_coordinates(tmp_path):
    jobs = [
        {"optimizer.lr": lr, "model.dropout": dropout, "model": model}
        for lr in ("1e-3", "1e-1")
        for dropout in ("0", "0.5")
        for model in ("mlp", "dropout")
    ]
    chart = charts(write_sweep_page(sweep(tmp_path, jobs, [n / 10 for n in range(8)])))["parallel"]
    assert [axis["name"] for axis in chart["axes"]] == ["lr", "dropout", "model", "val/loss"]
    assert chart["axes"][0]["log"] is True
    assert chart["axes"][2]["values"] == ["dropout", "mlp"]
    assert len(chart["rows"]) == 8
    assert chart["rows"][0]["values"] == [0.001, 0, "mlp", 0]


def test_seeds_are_put_together(tmp_path):
    jobs = [{"optimizer.lr": lr, "seed": seed} for lr in ("1", "2") for seed in ("1", "2", "3")]
    page = write_sweep_page(sweep(tmp_path, jobs, [0.5, 0.6, 0.7, 0.1, 0.2, 0.3]))
    assert "Mean over seeds" in page.read_text()
    assert charts(page)["effect"]["series"][0]["points"] == [[1, 0.6], [2, 0.2]]


@pytest.mark.parametrize("values", [[None, None], [0.5, None], [0.5, 0.5]])
def test_few_values_are_enough(tmp_path, values):
    jobs = [{"optimizer.lr": lr} for lr in ("1", "2")]
    assert write_sweep_page(sweep(tmp_path, jobs, values)).stat().st_size > 1_000_000


def test_importance_is_shown(tmp_path):
    folder = sweep(tmp_path, [{"optimizer.lr": "1"}, {"optimizer.lr": "2"}], [0.5, 0.4])
    (folder / "results.json").write_text(
        '{"format": 1, "importance": {"val/loss": {"optimizer.lr": 1.0}}}'
    )
    assert charts(write_sweep_page(folder))["importance0"]["values"] == [1.0]


def test_a_folder_that_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(DiscernError, match="is not the folder of a sweep"):
        write_sweep_page(tmp_path)


def test_folds_are_put_together_and_none_is_the_best(tmp_path):
    jobs = [{"optimizer.lr": lr, "data.fold": n} for lr in ("1", "2") for n in ("0", "1", "2")]
    folder = sweep(tmp_path, jobs, [0.5, 0.6, 0.7, 0.1, 0.2, None])
    (folder / "results.json").write_text('{"format": 1, "best": {"command": "python train.py x"}}')
    page = write_sweep_page(folder)
    text = page.read_text()
    assert "Mean over folds" in text
    assert "Best setting" in text
    assert "val/loss over 3 folds" in text
    assert "2 of 3" in text
    assert "Command to train it again:" in text
    assert ranking(page) == [f"job{n}" for n in range(6)]
    assert [name for name in charts(page) if name != "curves0"] == ["effect"]
    assert charts(page)["effect"]["series"][0]["points"] == [[1, 0.6], [2, pytest.approx(0.15)]]


def test_folds_alone_are_an_estimate(tmp_path):
    folder = sweep(tmp_path, [{"data.fold": n} for n in ("0", "1")], [0.5, 0.6])
    (folder / "results.json").write_text('{"format": 1, "best": {"command": "python train.py x"}}')
    text = write_sweep_page(folder).read_text()
    assert "Cross-validation estimate" in text
    assert "0.5500 ± 0.071" in text
    assert "Best" not in text


def test_the_page_says_that_jobs_were_validated_on_different_images(tmp_path):
    folder = sweep(tmp_path, [{"data.val_size": size} for size in ("5", "30")], [0.5, 0.6])
    for number, count in enumerate((5, 30)):
        path = folder / f"job{number}" / "summary.json"
        facts = json.loads(path.read_text()) | {"data": {"images": {"val": count}}}
        path.write_text(json.dumps(facts))
    assert "validated on different images, 5 to 30 of them" in write_sweep_page(folder).read_text()


def test_the_page_says_what_was_swept(tmp_path):
    jobs = [{"optimizer.lr": str(lr), "seed": str(seed)} for lr in range(14) for seed in (1, 2)]
    folder = sweep(tmp_path, jobs, [0.5] * 28)
    for number in range(28):
        path = folder / f"job{number}" / "summary.json"
        facts = json.loads(path.read_text())
        facts |= {"title": "mlp on MNIST", "began": f"2026-01-02T10:{59 - number}:00+00:00"}
        path.write_text(json.dumps(facts))
    text = write_sweep_page(folder).read_text()
    assert "<h1>Sweep of lr and seed: mlp on MNIST</h1>" in text
    began = datetime.fromisoformat("2026-01-02T10:32:00+00:00").astimezone()
    assert f"{began:%Y-%m-%d %H:%M} · 28 done" in text
    assert '<th scope="row">optimizer.lr</th><td>14 values, 0 to 13</td>' in text
    assert '<th scope="row">seed</th><td>1, 2</td>' in text
    assert "Ranked by val/loss (less is better)." in text


def test_curves_over_seeds_are_a_mean_and_a_band(tmp_path):
    jobs = [{"lr": lr, "seed": seed} for lr in ("1", "2") for seed in ("1", "2")]
    found = charts(write_sweep_page(sweep(tmp_path, jobs, [0.5, 0.7, 0.25, 0.25])))
    best, other = found["curves0"]["series"]
    assert (best["name"], other["name"]) == ("lr=2", "lr=1")
    assert other["points"] == [[1, pytest.approx(1.6)], [2, pytest.approx(0.6)]]
    sd = 0.02**0.5
    assert other["band"][1] == [2, pytest.approx(0.6 - sd), pytest.approx(0.6 + sd)]
    assert "mean over seeds" in found["curves0"]["caption"]
    assert found["effect"]["series"][0]["band"][1] == [2, pytest.approx(0.25), pytest.approx(0.25)]


def longer(job: Path, losses: list[float]) -> None:
    lines = [f"{epoch},{5 * epoch},{loss}" for epoch, loss in enumerate(losses, 1)]
    (job / "metrics.csv").write_text("\n".join(["epoch,step,val/loss", *lines]) + "\n")


def test_a_mean_curve_ends_with_the_first_of_its_jobs(tmp_path):
    # One job went on, and its loss is lower: the mean of those that are left would jump.
    folder = sweep(tmp_path, [{"seed": seed} for seed in "123"], [0.7, 0.65, 0.28])
    longer(folder / "job2", [0.5, 0.4, 0.3, 0.28])
    (line,) = charts(write_sweep_page(folder))["curves0"]["series"]
    assert [epoch for epoch, _ in line["points"]] == [1, 2]
    assert line["points"][1][1] == pytest.approx((0.7 + 0.65 + 0.4) / 3)
    assert [epoch for epoch, *_ in line["band"]] == [1, 2]


def test_a_failed_job_does_not_end_a_mean_curve_and_one_job_has_no_band(tmp_path):
    folder = sweep(tmp_path, [{"seed": seed} for seed in "12"], [0.28, None])
    longer(folder / "job0", [0.5, 0.4, 0.28])
    longer(folder / "job1", [0.9])
    (line,) = charts(write_sweep_page(folder))["curves0"]["series"]
    assert line["points"] == [[1, 0.5], [2, 0.4], [3, 0.28]]
    assert "band" not in line


SPACE = {"optimizer.lr": {"low": 1e-4, "high": 1, "log": True}}


def test_a_searched_setting_has_points_on_the_scale_that_it_was_searched_on(tmp_path):
    jobs = [{"optimizer.lr": lr} for lr in ("0.12345678901", "0.2", "0.3")]
    folder = sweep(tmp_path, jobs, [0.5, 0.7, 0.25])
    (folder / "results.json").write_text(json.dumps({"format": 1, "space": SPACE}))
    page = write_sweep_page(folder)
    chart = charts(page)["effect"]
    assert (chart["kind"], chart["x"]) == ("points", {"name": "lr", "log": True})
    assert chart["dots"][0] == [0.3, 0.25, "lr=0.3\nval/loss 0.2500"]
    assert "0.0001 to 1, on a log scale" in page.read_text()
    assert ">0.1235</td>" in page.read_text()


def test_two_searched_settings_are_points_of_a_plane(tmp_path):
    jobs = [{"optimizer.lr": lr, "b": b} for lr, b in (("0.1", "4"), ("0.2", "5"), ("0.3", "6"))]
    folder = sweep(tmp_path, jobs, [0.5, 0.7, 0.25])
    (folder / "results.json").write_text(json.dumps({"format": 1, "space": SPACE}))
    found = charts(write_sweep_page(folder))
    assert list(found) == ["plane", "effect0", "effect1", "curves0"]
    assert found["plane"]["dots"][0][:3] == [0.3, 6, 0.25]
    assert (found["plane"]["x"]["log"], found["plane"]["y"]["log"]) == (True, False)


@pytest.mark.parametrize("space", [None, [], {"optimizer.lr": 3}, {"optimizer.lr": {"low": "x"}}])
def test_a_space_from_a_stranger_is_no_space(tmp_path, space):
    jobs = [{"optimizer.lr": lr} for lr in ("1", "2")]
    folder = sweep(tmp_path, jobs, [0.5, 0.7])
    (folder / "results.json").write_text(json.dumps({"format": 1, "space": space}))
    assert charts(write_sweep_page(folder))["effect"]["kind"] == "lines"


def test_an_objective_of_many_sizes_is_on_a_logarithmic_axis(tmp_path):
    jobs = [{"lr": lr} for lr in ("1", "2")]
    assert charts(write_sweep_page(sweep(tmp_path, jobs, [0.001, 7000])))["effect"]["log"] is True
