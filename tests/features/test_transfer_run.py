"""Runs on photographs with a backbone: what is frozen, kept, continued, measured."""

from __future__ import annotations

import csv
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import discern
from discern.errors import DiscernError
from discern.models.checkpoint import write
from discern.models.saved import read
from discern.reports.run_page import write_run_page
from discern.run import train
from discern.training.result import Result
from photos import photo_folder
from run_files import composed, metrics_csv, summary
from starter import invoke

# 24 pictures: 16 in two batches, 4 held out, 4 for the test.
SETTINGS = (
    "model=densenet_transfer",
    "model.backbone=squeezenet1_1",
    "model.weights=null",
    "model.head=[8]",
    "data=image_folder",
    "data.image_size=64",
    "data.num_workers=0",
    "data.batch_size=8",
    "data.val_size=4",
    "data.test_size=4",
    "cache.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "engine=torch",
    "threads=1",
    "logger=csv",
    "report=false",
    "callbacks.dashboard.sparing=true",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), per_class=12)


@pytest.fixture
def run(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "200")  # a narrow terminal has no images/s

    def run(*overrides: str, name: str = "run") -> Result:
        (tmp_path / name).mkdir(parents=True)
        folders = (f"data.dir={photos}", f"folder={tmp_path / name}")
        return train(composed(*SETTINGS, *folders, *overrides))

    return run


