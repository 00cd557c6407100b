from __future__ import annotations

import html
import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from discern.errors import DiscernError
from discern.reports.run_page import write_run_page
from discern.run import train
from discern.runs.tested import FILE, read_tested, write_tested
from photos import photo_folder
from run_files import SHOWN, TINY, Raises, composed, summary

_ = Raises  # named in a config


@pytest.fixture
def tiny_run(tiny_run):
    """With all that a run of a user shows."""
    return partial(tiny_run, *SHOWN)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that a run of a user shows; nothing changes it."""
    cfg = composed(*TINY, *SHOWN, "data.source=sample", "data.fraction=0.1")
    cfg.folder = str(tmp_path_factory.mktemp("whole") / "run")
    return train(cfg).folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def data_of(page: Path) -> dict[str, Any]:
    """What the page's script is told."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    return json.loads(found[1])


def text_of(page: Path) -> str:
    """What is read of a page: no scripts, no styles, no tags."""
    text = re.sub(r"<(script|style)\b.*?</\1>", "", page.read_text(), flags=re.S)
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def test_a_run_writes_its_report(tiny_run):
    run = tiny_run("trainer.max_epochs=3", "tags=[mine]")
    page = run.folder / "report.html"
    assert 1_000_000 < page.stat().st_size < 5_000_000
    text = text_of(page)
    said = read_tested(run.folder).predictions
    accuracy = float(said.correct.mean())
    assert accuracy == pytest.approx(run.metrics["test"]["accuracy"])
    assert f"{100 * accuracy:.2f} %" in text
    most = np.bincount(said.labels).max() / len(said)
    assert f"right {100 * most:.2f} % of the time" in text
    assert "tags: mine" in text
    assert "3 of 3 epochs" in text
    assert run.folder.name in text
    data = data_of(page)
    assert [point[0] for point in data["charts"]["loss"]["series"][1]["points"]] == [1, 2, 3]
    assert data["classes"] == [str(digit) for digit in range(10)]
    assert len(data["pictures"]) == len(read_tested(run.folder).thumbnails.rows)
    worst = data["pictures"][data["worst"][0]]
    assert worst["loss"] == pytest.approx(said.losses.max(), rel=1e-5)
    assert page.read_text().count("data-cell=") == len(
        set(zip(said.labels.tolist(), said.predicted.tolist(), strict=True))
    )


def test_the_test_s_predictions_are_those_of_the_best_checkpoint(tiny_run):
    run = tiny_run()
    said = read_tested(run.folder).predictions
    assert said.losses.mean() == pytest.approx(run.metrics["test"]["loss"], rel=1e-5)
    assert said.class_names == [str(digit) for digit in range(10)]
    assert said.indices.tolist() == list(range(100))


def test_the_test_images_have_one_digest_whatever_the_run(tiny_run):
    one = tiny_run(name="one")
    other = tiny_run("seed=4", "data.val_size=30", "model.hidden=[4]", name="other")
    part = tiny_run("trainer.limit_test_batches=1", "data.eval_batch_size=30", name="part")
    digests = [read_tested(run.folder).images for run in (one, other, part)]
    assert digests[0] == digests[1] != digests[2]
    assert len(read_tested(part.folder).predictions) == 30


def test_no_report_without_being_asked(tiny_run):
    run = tiny_run("report=false")
    assert not (run.folder / "report.html").exists()
    assert write_run_page(run.folder) == run.folder / "report.html"


def test_a_failed_run_has_a_report_with_the_reason(tiny_run, tmp_path):
    with pytest.raises(RuntimeError, match="a mistake of mine"):
        tiny_run("trainer.callbacks=[{_target_: run_files.Raises}]")
    assert "a mistake of mine" in text_of(tmp_path / "run" / "report.html")
    assert 'class="state failed"' in (tmp_path / "run" / "report.html").read_text()


def test_a_failed_run_keeps_its_traceback_without_secrets(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "mistake-of-mine")
    monkeypatch.setattr(Raises, "on_train_batch_end", _raise_secret)
    with pytest.raises(RuntimeError):
        tiny_run("trainer.callbacks=[{_target_: run_files.Raises}]")
    kept = summary(tmp_path / "run")["traceback"]
    assert kept.startswith("Traceback (most recent call last):")
    assert "in _raise_secret" in kept
    assert kept.rstrip().endswith("RuntimeError: of left-out-as-secret")
    text = text_of(tmp_path / "run" / "report.html")
    assert "in _raise_secret" in text
    assert "mistake-of-mine" not in text


