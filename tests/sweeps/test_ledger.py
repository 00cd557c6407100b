from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from discern.errors import DiscernError
from discern.models.checkpoint import write as write_checkpoint
from discern.runs.holding import LOCK as RUN_LOCK
from discern.runs.state import State
from discern.sweeps import ledger as ledgers
from discern.sweeps.ledger import Ledger
from discern.sweeps.page import write_sweep_page
from discern.sweeps.rows import Objective, objectives_of

LOSS = Objective("val/loss", "minimize")
KNOWN = '[{"metric": "val/loss", "direction": "minimize"}]'


def planned(folder: Path, *rates: str) -> Ledger:
    ledger = Ledger(folder, [f"optimizer.lr={','.join(rates)}"], [LOSS])
    ledger.plan([{"optimizer.lr": rate, "seed": "1"} for rate in rates], ["optimizer.lr"])
    return ledger


def write(folder: Path, **facts: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    known = {"format": 1, "state": "done", "reason": "2 of 2 epochs", "epochs": 2}
    known["seconds"] = {"total": 1.5}
    (folder / "summary.json").write_text(json.dumps({**known, "metrics": {}, **facts}))


def test_what_is_planned_is_on_disk(tmp_path):
    ledger = planned(tmp_path, "0.1", "0.2")
    again = Ledger.load(tmp_path)
    assert again == ledger
    assert [job.name for job in again.jobs] == ["lr=0.1", "lr=0.2"]
    assert again.settings == ["optimizer.lr"]


def test_values_that_are_tried_twice_have_two_folders(tmp_path):
    names = [job.name for job in planned(tmp_path, "0.1", "0.1", "0.1").jobs]
    assert names == ["lr=0.1", "lr=0.1_2", "lr=0.1_3"]


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        ({"metrics": {"val": {"loss": 0.5}}}, State.DONE, "2 of 2 epochs"),
        ({"metrics": {"val": {"loss": None}}}, State.FAILED, "val/loss is not a number"),
        ({"state": "failed", "reason": "no room"}, State.FAILED, "no room"),
        ({"state": "interrupted", "reason": "by SIGTERM"}, State.INTERRUPTED, "by SIGTERM"),
        (
            {"state": "pruned", "reason": "in epoch 3: hopeless"},
            State.PRUNED,
            "in epoch 3: hopeless",
        ),
        ({"state": "done", "reason": "failed: a name"}, State.FAILED, "val/loss is not a number"),
    ],
)
def test_a_row_is_what_the_jobs_folder_tells(tmp_path, facts, state, reason):
    ledger = planned(tmp_path, "0.1", "0.2")
    write(tmp_path / "lr=0.1", **facts)
    row, other = ledger.rows()
    assert (row.state, row.epochs, row.seconds) == (state, 2, 1.5)
    assert row.reason.startswith(reason)
    assert row.overrides == {"optimizer.lr": "0.1"}
    assert other.state is State.WAITING


def test_a_job_without_a_last_word_is_unfinished_or_failed_for_a_reason(tmp_path):
    ledger = planned(tmp_path, "0.1", "0.2")
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "config.yaml").touch()
    assert ledger.rows()[0].state is State.UNFINISHED
    ledger.reasons[0] = "its process was ended by SIGKILL"
    assert (ledger.rows()[0].state, ledger.rows()[0].reason) == (State.FAILED, ledger.reasons[0])


def test_why_a_job_failed_stays_until_it_is_run_again(tmp_path):
    ledger = planned(tmp_path, "0.1", "0.2")
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "config.yaml").touch()
    ledger.reasons[0] = "its process was ended by SIGKILL"
    ledger.save()
    again = Ledger.load(tmp_path)
    assert again.rows() == ledger.rows()
    again.resumption(again.jobs[0])
    assert not Ledger.load(tmp_path).reasons
    write(tmp_path / "lr=0.1", metrics={"val": {"loss": 0.5}})
    assert ledger.rows()[0].state is State.DONE  # whose reason nobody has taken back


def test_an_interrupted_job_goes_on_from_its_checkpoint_and_another_begins_anew(tmp_path):
    ledger = planned(tmp_path, "0.1", "0.2")
    for job in ledger.jobs:
        (tmp_path / job.name / "checkpoints").mkdir(parents=True)
        (tmp_path / job.name / "config.yaml").touch()
    last = tmp_path / "lr=0.1" / "checkpoints" / "last.safetensors"
    write_checkpoint({"state_dict": {}}, last)
    assert ledger.resumption(ledger.jobs[0]) == [f"ckpt_path='{last}'"]
    assert ledger.resumption(ledger.jobs[1]) == []
    assert not (tmp_path / "lr=0.2").exists()