def weights(result: Result) -> dict[str, Tensor]:
    return dict(result.model.network.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def losses(result: Result) -> list[dict[str, float]]:
    timed = ("seconds", "images_per_second", "epoch_seconds")
    rows = metrics_csv(result.folder)
    return [{k: v for k, v in row.items() if not any(word in k for word in timed)} for row in rows]


# The cache changes nothing but the time


@pytest.mark.parametrize(
    "settings",
    [
        ["data.augment=none"],
        ["data.augment=notes"],
        ["trainer.limit_test_batches=2", "data.eval_batch_size=1"],
    ],
)
def test_training_from_the_cache_is_training_without_it_to_the_bit(run, settings):
    cached = run(*settings, "model.dropout=0.5", name="cached")
    plain = run(*settings, "model.dropout=0.5", "cache.mode=off", name="plain")
    assert same(weights(cached), weights(plain))
    assert cached.metrics["test"] == plain.metrics["test"]


@pytest.mark.parametrize(("augment", "said"), [("none", False), ("light", True)])
def test_that_an_image_drawn_again_has_the_view_that_is_cached_is_said(run, caplog, augment, said):
    caplog.set_level(logging.INFO)
    result = run("data.sampler=balanced", f"data.augment={augment}", "cache.views=2")
    sentence = "an image that data.sampler draws again has the same features"
    assert (sentence in caplog.text) == said
    assert summary(result.folder)["features"]["computed"] == (16 * 2 if said else 16) + 8


def test_a_run_of_one_batch_computes_features_for_that_alone(run):
    result = run("trainer.limit_train_batches=1")
    assert "features" not in summary(result.folder)


def test_what_insists_on_the_cache_is_refused_where_its_folder_is_a_file(run, tmp_path):
    (tmp_path / "file").write_text("")
    for setting in ("cache.shard=1/2", "cache.mode=require"):
        with pytest.raises(DiscernError, match="is a file; it must be a folder"):
            run(setting, f"cache.dir={tmp_path / 'file'}", name=setting[6:10])


def test_a_second_run_computes_nothing_and_says_so(run):
    first, second = run(name="first"), run("optimizer.lr=0.01", "model.head=[5]", name="second")
    assert summary(first.folder)["features"]["computed"] == 24
    facts = summary(second.folder)["features"]
    assert (facts["computed"], facts["reused"]) == (0, 24)
    run("cache.mode=require", "optimizer=sgd", "model.dropout=0.4", name="third")
    run("cache.mode=require", "cache.max_gb=1e300", name="fourth")


@pytest.mark.parametrize(
    "change",
    ["model.backbone=mobilenet_v3_small", "data.image_size=72", "data.mean=[0.4,0.5,0.5]",
     "cache.precision=float16"],
)  # fmt: skip
def test_another_backbone_or_preprocessing_is_a_miss(run, change):
    run(name="first")
    with pytest.raises(DiscernError, match=r"cache\.mode=require, and the features of 16 of 16"):
        run(change, "cache.mode=require", name="second")


def test_another_release_of_what_reads_pictures_is_a_miss(run, monkeypatch):
    run(name="first")
    monkeypatch.setattr("discern.training.serving.release", lambda name: "99.0")
    assert summary(run(name="second").folder)["features"]["reused"] == 0


def test_a_run_that_only_tests_computes_the_features_of_the_test_alone(run):
    best = run("cache.mode=off", name="first").folder / "checkpoints" / "best.safetensors"
    tested = run("train=false", f"ckpt_path={best}", name="second")
    assert summary(tested.folder)["features"]["computed"] == 4


def test_random_weights_of_another_seed_are_another_backbone(run):
    first = run(name="first")
    second = run("seed=3", name="second")
    assert first.folder != second.folder
    assert summary(second.folder)["features"]["reused"] == 0


def test_views_are_computed_as_epochs_need_them(run):
    result = run("data.augment=notes", "cache.views=2", "trainer.max_epochs=5")
    # Two views of 16 training images, and the other 8.
    assert summary(result.folder)["features"]["computed"] == 40
    stopped = run("data.augment=light", "cache.views=4", "trainer.max_epochs=1", name="early")
    assert summary(stopped.folder)["features"]["computed"] == 16 + 8 - 8  # val and test are known


def test_a_run_that_goes_on_computes_the_views_that_it_shows(run, cache):
    views = ("data.augment=notes", "cache.views=4")
    part = run(*views, "trainer.max_epochs=3", name="part")
    assert summary(part.folder)["features"]["computed"] == 3 * 16 + 8
    shutil.rmtree(cache / "features")
    rest = run(*views, "trainer.max_epochs=4", f"ckpt_path={part.folder}", name="rest")
    assert summary(rest.folder)["features"]["computed"] == 16 + 8


def test_a_part_of_the_features_is_computed_for_others_to_join(run):
    parts = [run(f"cache.shard={k}/3", name=f"part{k}") for k in (1, 2, 3)]
    assert sum(summary(part.folder)["features"]["computed"] for part in parts) == 24
    assert all(not (part.folder / "checkpoints").exists() for part in parts)
    assert summary(run("cache.mode=require").folder)["features"]["computed"] == 0


# What is frozen


def test_the_backbone_is_as_it_was_after_ten_epochs(run):
    settings = ("model.backbone=mobilenet_v3_small", "trainer.max_epochs=10", "cache.mode=off")
    before = run(*settings, "trainer.max_epochs=0", name="before")
    after = run(*settings, "callbacks.early_stopping=null", name="after")
    frozen = [key for key in weights(after) if key.startswith("backbone.")]
    assert any("running_var" in key for key in frozen)
    assert all(torch.equal(weights(before)[key], weights(after)[key]) for key in frozen)
    assert not torch.equal(
        weights(before)["head.output.weight"], weights(after)["head.output.weight"]
    )
    counts = summary(after.folder)["parameters"]
    assert counts["trainable"] == sum(
        value.numel() for key, value in weights(after).items() if key.startswith("head.")
    )
    assert counts["frozen"] > 900_000


def optimizer_parameters(path: Path) -> int:
    (state,) = read(path)["optimizer_states"]
    return sum(len(group["params"]) for group in state["param_groups"])


def test_the_optimizer_has_the_head_alone(run):
    result = run("trainer.max_epochs=1")
    assert optimizer_parameters(result.folder / "checkpoints" / "last.safetensors") == 4


def test_unfrozen_from_the_start_each_depth_has_its_rate(run):
    result = run(
        "model.unfreeze=all", "model.lr_factor=0.1", "trainer.max_epochs=1", "scheduler=onecycle"
    )
    (state,) = read(result.folder / "checkpoints" / "last.safetensors")["optimizer_states"]
    peaks = [group["max_lr"] for group in state["param_groups"]]
    assert peaks == pytest.approx([1e-3, 1e-4, 1e-5])


# Unfreezing on the way


FINETUNE = (
    "callbacks=finetune",
    "seed=1",  # with which the head of eight units lets gradients through
    "callbacks.finetune.last_block=2",
    "callbacks.finetune.everything=4",
    "trainer.max_epochs=5",
    "callbacks.early_stopping=null",
)


def test_a_stage_trains_from_its_epoch_on_and_leaves_the_cache(run):
    only = run(*FINETUNE, "trainer.max_epochs=1", name="head")
    last = run(*FINETUNE, "trainer.max_epochs=3", name="last")
    every = run(*FINETUNE, name="all")

    def changed(one: Result, other: Result) -> set[str]:
        a, b = (
            read(r.folder / "checkpoints" / "last.safetensors")["state_dict"] for r in (one, other)
        )
        a = {**weights(only), **a}
        return {
            key.split(".")[3] for key in b if key[:9] == "backbone." and not a[key].equal(b[key])
        }

    assert summary(only.folder)["features"]["computed"] == 24
    first, later = changed(only, last), changed(last, every)
    assert first
    assert first < later, "the rest of the backbone is trained from epoch 4 on"


def test_a_best_epoch_before_the_backbone_was_trained_has_the_published_one(run):
    pytest.importorskip("efficientnet_lite_pytorch")
    result = run(
        *FINETUNE,
        *("model=efficientnet_lite_transfer", "model.weights=default", "model.head=[]"),
        "model.label_smoothing=0.1",  # where all is right there is a gradient all the same
        *("model.backbone=efficientnet_lite0", "model.lr_factor=1", "trainer.max_epochs=2"),
        *("optimizer.lr=10", "scheduler=onecycle", "scheduler.div_factor=1e5"),
    )
    assert summary(result.folder)["best_epoch"] == 1
    best = discern.load(result.folder / "checkpoints" / "best.safetensors")
    assert same(weights(result), dict(best.state_dict()))


def test_fine_tuning_goes_on_as_if_never_stopped(run):
    whole = run(*FINETUNE, "data.augment=light", name="whole")
    end = read(whole.folder / "checkpoints" / "last.safetensors")["state_dict"]
    for epochs in (1, 2, 4):
        last = f"trainer.max_epochs={epochs}"
        part = run(*FINETUNE, "data.augment=light", last, name=f"part{epochs}")
        rest = run(
            *FINETUNE, "data.augment=light", f"ckpt_path={part.folder}", name=f"rest{epochs}"
        )
        content = read(rest.folder / "checkpoints" / "last.safetensors")
        assert same(end, content["state_dict"]), epochs
        assert losses(whole) == losses(rest), epochs


def test_fine_tuning_is_the_same_with_and_without_the_cache(run):
    cached = run(*FINETUNE, name="cached")
    plain = run(*FINETUNE, "cache.mode=off", name="plain")
    assert losses(cached) == losses(plain)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("callbacks=finetune", "model=mlp"), "needs a model with a backbone"),
        (("callbacks=finetune", "model.unfreeze=all"), "must train more than what is trained"),
    ],
)
def test_stages_that_cannot_be_are_refused(run, tmp_path, overrides, said):
    if "model=mlp" in overrides:
        settings = ("model=mlp", "callbacks=finetune", "data=mnist", "data.source=sample")
        with pytest.raises(DiscernError, match=said):
            train(composed(*settings, "trainer.max_epochs=1", f"folder={tmp_path}"))
        return
    with pytest.raises(DiscernError, match=said):
        run(*overrides)