def _raise_secret(*_: object) -> None:
    raise RuntimeError(f"of {os.environ['MY_TOKEN']}")


def test_a_sentence_needs_no_traceback(tiny_run, tmp_path):
    with pytest.raises(DiscernError):
        tiny_run("trainer.val_check_interval=1000")
    assert "traceback" not in summary(tmp_path / "run")


def test_the_page_says_what_it_was_run_on_and_links_to_what_lies_beside_it(whole):
    text, facts = text_of(whole / "report.html"), summary(whole)
    assert facts["machine"]["cpu"] in text
    assert f"memory {facts['machine']['memory_bytes'] / 1e9:.1f} GB" in text
    assert "hidden.0 Linear 8 6,280 0" in text
    links = re.findall(r'class="beside" href="([^"]*)"', (whole / "report.html").read_text())
    assert {"config.yaml", "metrics.csv", "checkpoints/best.safetensors"} <= set(links)
    assert all((whole / link).is_file() for link in links)
    charts = data_of(whole / "report.html")["charts"]
    assert {"lr", "grad_norm", "seconds", "class_accuracy"} <= set(charts)
    assert [line["name"] for line in charts["class_accuracy"]["series"]] == list("0123456789")


def test_a_report_that_cannot_be_made_does_not_end_the_run(tiny_run, monkeypatch, caplog):
    def full(folder: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("discern.reports.run_page.write_run_page", full)
    with caplog.at_level("WARNING"):
        run = tiny_run()
    assert summary(run.folder)["reason"] == "2 of 2 epochs"
    assert "report.html was not written" in caplog.text


@pytest.mark.parametrize(
    "gone",
    [
        [FILE],
        ["metrics.csv"],
        ["config.yaml"],
        ["overrides.yaml"],
        ["samples.png"],
        ["summary.json"],
        ["summary.json", "metrics.csv", FILE, "samples.png", "curves.png"],
    ],
)
def test_a_report_is_made_of_what_there_is(folder, gone):
    for name in gone:
        (folder / name).unlink()
    text = text_of(write_run_page(folder))
    if "summary.json" in gone:
        assert "still going on" in text
    assert ("Confusion matrix" in text) == (FILE not in gone)


def test_a_run_of_before_has_a_report(tmp_path):
    """One whose summary knows less, and has values of kinds that this version does not write."""
    (tmp_path / "summary.json").write_text(
        '{"format": 1, "state": "done", "metrics": {"val": {"loss": 0.5}}, '
        '"git": null, "seconds": {"fit": 2}, "data": null, "parameters": [], "seed": -3, '
        '"changed": 3}'
    )
    (tmp_path / "metrics.csv").write_text("epoch,step,val/loss,odd\n1,10,0.5,nonsense\n2,20,,\n")
    text = text_of(write_run_page(tmp_path))
    assert "0.5000" in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DiscernError, match="is not the folder of a run"):
        write_run_page(tmp_path)


def test_many_classes_have_a_list_of_confusions_too(tmp_path):
    names = [f"kind {number:02}" for number in range(35)]
    photo_folder(tmp_path / "photos", names, per_class=6, size=(24, 24))
    cfg = composed(
        "data=image_folder", f"data.dir={tmp_path / 'photos'}", "data.image_size=24",
        "model.hidden=[8]", "trainer.max_epochs=1", "trainer.accelerator=cpu", "data.num_workers=0",
    )  # fmt: skip
    cfg.folder = str(tmp_path / "run")
    run = train(cfg)
    page = run.folder / "report.html"
    said = read_tested(run.folder).predictions
    matrix, rows = (
        re.findall(r'data-cell="(\d+),(\d+)" data-count="(\d+)"', part)
        for part in page.read_text().split("Most frequent confusions</h3>")
    )
    counts = [int(count) for _, _, count in rows]
    assert counts == sorted(counts, reverse=True)
    assert sum(int(count) for _, _, count in matrix) == len(said)
    assert set(rows) < set(matrix)
    for label, predicted, count in rows:
        cell = (said.labels == int(label)) & (said.predicted == int(predicted))
        assert cell.sum() == int(count)
        assert label != predicted
    # A file is found by its name.
    assert data_of(page)["pictures"][0]["name"].startswith("kind ")


