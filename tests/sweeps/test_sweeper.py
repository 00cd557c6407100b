from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from sweeping import begin, dies, ends_test, results, sweep

from discern.sweeps.outcome import read_sweep
from photos import photo_folder
from run_files import metrics_csv, same_bits, summary, weights
from starter import end, invoke, said, until

QUICK = (
    "data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "trainer.max_epochs=2",
    "trainer.accelerator=cpu", "logger=csv", "report=false", "hydra.sweep.dir=sweep",
)  # fmt: skip


def told(folder: Path) -> list[tuple[Any, ...]]:
    """What the final table says, but for the time."""
    rows = results(folder)["rows"]
    return [(r["rank"], r["folder"], r["values"], r["epochs"], r["state"]) for r in rows]


FOUR = (*QUICK, "logger=default", "report=true", "optimizer.lr=1e-2,1e-4", "model.dropout=0,0.5")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four jobs, one after the other, in a folder of its own; nothing changes it."""
    cwd = tmp_path_factory.mktemp("four")
    assert sweep(cwd, *FOUR, "hydra.launcher.n_jobs=1", draws=True) == 0, said(cwd)
    return cwd / "sweep"


def test_a_sweep_ends_in_an_answer(four):
    folder = four
    found = results(folder)
    assert [row["rank"] for row in found["rows"]] == [1, 2, 3, 4]
    values = [row["values"]["val/loss"] for row in found["rows"]]
    assert values == sorted(values)
    best = found["rows"][0]
    assert best["folder"] == found["best"]["folder"]
    assert same_bits(weights(folder / "best"), weights(folder / best["folder"]))
    assert not list((folder / "best").glob("events*"))  # TensorBoard would show it twice
    assert summary(folder / best["folder"])["metrics"]["val"]["loss"] == values[0]
    files = ("results.csv", "sweep.png", "best.yaml", "multirun.yaml", "sweep.json", "report.html")
    for name in files:
        assert (folder / name).stat().st_size
    printed = said(folder.parent)
    assert "4/4  lr=0.0001,dropout=0.5  val/loss" in printed
    assert found["best"]["command"] in printed
    # The test split is looked at once, and for the best alone.
    assert set(found["best"]["test"]) >= {"loss", "accuracy"}
    assert not any("test" in summary(folder / row["folder"])["metrics"] for row in found["rows"])


def test_a_job_is_the_run_of_its_overrides_alone_to_the_bit(tmp_path):
    shared = (*QUICK[:-1], "model.dropout=0.3", "test=false")
    # The job before sets whatever a run may set for its whole process.
    before = "trainer.deterministic=true,false"
    one_process = "hydra.launcher.n_jobs=1"
    assert sweep(tmp_path, *shared, before, one_process, "hydra.sweep.dir=all") == 0
    alone = ("trainer.deterministic=false", "hydra.sweep.dir=alone")
    assert sweep(tmp_path, *shared, *alone) == 0
    many, one = tmp_path / "all" / "deterministic=false", tmp_path / "alone" / "job"
    assert same_bits(weights(many), weights(one))
    names = ("train/seconds", "train/images_per_second")
    assert [
        {name: value for name, value in row.items() if name not in names}
        for row in metrics_csv(many)
    ] == [
        {name: value for name, value in row.items() if name not in names}
        for row in metrics_csv(one)
    ]


def test_a_job_on_a_backbone_that_was_built_before_is_the_run_alone_to_the_bit(tmp_path):
    photos = photo_folder(tmp_path / "photos", per_class=10)
    shared = (
        "model=efficientnet_lite_transfer", "model.head=[4]", "model.dropout=0.3",
        "data=image_folder", f"data.dir={photos}", "data.image_size=64", "data.num_workers=0",
        "data.val_size=4", "data.test_size=4", "trainer.max_epochs=1", "trainer.accelerator=cpu",
        "test=false", "engine=torch", "report=false", "hydra.launcher.n_jobs=1",
    )  # fmt: skip
    several = ("optimizer.lr=1e-2,1e-4,1e-3", "hydra.sweep.dir=all")
    assert sweep(tmp_path, *shared, *several, f"cache.dir={tmp_path / 'one'}") == 0
    alone = ("optimizer.lr=1e-3", f"cache.dir={tmp_path / 'other'}", "hydra.sweep.dir=alone")
    assert sweep(tmp_path, *shared, *alone) == 0
    many, one = weights(tmp_path / "all" / "lr=0.001"), weights(tmp_path / "alone" / "job")
    assert same_bits(many, one)
    assert not list(tmp_path.rglob("report.html"))  # of no job, and so not of the sweep


def test_jobs_that_fail_or_die_are_rows_and_the_others_finish(tmp_path):
    ways = ("kill", "none", "exit", "raise", "sysexit")
    status = sweep(tmp_path, *QUICK, "report=true", dies(*ways), "optimizer.lr=1e-3")
    assert status == 1
    found = results(tmp_path / "sweep")
    rows = {row["number"]: row for row in found["rows"]}
    assert [rows[n]["state"] for n in range(5)] == [
        "failed", "done", "failed", "failed", "interrupted",
    ]  # fmt: skip
    assert "SIGKILL" in rows[0]["reason"]
    assert "status 3" in rows[2]["reason"]
    assert rows[3]["reason"] == "a mistake"
    assert found["rows"][0]["number"] == 1
    assert "4 of 5 jobs failed." in said(tmp_path)
    # A new process knows them too, as for the page and for discern.sweep.
    again = [(row.state, row.reason) for _, row in read_sweep(tmp_path / "sweep").ranking]
    assert again == [(row["state"], row["reason"]) for row in found["rows"]]
    assert "SIGKILL" in (tmp_path / "sweep" / "report.html").read_text()
    assert "Traceback" not in said(tmp_path)


def test_a_sweep_whose_best_job_cannot_be_tested_is_ranked_and_says_why(tmp_path):
    undrawable = {"discern.sweeps.conclusion": {"draw_sweep": None}}
    settings = (*QUICK, ends_test("raise"), "optimizer.lr=1e-2,1e-4")
    assert end(begin(tmp_path, *settings, changes=undrawable)) == 1
    found = results(tmp_path / "sweep")
    assert [row["rank"] for row in found["rows"]] == [1, 2]
    assert found["best"]["test"] == {}
    printed = said(tmp_path)
    assert found["best"]["command"] in printed
    assert "sweep.png was not drawn" in printed
    best = found["rows"][0]["folder"]
    assert f"Error: The test of the best job, {best}, failed: a mistake." in printed
    assert "Traceback" not in printed


def test_ctrl_c_in_the_test_of_the_best_job_keeps_the_ranking(tmp_path):
    number = begin(tmp_path, *QUICK, ends_test("wait"), "optimizer.lr=1e-2,1e-4")
    until((tmp_path / "testing").exists, number)
    os.kill(number, signal.SIGINT)
    assert end(number) == 130, said(tmp_path)
    folder = tmp_path / "sweep"
    found = results(folder)
    assert [row["rank"] for row in found["rows"]] == [1, 2]
    assert all((folder / name).exists() for name in ("results.csv", "sweep.png", "best.yaml"))
    printed = said(tmp_path)
    assert found["best"]["command"] in printed
    assert "Interrupted. Continue: python train.py -m sweep.resume=sweep" in printed


NO_SECOND_PROCESS = """
import errno, os
from discern.sweeps import launcher