@pytest.mark.parametrize("name", ["lr=0.1/summary.json", "results.json"])
def test_of_another_version_a_sentence_says_so(tmp_path, name):
    planned(tmp_path, "0.1", "0.2")
    write(tmp_path / "lr=0.1")
    (tmp_path / name).write_text('{"format": 2}')
    sentence = rf"{name} is of a newer version of discern: it has format 2, and .* format 1; upg"
    with pytest.raises(DiscernError, match=sentence):
        write_sweep_page(tmp_path)


def test_without_validation_images_jobs_are_ranked_by_training(tmp_path):
    ledger = planned(tmp_path, "0.1", "0.2")
    assert (ledger.rows()[0].state, ledger.ranked_by) == (State.WAITING, [LOSS])
    write(tmp_path / "lr=0.1", validated=False, metrics={"train": {"loss": 0.25}})
    for each in (ledger, Ledger.load(tmp_path)):
        assert each.row(each.jobs[0]).values == {"train/loss": 0.25}
        assert each.ranked_by == [Objective("train/loss", "minimize")]


@pytest.mark.parametrize("first", [True, False])
def test_the_order_in_which_jobs_end_does_not_decide_what_they_are_ranked_by(tmp_path, first):
    ledger = planned(tmp_path, "0.1", "0.2")
    for name, validated in (("lr=0.1", first), ("lr=0.2", not first)):
        metrics = {"train": {"loss": 0.25}} | ({"val": {"loss": 0.5}} if validated else {})
        write(tmp_path / name, validated=validated, metrics=metrics)
        ledger.row(ledger.jobs[int(name == "lr=0.2")])
    for each in (ledger, Ledger.load(tmp_path)):
        rows = sorted(each.rows(), key=lambda row: row.state)
        assert each.ranked_by == [LOSS]
        assert [row.values for row in rows] == [{"val/loss": 0.5}, {"val/loss": None}]
        assert rows[1].state is State.FAILED
        assert rows[1].reason == "it has no validation, and other jobs are ranked by val/loss"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("no JSON", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 99}', "is of a newer version of discern: it has format 99"),
        (
            '{"format": 1, "arguments": [], "objectives": [],'
            ' "search": null, "jobs": [{"number": 0, "name": "../../home", "overrides": {}}]}',
            "cannot be read",
        ),
        *(
            (
                f'{{"format": 1, "arguments": [], "objectives": {objectives}, "search": null,'
                f' "jobs": [{{"number": {number}, "name": "{name}", "overrides": {overrides}}}]}}',
                "cannot be read",
            )
            for objectives, number, name, overrides in (
                (KNOWN, "0", "../../home", "{}"),
                (KNOWN, "1e400", "job", "{}"),
                (KNOWN, "0", "job", '"x"'),
                ("[]", "0", "job", "{}"),
                ('[{"metric": -1, "direction": "minimize"}]', "0", "job", "{}"),
            )
        ),
    ],
)
def test_a_list_that_discern_did_not_write_is_refused(tmp_path, content, sentence):
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(DiscernError, match=sentence):
        Ledger.load(tmp_path)


@pytest.mark.parametrize("odd", ["a word", [1], {"val": 3}, 1e400, None])
@pytest.mark.parametrize("name", ["seconds", "epochs", "metrics", "state", "reason"])
def test_a_job_s_summary_may_say_anything(tmp_path, name, odd):
    ledger = planned(tmp_path, "1", "2")
    for job in ledger.jobs:
        write(tmp_path / job.name, **{"metrics": {"val": {"loss": 0.5}}, name: odd})
    assert len(ledger.rows()) == 2
    assert set(ledger.logged()) <= {"val/loss"}
    assert write_sweep_page(tmp_path).stat().st_size


def test_a_job_that_outlives_its_sweep_keeps_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "PATIENCE", 0.1)
    ledger = planned(tmp_path, "0.1")
    write(tmp_path / "lr=0.1", state="interrupted")
    refused = pytest.raises(DiscernError, match="is in use")
    with FileLock(tmp_path / "lr=0.1" / RUN_LOCK), refused:
        ledger.resumption(ledger.jobs[0])
    assert (tmp_path / "lr=0.1" / "summary.json").exists()


def test_a_folder_has_one_sweep_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "PATIENCE", 0.1)
    ledger = planned(tmp_path, "0.1")
    refused = pytest.raises(DiscernError, match="is in use")
    with FileLock(tmp_path / ".sweep.lock"), refused, ledger.alone():
        pass
    with ledger.alone():
        pass


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("val/loss", "minimize"),
        ("val/top5_error", "minimize"),
        ("val/accuracy", "maximize"),
        ("train/seconds", "minimize"),
    ],
)
def test_the_direction_is_known_from_the_metric(metric, direction):
    assert objectives_of(metric) == [Objective(metric, direction)]


def test_the_test_split_chooses_nothing():
    with pytest.raises(DiscernError, match="the test split chooses nothing"):
        objectives_of(["val/loss", "test/accuracy"])
    with pytest.raises(DiscernError, match="each objective needs one"):
        objectives_of("val/loss", ["minimize", "maximize"])