@pytest.mark.parametrize("scheduler", ["none", "step"])
@pytest.mark.parametrize(
    ("changed", "rates"),
    [
        ("optimizer.lr=5e-4", [5e-4, 5e-5, 5e-6]),
        ("model.lr_factor=0.5", [1e-3, 5e-4, 2.5e-4]),
    ],
)
def test_changed_rates_keep_the_proportion_of_the_groups(run, scheduler, changed, rates):
    settings = ("model.unfreeze=all", "model.lr_factor=0.1", f"scheduler={scheduler}")
    first = run(*settings, "trainer.max_epochs=1", name="first")
    rest = run(*settings, changed, f"ckpt_path={first.folder}", "trainer.max_epochs=2", name="rest")
    content = read(rest.folder / "checkpoints" / "last.safetensors")
    groups = content["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == pytest.approx(rates)
    if scheduler == "step":
        assert content["lr_schedulers"][0]["base_lrs"] == pytest.approx(rates)


# Checkpoints


def test_a_local_files_weights_are_in_the_checkpoint_and_published_ones_are_not(run, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    lite = ("model=efficientnet_lite_transfer", "model.weights=default", "trainer.max_epochs=1")
    lite += ("model.backbone=efficientnet_lite0",)
    small, full = run(*lite, name="small"), run(*lite, "checkpoint.full=true", name="full")
    sizes = [(r.folder / "checkpoints" / "best.safetensors").stat().st_size for r in (small, full)]
    assert sizes[0] < 1_000_000 < 13_000_000 < sizes[1]
    images = torch.randn(2, 3, 64, 64)
    outputs = [
        discern.load(r.folder / "checkpoints" / "best.safetensors")(images) for r in (small, full)
    ]
    assert torch.equal(*outputs)
    assert torch.equal(outputs[0], small.model(images))


def test_a_head_whose_backbone_is_another_is_refused(run, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    lite = ("model=efficientnet_lite_transfer", "model.weights=default", "trainer.max_epochs=1")
    result = run(*lite, "model.backbone=efficientnet_lite0")
    path = result.folder / "checkpoints" / "best.safetensors"
    content = read(path)
    content["discern"]["backbone"]["digest"] = "0" * 64
    write(content, path)
    with pytest.raises(DiscernError, match="holds a head for efficientnet_lite0 with weights"):
        discern.load(path)


@pytest.mark.parametrize("wanted", ["best", "outputs/tuned"])
def test_a_backbone_is_taken_from_a_run(run, tmp_path, monkeypatch, wanted):
    monkeypatch.chdir(tmp_path)
    tuned = run(*FINETUNE, "trainer.max_epochs=2", name="outputs/tuned")
    before = read(tuned.folder / "checkpoints" / "best.safetensors")["state_dict"]
    nothing_new = ("data.val_size=0", "data.test_size=0", "trainer.max_epochs=1")
    kept = weights(run(f"model.weights={wanted}", *nothing_new, name="new"))
    backbone = [key for key in before if key.startswith("backbone.")]
    assert backbone
    assert all(torch.equal(kept[key], before[key]) for key in backbone)


def test_a_new_run_from_fine_tuned_weights_keeps_them_all(run):
    tuned = run(*FINETUNE, "trainer.max_epochs=2", name="tuned")
    best = tuned.folder / "checkpoints" / "last.safetensors"
    result = run(f"model.init_from={best}", "trainer.max_epochs=1", name="new")
    kept = read(result.folder / "checkpoints" / "best.safetensors")["state_dict"]
    before = read(best)["state_dict"]
    backbone = [key for key in before if key.startswith("backbone.")]
    assert backbone
    assert all(torch.equal(kept[key], before[key]) for key in backbone)


# The other commands


def test_evaluate_predict_and_the_run_agree(run, photos, tmp_path):
    result = run()
    best = result.folder / "checkpoints" / "best.safetensors"
    cache = {"DISCERN_CACHE_DIR": str(tmp_path / "cache")}
    done = invoke(
         "evaluate", f"ckpt_path={best}", f"data.dir={photos}", "hydra.run.dir=e",
        cwd=tmp_path, **cache,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "e" / "predictions.csv").open() as file:
        measured = {row["file"]: row for row in csv.DictReader(file)}
    accuracy = sum(r["label"] == r["predicted"] for r in measured.values()) / len(measured)
    assert accuracy == pytest.approx(result.metrics["test"]["accuracy"])
    done = invoke("predict", f"ckpt_path={best}", f"input={photos}", "out=p", cwd=tmp_path, **cache)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "p" / "predictions.csv").open() as file:
        predicted = {row["file"]: row for row in csv.DictReader(file)}
    assert len(measured) == 4
    for name, row in measured.items():
        assert predicted[name]["label"] == row["predicted"]
        assert float(predicted[name]["probability"]) == pytest.approx(
            float(row[f"probability_{row['predicted']}"]), rel=1e-4
        )


def test_inspect_counts_what_is_there(photos, tmp_path):
    twin = tmp_path / "twin"
    photo_folder(twin, per_class=10, parts=("train", "test"))
    (twin / "test" / "cat" / "again.jpg").write_bytes(
        (twin / "train" / "cat" / "0.jpg").read_bytes()
    )
    (twin / "train" / "dog" / "bad.jpg").write_bytes(b"no picture")
    done = invoke(
         "inspect", "data=image_folder", f"data.dir={twin}", "hydra.run.dir=i",
        "data.val_size=0", cwd=tmp_path, DISCERN_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 image is in both train and test" in done.stderr
    assert "bad.jpg" in (tmp_path / "i" / "bad_files.csv").read_text()
    assert "again.jpg" in (tmp_path / "i" / "repeated.csv").read_text()


def test_too_many_bad_files_end_the_run_with_their_list(tmp_path):
    folder = photo_folder(tmp_path / "photos")
    (folder / "cat" / "bad.jpg").write_bytes(b"no picture")
    done = invoke(
        "train", *SETTINGS, f"data.dir={folder}", "hydra.run.dir=r",
        cwd=tmp_path, DISCERN_CACHE_DIR=str(tmp_path / "cache"),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: data.max_bad=0.01 is exceeded: 1 of 13 pictures")
    assert "bad_files.csv lists them" in done.stderr
    assert "not a picture" in (tmp_path / "r" / "bad_files.csv").read_text()


# Settings for few or uneven images


def counts(result: Result) -> Any:
    return summary(result.folder)["data"]["images"]


def test_a_fraction_of_the_training_images_leaves_the_others_as_they_were(run):
    assert counts(run("data.fraction=0.5")) == {"train": 8, "val": 4, "test": 4}


def test_folds_take_turns(run):
    results = [run("data.folds=5", f"data.fold={k}", name=f"fold{k}") for k in range(5)]
    assert [counts(result)["val"] for result in results] == [4] * 5
    assert len({result.metrics["val"]["loss"] for result in results}) == 5


@pytest.mark.parametrize(
    "setting",
    ["model.class_weights=auto", "model.class_weights=[1.0,3.0]", "data.sampler=balanced",
     "model.mixup=0.2", "model.cutmix=1.0", "model.label_smoothing=0.1"],
)  # fmt: skip
def test_a_setting_of_training_changes_training_and_not_what_is_measured(run, setting):
    uneven = () if "auto" not in setting else ("data.fraction=0.9",)
    plain, changed = run(*uneven, name="plain"), run(setting, *uneven, name="changed")
    if "auto" not in setting:  # which does nothing to classes of equal size
        assert not same(weights(plain), weights(changed))
    again = run(
        "train=false", f"ckpt_path={changed.folder}/checkpoints/best.safetensors", name="again"
    )
    assert again.metrics["test"]["loss"] == pytest.approx(changed.metrics["test"]["loss"])


def test_class_weights_that_are_too_few_are_refused(run):
    with pytest.raises(DiscernError, match=r"has 3 numbers; it must have one for each of the 2"):
        run("model.class_weights=[1.0,2.0,3.0]")


def test_class_weights_may_be_given_by_name(run, caplog):
    caplog.set_level("INFO")
    by_name = run("model.class_weights={dog:3.0,cat:1.0}", name="name")
    assert "model.class_weights: cat: 1, dog: 3" in caplog.text
    assert "classes    cat: " in caplog.text
    assert same(weights(by_name), weights(run("model.class_weights=[1.0,3.0]", name="list")))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("{dog:3.0,cta:1.0}", "lacks cat and names cta, which is not a class"),
        ("{dog:3.0,cat:1.0,cow:1.0}", "names cow, which is not a class"),
        ("{cat:3.0,dog:0}", "is not allowed; it must be auto, a number above 0 for each class"),
    ],
)
def test_class_weights_by_other_names_are_refused(run, value, why):
    with pytest.raises(DiscernError, match=re.escape(why)):
        run(f"model.class_weights={value}")


def test_mixed_batches_continue_to_the_bit(run):
    settings = ("model.mixup=0.4", "trainer.max_epochs=4", "callbacks.early_stopping=null")
    whole = run(*settings, name="whole")
    part = run(*settings, "trainer.max_epochs=2", name="part")
    rest = run(*settings, f"ckpt_path={part.folder}", name="rest")
    assert same(weights(whole), weights(rest))


# How fast it was, and what was counted


def lines(caplog) -> list[str]:
    return [line for line in caplog.messages if line.startswith("epoch ")]


def test_a_speed_of_cached_features_is_not_told_as_the_networks(run, caplog):
    with caplog.at_level("INFO", "discern"):
        result = run("trainer.max_epochs=2")
    assert all(line.endswith(" images/s (features read)") for line in lines(caplog))
    counted = summary(result.folder)["images_counted"]
    assert counted["features_read"] == counted["all"] > 0
    assert counted["features_computed"] == 0
    page = write_run_page(result.folder).read_text()
    assert "features read: not the speed of the whole network" in page


def test_without_the_cache_it_is_the_networks(run, caplog):
    with caplog.at_level("INFO", "discern"):
        result = run("cache.mode=off", "trainer.max_epochs=1")
    assert all(line.endswith(" images/s") for line in lines(caplog))
    counted = summary(result.folder)["images_counted"]
    assert counted == {"all": counted["all"], "features_read": 0, "features_computed": 0}


def test_features_of_later_views_are_computed_in_their_epoch(run, caplog):
    with caplog.at_level("INFO", "discern"):
        run("data.augment=notes", "cache.views=2", "trainer.max_epochs=3")
    told = [line.rpartition(" images/s ")[2] for line in lines(caplog)]
    assert told == ["(features read)", "(features computed)", "(features read)"]


def test_once_the_backbone_is_trained_it_is_the_networks(run, caplog):
    with caplog.at_level("INFO", "discern"):
        run("callbacks=finetune", "callbacks.finetune.last_block=2",
            "callbacks.finetune.everything=null", "trainer.max_epochs=2")  # fmt: skip
    first, second = lines(caplog)
    assert first.endswith("(features read)")
    assert second.endswith(" images/s")