class Worker(launcher._Worker):
    begun = 0

    def __init__(self, *arguments):
        if Worker.begun:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        Worker.begun += 1
        super().__init__(*arguments)

launcher._Worker = Worker
from discern.commands.cli import main
main()
"""


@pytest.mark.parametrize("search", [(), ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3")])
def test_a_sweep_that_can_start_no_process_ends_and_says_why(tmp_path, search):
    # The process of a job that failed is not used again.
    jobs = ("optimizer.lr=-1" + (",-2" if search else ",1e-2"), *search)
    done = invoke("-c", NO_SECOND_PROCESS, "train", "-m", *QUICK, *jobs, cwd=tmp_path, draws=False)
    assert done.returncode == 1
    states = [row["state"] for row in results(tmp_path / "sweep")["rows"]]
    assert states == ["failed", "not run"]
    why = "hydra/launcher=jobs cannot go on: Resource temporarily unavailable."
    assert f"Error: {why}" in done.stderr
    assert "Continue: python train.py -m sweep.resume=sweep" in done.stderr
    assert "Traceback" not in done.stderr
    assert "1/" in done.stdout  # the job that ended before is told of


def test_a_wrong_value_and_a_loss_that_diverges_are_rows(tmp_path):
    settings = ("optimizer=sgd", "optimizer.lr=-1,1e20,1e-2")
    assert sweep(tmp_path, *QUICK, *settings) == 1
    rows = {row["number"]: row for row in results(tmp_path / "sweep")["rows"]}
    assert rows[0]["reason"].startswith("optimizer.lr=-1 is not allowed")
    assert rows[1]["state"] == "diverged"
    assert rows[1]["values"] == {"val/loss": None}
    assert (rows[2]["state"], rows[2]["rank"]) == ("done", 1)


def test_ctrl_c_prints_what_is_done_and_the_sweep_goes_on_from_there(tmp_path):
    settings = (*QUICK, "trainer.max_epochs=6", "optimizer.lr=1e-3,1e-2", "seed=1,2")
    assert sweep(tmp_path, *settings, "hydra.sweep.dir=whole") == 0
    number = begin(tmp_path, *settings)
    folder = tmp_path / "sweep"
    until((folder / "lr=0.001,seed=2" / "metrics.csv").exists, number)
    os.kill(number, signal.SIGINT)
    assert end(number) == 130
    states = [row["state"] for row in results(folder)["rows"]]
    assert states.count("done") >= 1
    assert "not run" in states
    assert f"sweep.resume={folder.name}" in said(tmp_path)
    assert sweep(tmp_path, "sweep.resume=sweep") == 0
    assert told(folder) == told(tmp_path / "whole")
    assert results(folder)["verdict"] == results(tmp_path / "whole")["verdict"]


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_ends_in_the_same_table(tmp_path):
    settings = (*QUICK, "trainer.max_epochs=6", "optimizer.lr=1e-3,1e-2", "model.dropout=0,0.5")
    invoke("--version", cwd=tmp_path)  # whose imports are no part of the time
    begun = time.monotonic()
    assert sweep(tmp_path, *settings, "hydra.sweep.dir=whole") == 0
    took = time.monotonic() - begun
    moments, folder, killed = random.Random(0), tmp_path / "sweep", 0
    arguments = settings
    for _ in range(20):
        number = begin(tmp_path, *arguments)
        time.sleep(moments.uniform(0.05, 0.35 * took))
        os.kill(number, signal.SIGKILL)
        killed += end(number) == -signal.SIGKILL
        if (folder / "sweep.json").exists():
            arguments = ("sweep.resume=sweep",)
        elif folder.exists():
            folder.rmdir() if not any(folder.iterdir()) else None
            arguments = settings if not folder.exists() else ("sweep.resume=sweep",)
    assert killed
    assert sweep(tmp_path, "sweep.resume=sweep") == 0
    assert told(folder) == told(tmp_path / "whole")
    for name in ("lr=0.001,dropout=0", "lr=0.01,dropout=0.5"):
        assert same_bits(weights(folder / name), weights(tmp_path / "whole" / name))


def test_the_last_checkpoint_is_the_same_for_all_jobs(tmp_path):
    folder = "hydra.run.dir=outputs/first"
    first = invoke("train", *QUICK[:-1], folder, cwd=tmp_path, draws=False)
    assert first.returncode == 0, first.stderr
    jobs = ("model.init_from=last", "seed=1,2", "hydra.launcher.n_jobs=1")
    assert sweep(tmp_path, *QUICK[:-1], *jobs, "hydra.sweep.dir=outputs/sweep") == 0
    start = str(tmp_path / "outputs" / "first" / "checkpoints" / "best.safetensors")
    for row in results(tmp_path / "outputs" / "sweep")["rows"]:
        assert summary(tmp_path / "outputs" / "sweep" / row["folder"])["changed"][
            "model.init_from"
        ]["value"] == start  # fmt: skip


def test_seeds_are_grouped_and_the_lead_is_judged(tmp_path):
    assert sweep(tmp_path, *QUICK, "optimizer.lr=1e-2,1e-4", "seed=1,2,3") == 0
    found = results(tmp_path / "sweep")
    assert len(found["groups"]) == 2
    assert "paired t-test over 3 seeds" in found["verdict"]
    assert found["verdict"] in said(tmp_path)


def test_another_objective_ranks_by_its_own_direction(tmp_path):
    assert sweep(tmp_path, *QUICK, "objective=val/accuracy", "optimizer.lr=1e-4,1e-2") == 0
    values = [row["values"]["val/accuracy"] for row in results(tmp_path / "sweep")["rows"]]
    assert values == sorted(values, reverse=True)


def test_jobs_without_validation_are_ranked_by_training(tmp_path):
    # The first job fails before it can tell.
    settings = (*QUICK, "trainer.limit_val_batches=0", "optimizer.lr=-1,1e-4,1e-2")
    assert sweep(tmp_path, *settings, "hydra.launcher.n_jobs=1") == 1
    assert "No validation: jobs are ranked by train/loss." in said(tmp_path)
    found = told(tmp_path / "sweep")
    assert [row[-1] for row in found] == ["done", "done", "failed"]
    assert found[0][2]["train/loss"] < found[1][2]["train/loss"]
    # Those that are done are not run again.
    assert sweep(tmp_path, "sweep.resume=sweep") == 1
    assert told(tmp_path / "sweep") == found


def test_the_best_of_a_file_can_be_trained_again_from_elsewhere(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: {dropout: 0.25}\n")
    settings = (*QUICK, "experiment=mine.yaml", "optimizer=sgd,adam", "optimizer.lr=1e-2")
    assert sweep(tmp_path, *settings) == 0
    best = results(tmp_path / "sweep")["best"]["folder"]
    (tmp_path / "elsewhere").mkdir()
    again = (f"experiment={tmp_path}/sweep/best.yaml", "seed=0", "hydra.sweep.dir=again")
    assert sweep(tmp_path / "elsewhere", *again) == 0, said(tmp_path / "elsewhere")
    job = tmp_path / "elsewhere" / "again" / "job"
    assert same_bits(weights(job), weights(tmp_path / "sweep" / best))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["optimizer.lr="], "optimizer.lr= has no value"),
        (["optimizer.lrr=1,2"], "optimizer.lrr is not a setting"),
        (["optimizer.lr=interval(0,1)"], "hydra/sweeper=optuna"),
        (["objective=test/loss", "seed=1,2"], "objective=test/loss is not allowed"),
        (
            ["objective=val/los", "seed=1"],
            "objective=val/los is not logged by any job; they log train/acc",
        ),
        (["sweep.resume=nowhere"], "sweep.resume=nowhere is not the folder of a sweep"),
        (["hydra/launcher=jobs", "hydra.launcher.n_jobs=0", "seed=1"], "n_jobs=0 is not allowed"),
        (["objective=5", "seed=1"], "objective=5 is not allowed"),
        (["objective=null", "seed=1"], "objective=null is not allowed"),
        (["objective=[]", "seed=1"], "objective=[] is not allowed"),
        (["hydra.sweeper.max_batch_size=-1", "seed=1"], "max_batch_size=-1 is not allowed"),
        (["hydra/launcher=rya"], "hydra/launcher=rya is not a choice"),
        (["model=mlp,nosuch"], "model=nosuch is not a choice"),
        (["find_lr=use,true"], "find_lr=use trains with it"),
        (["train=false", "ckpt_path=a,b"], "discern evaluate -m"),
        (["callbacks.early_stoping.patience=1,2"], "did you mean callbacks.early_stopping"),
        (["+callbacks.early_stoping.patience=1,2"], "did you mean early_stopping"),
        (["seed=range(0,100000000000)"], "more than 10,000 jobs"),
        (["seed=range(9,1)"], "seed=range(9,1) is empty"),
        (["seed=range(0,9,0)"], "seed=range(0,9,0) cannot be counted"),
        (["optimizer.lr=range(0.0,1.0,step=nan)"], "cannot be counted"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, arguments, sentence):
    assert sweep(tmp_path, *QUICK, *arguments) == 1
    assert sentence in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    if "is not logged by any" not in sentence:
        assert not list(tmp_path.glob("sweep/*/config.yaml"))  # no job was begun


def test_what_some_jobs_lack_is_said_before_the_first_and_nothing_is_left(tmp_path):
    (tmp_path / "data").write_text("")
    settings = ("data=mnist,catdog", "trainer.accelerator=cpu,mps", "seed=1,2", "model.dropout=7")
    assert sweep(tmp_path, "trainer.max_epochs=1", *settings) == 1
    told = [line for line in said(tmp_path).splitlines() if line.startswith("Error: ")]
    assert len(told) == 4
    assert told[0].startswith("Error: model.dropout=7 is not allowed")
    place = "data.dir=data is a file; it must be a folder of pictures."
    assert f"Error: Jobs with data=catdog: {place}" in told
    for beginning in (
        "Jobs with data=mnist: data.dir=data cannot be read as a folder",
        "Jobs with trainer.accelerator=mps: trainer.accelerator=mps is not allowed",
    ):
        assert any(line.startswith(f"Error: {beginning}") for line in told)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_goes_on_only_as_itself_and_alone(tmp_path, four):
    assert sweep(tmp_path, f"sweep.resume={four}", "optimizer.lr=5") == 1
    assert "optimizer.lr=5 (optimizer.lr=1e-2,1e-4 there)" in said(tmp_path)


@pytest.mark.parametrize(
    ("launcher", "package"),
    [
        ("joblib", "hydra_plugins.hydra_joblib_launcher"),
        ("submitit_local", "submitit"),
        ("ray", "ray"),
    ],
)
@pytest.mark.slow
def test_every_launcher_ends_in_the_same_table(tmp_path, launcher, package):
    pytest.importorskip(package)
    settings = (*QUICK, "optimizer.lr=1e-2,-1,1e-4")
    assert sweep(tmp_path, *settings, "hydra.sweep.dir=jobs") == 1
    assert sweep(tmp_path, *settings, f"hydra/launcher={launcher}") == 1, said(tmp_path)
    assert told(tmp_path / "sweep") == told(tmp_path / "jobs")


def test_jobs_at_the_same_time_end_in_the_same_table(tmp_path, four):
    assert sweep(tmp_path, *FOUR, "hydra.launcher.n_jobs=3") == 0
    assert told(tmp_path / "sweep") == told(four)