def test_large_pictures_of_samples_are_made_smaller(folder):
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "samples.png")
    assert (folder / "samples.png").stat().st_size > 5_000_000
    assert write_run_page(folder).stat().st_size < 3_000_000


@pytest.mark.parametrize("content", [b"x", b"BM", b"P4\n", b"\x89PNG\r\n\x1a\n\0", b"\xff\xd8\xff"])
def test_pictures_that_are_none_are_left_out(folder, content):
    (folder / "samples.png").write_bytes(content)
    tested = read_tested(folder)
    shown = replace(tested.thumbnails, picture=content)
    write_tested(replace(tested, thumbnails=shown), folder)
    text = text_of(write_run_page(folder))
    assert "Training images as the network sees them" not in text
    assert "Confusion matrix" in text


def test_a_long_list_of_skipped_files_is_shortened(folder):
    rows = ["file,label,reason", "=a.jpg,cat,broken" + "," * 500_000, f"b.jpg,{'x' * 100_000},c"]
    (folder / "bad_files.csv").write_text("\n".join(rows))
    page = write_run_page(folder)
    assert page.stat().st_size < 3_000_000
    assert "=a.jpg cat broken" in text_of(page)
    (folder / "bad_files.csv").write_text("file,label\n" + "," * 3_000_000)
    write_run_page(folder)


def test_of_very_many_settings_the_first_ones_are_shown(folder):
    typed = [f"data.dir='{number}'" for number in range(20_000)]
    (folder / "overrides.yaml").write_text(json.dumps(typed))
    text = text_of(write_run_page(folder))
    assert "data.dir=199" in html.unescape(text)
    assert "# … and 19,800 more" in text
    (folder / "overrides.yaml").write_text(json.dumps([f"data.dir='{'x' * 400_000}'", "seed=1"]))
    assert "train.py # … and 2 more" in text_of(write_run_page(folder))


def test_classes_without_a_column_take_no_time(folder):
    facts = summary(folder)
    facts["data"]["classes"] = [f"{number}" for number in range(200_000)]
    (folder / "summary.json").write_text(json.dumps(facts))
    columns = ",".join(f"val/accuracy/{number}" for number in range(100))
    rows = "".join(f"{epoch}{',0.5' * 100}\n" for epoch in range(1000))
    (folder / "metrics.csv").write_text(f"epoch,{columns}\n{rows}")
    chart = data_of(write_run_page(folder))["charts"]["class_accuracy"]
    assert len(chart["series"]) == 12


def test_columns_of_few_cells_take_no_time(folder):
    columns = ",".join(f"m{number}" for number in range(3000))
    rows = "".join(f"{epoch}\n" for epoch in range(1, 3000))
    (folder / "metrics.csv").write_text(f"epoch,{columns}\n0{',0.5' * 3000}\n{rows}")
    assert write_run_page(folder).stat().st_size < 12_000_000


def test_the_report_needs_its_folder_alone(folder, tmp_path):
    moved = folder.rename(tmp_path / "elsewhere")
    assert "Test accuracy" in text_of(write_run_page(moved))


def parts_of(facts: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where anything stands in a summary."""
    inside = [
        each
        for name, value in facts.items()
        if isinstance(value, dict)
        for each in parts_of(value, (*path, name))
    ]
    return [*((*path, name) for name in facts), *inside]


@pytest.mark.parametrize("odd", ["a word", None, [1, "a"], {"q": [1]}, True, 1e400, -1])
def test_a_summary_may_say_anything(folder, monkeypatch, odd):
    """One of a stranger, or of a version that kept something else under that name."""
    monkeypatch.setattr("discern.reports.run_facts.read_tested", lambda folder: None)
    facts = summary(folder)
    facts["features"] = {"reused": 1, "computed": 2, "bytes": 3, "seconds_saved": 4.0}
    facts["changed"] = {"seed": {"default": 0, "value": 1}}
    for path in parts_of(facts):
        if path == ("format",):  # of another one nothing is read
            continue
        changed = json.loads(json.dumps(facts))
        part = changed
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = odd
        (folder / "summary.json").write_text(json.dumps(changed))
        assert write_run_page(folder).stat().st_size > 1_000_000, path
