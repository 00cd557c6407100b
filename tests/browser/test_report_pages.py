from __future__ import annotations

import io
import json
import math
import shlex
from pathlib import Path

import numpy as np
import pytest
from made import CLIPPED, HOSTILE, SHORT, opened
from PIL import Image

from discern.models.checkpoint import write
from discern.reports.run_page import write_run_page
from discern.runs.tested import read_tested, write_tested
from discern.sweeps.page import write_sweep_page
from made_runs import made_sweep
from run_files import checkpoint
from starter import invoke

SIZES = [
    {"viewport": {"width": 1280, "height": 900}},
    pytest.param({"viewport": {"width": 390, "height": 844}}, marks=pytest.mark.slow),
    {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on real digits."""
    cwd = tmp_path_factory.mktemp("run")
    done = invoke("train", *SHORT, "trainer.max_epochs=3", "hydra.run.dir=run", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "run" / "report.html"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep over two settings, with a job that fails."""
    cwd = tmp_path_factory.mktemp("sweep")
    done = invoke(
        "train", "-m", *SHORT, "trainer.max_epochs=2", "optimizer.lr=1e-3,1e-2",
        "model.dropout=0,0.5,2", "hydra.sweep.dir=sweep", cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return cwd / "sweep" / "report.html"


@pytest.mark.parametrize("size", SIZES)
def test_a_run_s_report_has_no_clipped_text_and_is_not_blank(browser, report, size):
    with opened(browser, report, **size) as page:
        looks_right(page)


@pytest.mark.parametrize("size", SIZES)
def test_a_sweep_s_report_has_no_clipped_text_and_is_not_blank(browser, sweep, size):
    with opened(browser, sweep, **size) as page:
        looks_right(page)


def looks_right(page):
    """Nothing sticks out, every chart shows something, and the page has the colours it should."""
    assert page.evaluate(CLIPPED) == []
    across = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert across[0] <= across[1]
    for plot in page.query_selector_all(".plot"):
        plot.scroll_into_view_if_needed()
        assert plot.query_selector_all("svg path")
        assert colours(plot.screenshot()) > 4
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
    assert np.asarray(shot).std() > 10
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (np.median(np.asarray(shot)) < 100) == dark


def colours(png: bytes) -> int:
    return len(Image.open(io.BytesIO(png)).convert("RGB").getcolors(1 << 24) or ())


def test_a_chart_tells_its_values_and_hides_a_line(browser, report):
    with opened(browser, report) as page:
        plot = page.locator("#loss")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.4)
        # In the legend, and in what the chart tells of the epoch that is pointed at.
        plot.locator("text", has_text="validation").nth(1).wait_for()
        assert plot.locator("text", has_text="epoch 2").count() == 1
        chart = "echarts.getInstanceByDom(document.getElementById('loss')).getOption()"
        assert page.evaluate(f"{chart}.series.length") == 2
        plot.locator("text", has_text="validation").first.click()
        assert page.evaluate(f"{chart}.legend[0].selected.validation") is False


def test_a_cell_of_the_confusion_matrix_shows_its_images(browser, report):
    said = read_tested(report.parent).predictions
    wrong = np.flatnonzero(~said.correct)
    label, predicted = int(said.labels[wrong[0]]), int(said.predicted[wrong[0]])
    count = int(((said.labels == label) & (said.predicted == predicted)).sum())
    with opened(browser, report) as page:
        cell = page.locator(f"[data-cell='{label},{predicted}']")
        assert cell.inner_text() == str(count)
        cell.focus()
        page.keyboard.press("Enter")
        assert cell.get_attribute("aria-pressed") == "true"
        shown = page.locator("#cell .thumb")
        assert 1 <= shown.count() <= count
        assert f"true {label}, predicted {predicted}" in shown.first.get_attribute("aria-label")
        # It shows the picture, not a corner of the page.
        assert colours(shown.first.screenshot()) > 8


def test_columns_sort_both_ways(browser, report):
    with opened(browser, report) as page:
        table = page.locator("#classes table")
        table.locator("thead button", has_text="recall").click()
        cells = table.locator("tbody tr td:nth-child(4)")
        up = [float(text) for text in cells.all_inner_texts()]
        assert up == sorted(up)
        assert len(set(up)) > 1
        table.locator("thead button", has_text="recall").click()
        assert [float(text) for text in cells.all_inner_texts()] == up[::-1]
        heads = table.locator("th[aria-sort]")
        assert heads.count() == 1
        assert heads.get_attribute("aria-sort") == "descending"


def test_a_ranking_is_filtered_and_links_to_jobs(browser, sweep):
    with opened(browser, sweep) as page:
        rows = page.locator("#jobs tbody tr:visible")
        assert rows.count() == 6
        page.fill("#filter", "dropout=0.5 done")
        assert rows.count() == 2
        assert page.locator("#count").inner_text() == "2 shown"
        assert page.locator("#failed tbody tr").count() == 2
        rows.first.locator("a").click()
        page.wait_for_selector("html[data-ready]")
        assert "A run of discern" in page.inner_text("header")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a sweep of twelve jobs, made without training."""
    folder = made_sweep(tmp_path_factory.mktemp("many") / "swept", [n / 10 for n in range(12)])
    for number in range(12):
        rows = "".join(f"{epoch},{number + epoch / 10}\n" for epoch in (1, 2, 3))
        (folder / f"lr={number}" / "metrics.csv").write_text(f"epoch,val/loss\n{rows}")
    return write_sweep_page(folder)


OPTION = "echarts.getInstanceByDom(document.getElementById('curves0')).getOption()"


def test_many_curves_differ_and_say_their_names_between_their_points(browser, many):
    with opened(browser, many) as page:
        looks = page.evaluate(f"{OPTION}.series.map(one => one.color + one.lineStyle.type)")
        assert len({*looks}) == len(looks) == 12
        plot = page.locator("#curves0")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        x, y = page.evaluate(
            "echarts.getInstanceByDom(document.getElementById('curves0'))"
            ".convertToPixel({seriesIndex: 4}, [1.4, 4.14])"
        )
        page.mouse.move(box["x"] + x + 15, box["y"] + y + 25)
        page.mouse.move(box["x"] + x, box["y"] + y)
        # Elsewhere it is in the legend alone, if there is room.
        plot.locator("text", has_text="4.1").first.wait_for()
        assert plot.locator("text", has_text="lr=4").count() >= 1


def test_a_line_and_its_band_are_hidden_together(browser, tmp_path):
    folder = made_sweep(tmp_path / "swept", [0.1, 0.2, 0.3, 0.4])
    content = json.loads((folder / "sweep.json").read_text())
    for job in content["jobs"]:
        job["overrides"] = {"lr": str(job["number"] // 2), "seed": str(job["number"] % 2)}
    (folder / "sweep.json").write_text(json.dumps(content))
    with opened(browser, write_sweep_page(folder)) as page:
        plot = page.locator("#curves0")
        plot.scroll_into_view_if_needed()
        assert page.evaluate(f"{OPTION}.series.map(one => one.name)") == [
            "lr=0", "lr=1", "lr=0", "lr=0", "lr=1", "lr=1",
        ]  # fmt: skip
        assert plot.locator("text", has_text="lr=0").count() == 1
        before = plot.locator("path").count()
        plot.locator("text", has_text="lr=0").click()
        fewer = "most => document.querySelectorAll('#curves0 path').length <= most"
        page.wait_for_function(fewer, arg=before - 3)


def test_light_and_dark_are_switched(browser, report):
    with opened(browser, report, color_scheme="light") as page:
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        after = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert before == "rgb(255, 255, 255)"
        assert after != before


def test_on_paper_it_is_light(browser, report):
    with opened(browser, report, color_scheme="dark") as page:
        background = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(background)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(background) == "rgb(255, 255, 255)"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(background) == dark
        assert len(page.pdf()) > 50_000


def test_hostile_names_are_shown_and_do_nothing(browser, report, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "metrics.csv", "overrides.yaml"):
        (folder / name).write_bytes((report.parent / name).read_bytes())
    (folder / "overrides.yaml").write_text(f"- tags=[{HOSTILE!r}]\n")
    (folder / "bad_files.csv").write_text(f"file,reason\n{HOSTILE},</td>{HOSTILE}\n")
    facts = json.loads((report.parent / "summary.json").read_text())
    facts |= {"title": HOSTILE, "tags": [HOSTILE], "state": "failed", "reason": HOSTILE}
    facts["changed"] = {HOSTILE: {"default": HOSTILE, "value": HOSTILE}}
    (folder / "summary.json").write_text(json.dumps(facts))
    tested = read_tested(report.parent)
    tested.predictions.class_names[:2] = [HOSTILE, "</script><img src=x onerror=alert(1)>"]
    write_tested(tested, folder)
    write_run_page(folder)
    with opened(browser, folder / "report.html") as page:
        page.on("dialog", lambda dialog: pytest.fail(dialog.message))
        assert page.inner_text("h1") == HOSTILE
        assert page.get_attribute(".confusion thead th", "title") == HOSTILE
        for button in page.query_selector_all("[data-cell^='0,'], [data-cell^='1,']"):
            button.click()
        assert page.title() == HOSTILE  # not what it would set it to
        assert page.query_selector_all("img[src='x']") == []
        assert HOSTILE in page.inner_text("#skipped")


def test_hostile_names_of_jobs_do_nothing(browser, sweep, tmp_path):
    folder = tmp_path / "sweep"
    jobs = json.loads((sweep.parent / "sweep.json").read_text())
    for job in jobs["jobs"]:
        job["overrides"] = {name: HOSTILE + value for name, value in job["overrides"].items()}
        of = folder / job["name"]
        of.mkdir(parents=True)
        for name in ("summary.json", "metrics.csv", "overrides.yaml"):
            if (sweep.parent / job["name"] / name).exists():
                (of / name).write_bytes((sweep.parent / job["name"] / name).read_bytes())
    jobs["arguments"] = [HOSTILE]
    (folder / "sweep.json").write_text(json.dumps(jobs))
    (folder / "results.json").write_text(
        json.dumps({"format": 1, "importance": {HOSTILE: {HOSTILE: 0.5}}})
    )
    write_sweep_page(folder)
    with opened(browser, folder / "report.html") as page:
        assert HOSTILE in page.inner_text("#jobs")
        assert shlex.quote(HOSTILE) in page.inner_text("#again")
        plot = page.locator("#heat")
        plot.scroll_into_view_if_needed()
        box = plot.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.4)
        assert page.title() != "hacked"
        assert page.query_selector_all("body script:not([type]):not(:nth-last-of-type(-n+3))") == []


@pytest.fixture(scope="module")
def nothing_but_nan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that tests a model of weights that are NaN."""
    cwd = tmp_path_factory.mktemp("nan")
    assert invoke("train", *SHORT, "test=false", "hydra.run.dir=good", cwd=cwd).returncode == 0
    content = checkpoint(cwd / "good")
    for weight in content["state_dict"].values():
        weight.fill_(math.nan)
    write(content, cwd / "nan.safetensors")
    done = invoke(
        "train", *SHORT, "train=false", "ckpt_path=nan.safetensors", "hydra.run.dir=run", cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return cwd / "run" / "report.html"


def test_a_report_of_a_model_that_says_nan_says_nan(browser, nothing_but_nan):
    with opened(browser, nothing_but_nan, viewport={"width": 1280, "height": 900}) as page:
        assert page.evaluate(CLIPPED) == []
        assert "loss nan" in page.locator("body").inner_text()
