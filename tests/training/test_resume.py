"""Going on from a checkpoint: with everything armed, with other settings, by short names."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from discern.errors import DiscernError
from discern.models.checkpoint import write
from discern.models.saved import load
from discern.training.resume import differences
from photos import photo_folder
from run_files import SHOWN, checkpoint, metrics_csv, same_bits, summary, weights
from starter import invoke

ARMED = (
    "model.dropout=0.2",
    "model.norm=batch",
    "data.augment=flip_shift",
    "callbacks.ema.decay=0.9",
    "callbacks.early_stopping.patience=3",
    "optimizer.lr=3e-3",
    "trainer.max_epochs=5",
)


@pytest.mark.parametrize("scheduler", ["none", "plateau", "step"])
def test_after_any_epoch_with_everything_armed(tiny_run, scheduler):
    shown = SHOWN if scheduler == "step" else ()  # pictures draw no random numbers
    armed = (*ARMED, f"scheduler={scheduler}")
    whole = tiny_run(*armed, *shown, name="whole")
    for epochs in (1, 2, 4):
        first = tiny_run(*armed, *shown, f"trainer.max_epochs={epochs}", name=f"first{epochs}")
        rest = tiny_run(*armed, *shown, f"ckpt_path={first.folder}", name=f"rest{epochs}")

        assert same_bits(weights(rest.folder), weights(whole.folder)), epochs
        assert same_bits(weights(rest.folder, "best"), weights(whole.folder, "best")), epochs
        one, other = (checkpoint(run.folder)["current_model_state"] for run in (rest, whole))
        assert same_bits(one, other), "the weights behind the average"
        assert rest.metrics == whole.metrics
        losses = [[row["train/loss"] for row in metrics_csv(run.folder)] for run in (rest, whole)]
        assert losses[0] == losses[1]


def test_the_best_so_far_is_remembered_in_another_folder(tiny_run):
    first = tiny_run("trainer.max_epochs=3", name="first")
    # A learning rate at which nothing gets better, so that the best stays that of the first run.
    rest = tiny_run(
        f"ckpt_path={first.folder}", "trainer.max_epochs=5", "optimizer.lr=10", name="rest"
    )
    assert same_bits(weights(rest.folder, "best"), weights(first.folder, "best"))
    assert rest.metrics["val"] == first.metrics["val"]


def test_a_best_checkpoint_that_is_gone_is_said(tiny_run, caplog):
    first = tiny_run(name="first")
    last = first.folder.parent / "alone" / "last.safetensors"
    last.parent.mkdir()
    (first.folder / "checkpoints" / "last.safetensors").rename(last)
    shutil.rmtree(first.folder)
    rest = tiny_run(f"ckpt_path={last}", "trainer.max_epochs=3", name="rest")
    assert "The best checkpoint so far" in caplog.text
    assert (rest.folder / "checkpoints" / "best.safetensors").is_file()


def test_changed_settings_are_said_and_count(tiny_run, caplog):
    first = tiny_run(name="first")
    with caplog.at_level(logging.INFO):
        rest = tiny_run(
            f"ckpt_path={first.folder}", "trainer.max_epochs=3",
            "optimizer.lr=1e-5", "optimizer.weight_decay=0.5", "model.dropout=0.1", name="rest",
        )  # fmt: skip
    for line in (
        "optimizer.lr=1e-05, was 0.001 in the checkpoint",
        "optimizer.weight_decay=0.5, was 0.0 in the checkpoint",
        "model.dropout=0.1, was 0.0 in the checkpoint",
    ):
        assert line in caplog.text
    (group,) = checkpoint(rest.folder)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (1e-5, 0.5)


def test_a_changed_rate_scales_the_rest_of_a_schedule(tiny_run):
    settings = ("scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5")
    first = tiny_run(*settings, "optimizer.lr=0.4", name="first")  # 0.4, 0.2
    rest = tiny_run(
        *settings, "optimizer.lr=0.04", f"ckpt_path={first.folder}", "trainer.max_epochs=4",
        name="rest",
    )  # fmt: skip
    rates = [row["train/lr"] for row in metrics_csv(rest.folder)]
    assert rates == pytest.approx([0.4, 0.2, 0.01, 0.005])


def test_a_schedule_of_another_length_is_refused(tiny_run):
    first = tiny_run("scheduler=onecycle", name="first")
    with pytest.raises(DiscernError, match=r"planned for 12 steps and the run now has 24"):
        tiny_run("scheduler=onecycle", "trainer.max_epochs=4", f"ckpt_path={first.folder}")


def test_weights_only_start_a_new_run(tiny_run):
    first = tiny_run(name="first")
    best = first.folder / "checkpoints" / "best.safetensors"
    second = tiny_run(f"model.init_from={best}", "trainer.max_epochs=1", name="second")
    assert checkpoint(second.folder)["global_step"] == 6
    assert not same_bits(weights(second.folder), weights(first.folder))
    again = tiny_run("trainer.max_epochs=1", name="again")
    assert second.metrics["train"]["loss"] < again.metrics["train"]["loss"]


@pytest.fixture
def two(tiny_run, monkeypatch, tmp_path):
    """The best run, and the newest one; the best checkpoint of each is not its last."""
    monkeypatch.chdir(tmp_path)
    settings = ("+callbacks.best_checkpoint.every_n_epochs=2", "trainer.max_epochs=3", "test=false")
    best = tiny_run(*settings, name="outputs/day/first")
    last = tiny_run(*settings, "optimizer.lr=1e-5", name="outputs/day/second")
    for run in (best, last):
        assert checkpoint(run.folder, "best")["epoch"] < checkpoint(run.folder)["epoch"] == 2
    return {"best": best.folder, "last": last.folder}


def ckpt_path(folder: Path) -> Path:
    return Path(yaml.safe_load((folder / "config.yaml").read_text())["ckpt_path"]).resolve()


@pytest.mark.parametrize("wanted", ["best", "last", "outputs/day/first"])
def test_training_goes_on_with_the_last_checkpoint_and_all_else_takes_the_best(
    tiny_run, two, wanted
):
    folder = two.get(wanted, two["best"]).resolve() / "checkpoints"
    rest = tiny_run("train=false", f"ckpt_path={wanted}", name="tested")
    assert ckpt_path(rest.folder) == folder / "best.safetensors"
    rest = tiny_run(f"ckpt_path={wanted}", "trainer.max_epochs=3", name="rest")
    assert ckpt_path(rest.folder) == folder / "last.safetensors"
    new = tiny_run(f"model.init_from={wanted}", "optimizer=sgd", "optimizer.lr=1e-30", name="new")
    assert same_bits(weights(new.folder), weights(folder.parent, "best"))
    assert same_bits(load(wanted).state_dict(), weights(folder.parent, "best"))


VALUES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2) | st.just([1]))


@given(VALUES, VALUES)
def test_differences_are_those_settings_that_differ(saved, now):
    changes = differences({"group": saved}, {"group": now})
    for key in "abc":
        if saved.get(key) == now.get(key):
            assert f"group.{key}" not in changes
        else:
            assert changes[f"group.{key}"] == (saved.get(key), now.get(key))


def test_the_seconds_of_a_continued_run_are_its_own(tiny_run):
    first = tiny_run(name="first")
    last = first.folder / "checkpoints" / "last.safetensors"
    content = checkpoint(first.folder)
    content["callbacks"]["History"]["totals"]["validation_seconds"] = 1000.0
    write(content, last)
    rest = tiny_run(f"ckpt_path={last}", "trainer.max_epochs=3", name="rest")
    seconds = summary(rest.folder)["seconds"]
    assert 0 < seconds["fit"] < 1000
    assert 0 < seconds["validation"] < 1000


@pytest.mark.parametrize("steps", [13, 18, 21])
def test_with_max_steps_after_an_epoch_that_is_over(tiny_run, steps):
    length = ("trainer.max_epochs=-1", f"trainer.max_steps={steps}", "scheduler=step")
    whole = tiny_run(*length, name="whole")
    first = tiny_run("scheduler=step", name="first")  # two epochs, 12 steps
    rest = tiny_run(*length, f"ckpt_path={first.folder}", name="rest")

    assert rest.reason == whole.reason == f"trainer.max_steps={steps} reached"
    assert same_bits(weights(rest.folder), weights(whole.folder))
    assert rest.metrics == whole.metrics
    names = ("epoch", "step", "train/loss", "val/loss")
    rows = [
        [[row.get(name) for name in names] for row in metrics_csv(run.folder, complete=False)]
        for run in (rest, whole)
    ]
    assert rows[0] == rows[1]


def test_changed_patience_counts(tiny_run):
    stays = ("optimizer=sgd", "optimizer.lr=1e-30", "trainer.max_epochs=9")
    first = tiny_run(*stays, "callbacks.early_stopping.patience=1", name="first")
    rest = tiny_run(
        *stays, f"ckpt_path={first.folder}", "callbacks.early_stopping.patience=4", name="rest"
    )
    assert rest.reason == "early stopping in epoch 5: val/loss has not improved for 4 epochs"


@pytest.mark.parametrize(
    ("scheduler", "before", "after", "rates"),
    [
        ("step", ["step_size=1", "gamma=0.5"], ["step_size=1", "gamma=0.2"], [1, 0.5, 0.25, 0.05]),
        ("step", ["step_size=2", "gamma=0.5"], ["step_size=3", "gamma=0.5"], [1, 1, 0.5, 0.25]),
        ("plateau", ["patience=9"], ["patience=0", "factor=0.5"], [1, 1, 1, 0.5]),
    ],
)
def test_changed_settings_of_a_schedule_count(tiny_run, scheduler, before, after, rates):
    stays = ("optimizer=sgd", "optimizer.lr=1e-6", f"scheduler={scheduler}")
    first = tiny_run(*stays, *(f"scheduler.{setting}" for setting in before), name="first")
    rest = tiny_run(
        *stays, *(f"scheduler.{setting}" for setting in after), f"ckpt_path={first.folder}",
        f"trainer.max_epochs={len(rates)}", name="rest",
    )  # fmt: skip
    told = [row["train/lr"] for row in metrics_csv(rest.folder)]
    assert told == pytest.approx([rate * 1e-6 for rate in rates])


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("step", ["scheduler=plateau"], "scheduler is StepLR there and ReduceLROnPlateau now"),
        (
            "onecycle",
            ["scheduler=onecycle", "scheduler.pct_start=0.5"],
            "scheduler.pct_start is 0.3 there and 0.5 now",
        ),
    ],
)
def test_a_schedule_that_cannot_be_gone_on_with_is_refused(tiny_run, before, after, said):
    first = tiny_run(f"scheduler={before}", name="first")
    with pytest.raises(DiscernError, match=said):
        tiny_run(*after, f"ckpt_path={first.folder}", name="rest")


@pytest.mark.parametrize(
    ("before", "after", "kinds"), [("adam", "sgd", "Adam there and SGD"), ("sgd", "adam", "SGD")]
)
def test_an_optimizer_that_cannot_go_on_from_the_state_of_another_is_refused(
    tiny_run, before, after, kinds
):
    settings = ["optimizer.momentum=0.9"] if before == "sgd" else []
    first = tiny_run(f"optimizer={before}", *settings, name="first")
    with pytest.raises(DiscernError, match=f"optimizer is {kinds}.*give the same, or start anew"):
        tiny_run(f"optimizer={after}", f"ckpt_path={first.folder}", name="rest")


def test_what_a_checkpoint_says_of_the_best_is_that_of_the_undisturbed_run(tiny_run):
    settings = ("callbacks.best_checkpoint.save_top_k=3", "trainer.val_check_interval=2")
    settings += ("callbacks.best_checkpoint.filename='step{step}'", "trainer.max_epochs=1")
    whole = tiny_run(*settings, name="whole").folder
    stop = "trainer.callbacks=[{_target_: run_files.Signal, step: 3, number: 15}]"
    part = tiny_run(*settings, stop, name="part").folder
    rest = tiny_run(*settings, f"ckpt_path={part}", name="rest").folder
    for name in ("step4", "step6", "last"):  # there are fewer than three until then
        one, other = checkpoint(rest, name), checkpoint(whole, name)
        kept, usual = _best(one), _best(other)
        assert Path(kept["kth_best_model_path"]).name == Path(usual["kth_best_model_path"]).name
        assert kept["kth_value"].equal(usual["kth_value"])
        for part_of, metric in other["train_metrics"].items():
            assert one["train_metrics"][part_of]["updates"] == metric["updates"]


def _best(content: dict[str, Any]) -> dict[str, Any]:
    """The state of the callback that keeps the best checkpoints."""
    states = content["callbacks"].items()
    (state,) = (s for key, s in states if key.startswith("RunCheckpoint{'monitor': 'val/loss'"))
    return dict(state)


def test_features_are_of_the_backbone_and_not_of_its_average(tmp_path):
    photo_folder(tmp_path / "photos", per_class=8)
    words = (
        "data=image_folder", "data.dir=photos", "data.image_size=32", "data.batch_size=3",
        "data.val_size=4", "data.test_size=2", "model=densenet_transfer", "model.weights=null",
        "model.backbone=squeezenet1_1", "model.head=[4]", "callbacks.ema.decay=0.9", "test=false",
        "engine=torch", "trainer.accelerator=cpu", "trainer.max_epochs=2", "threads=1",
        "report=false", "logger=csv", "hydra.run.dir=run", "auto_resume=true",
    )  # fmt: skip
    stop = "trainer.callbacks=[{_target_: run_files.Signal, step: 3, number: 15}]"
    cache = {"DISCERN_CACHE_DIR": str(tmp_path / "cache")}
    part = invoke("train", *words, stop, cwd=tmp_path, draws=False, **cache)
    assert part.returncode == 143, part.stderr
    before = summary(tmp_path / "run")["features"]
    rest = invoke("train", *words, cwd=tmp_path, draws=False, **cache)
    assert rest.returncode == 0, rest.stderr
    after = summary(tmp_path / "run")["features"]
    assert (after["store"], after["computed"]) == (before["store"], 0)


def test_the_best_stays_where_a_run_goes_on_in_its_own_folder(tmp_path):
    words = ("data.source=sample", "data.fraction=0.1", "model.hidden=[8]", "test=false",
             "trainer.accelerator=cpu", "logger=csv", "hydra.run.dir=run")  # fmt: skip
    assert (
        invoke("train", *words, "trainer.max_epochs=2", cwd=tmp_path, draws=False).returncode == 0
    )
    # The one epoch that is left is better, and Lightning removes what was best before.
    last = "ckpt_path=run/checkpoints/last.safetensors"
    done = invoke("train", *words, "trainer.max_epochs=3", last, cwd=tmp_path, draws=False)
    assert done.returncode == 0, done.stderr
    assert checkpoint(tmp_path / "run", "best")["epoch"] == 2


def test_a_plateau_s_schedule_misses_no_epoch(tiny_run):
    stays = ("optimizer=sgd", "optimizer.lr=1e-6", "callbacks.early_stopping=null")
    settings = (*stays, "scheduler=plateau", "scheduler.patience=0")
    whole = tiny_run(*settings, "trainer.max_epochs=4", name="whole")
    first = tiny_run(*settings, "trainer.max_epochs=2", name="first")
    rest = tiny_run(*settings, "trainer.max_epochs=4", f"ckpt_path={first.folder}", name="rest")
    rates = [[row["train/lr"] for row in metrics_csv(run.folder)] for run in (whole, rest)]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 2


def test_a_run_that_early_stopping_has_ended_does_not_begin_another_epoch(tiny_run):
    stays = ("optimizer=sgd", "optimizer.lr=1e-30", "trainer.max_epochs=9")
    whole = tiny_run(*stays, "callbacks.early_stopping.patience=2", name="whole")
    rest = tiny_run(
        *stays, "callbacks.early_stopping.patience=2", f"ckpt_path={whole.folder}", name="rest"
    )
    assert rest.reason == whole.reason
    assert len(metrics_csv(rest.folder)) == len(metrics_csv(whole.folder)) == 3


def test_of_a_run_with_nothing_left_to_train_there_are_all_rows(tiny_run):
    whole = tiny_run(name="whole")
    rest = tiny_run(f"ckpt_path={whole.folder}", name="rest")
    assert metrics_csv(rest.folder) == metrics_csv(whole.folder)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("named", ["", "/checkpoints/last.safetensors"])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(tiny_run, caplog, named):
    whole = tiny_run("trainer.max_epochs=3", name="whole")
    first = tiny_run("trainer.max_epochs=2", name="first")
    damage(first.folder / "checkpoints" / "last.safetensors")
    rest = tiny_run("trainer.max_epochs=3", f"ckpt_path={first.folder}{named}", name="rest")
    assert same_bits(weights(rest.folder), weights(whole.folder))
    said = [record.getMessage() for record in caplog.records if "cannot be used" in record.msg]
    assert said == [
        f"{first.folder}/checkpoints/last.safetensors cannot be used (its SHA-256 is not what it "
        "says): the checkpoint previous.safetensors beside it is used."
    ]


def test_of_checkpoints_that_are_all_damaged_each_is_listed_with_its_reason(tiny_run, tmp_path):
    first = tiny_run(name="first")
    kept = first.folder / "checkpoints"
    load(first.folder)
    damage(kept / "best.safetensors")
    assert load(first.folder).epoch == 2  # type: ignore[comparison-overlap]
    damage(kept / "last.safetensors")
    (kept / "previous.safetensors").write_bytes(b"")
    with pytest.raises(DiscernError) as error:
        tiny_run(f"ckpt_path={first.folder}", name="rest")
    assert str(error.value) == (
        f"ckpt_path={first.folder} has no checkpoint that can be used (last.safetensors: its "
        "SHA-256 is not what it says; previous.safetensors: it is empty; best.safetensors: its "
        "SHA-256 is not what it says)."
    )
