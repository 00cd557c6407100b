"""Settings found by trying them: what is suggested, and that the search leaves nothing behind."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import matplotlib.image
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor, nn

from discern.config.check import check
from discern.config.user_config import conf_dir
from discern.errors import DiscernError
from discern.run import train
from discern.runs.state import Ended, State
from discern.runs.summary import Summary
from discern.training import find as finders
from discern.training.build import build_data
from discern.training.result import Result
from photos import photo_folder
from run_files import (
    NOT_DRAWN,
    SHOWN,
    composed,
    metrics_csv,
    own_model,
    same_bits,
    summary,
    weights,
)
from starter import invoke

SOURCE = "data.source=sample"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty one, and one for temporary files; both must be empty in the end."""
    here, temporary = tmp_path / "here", tmp_path / "temporary"
    here.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield here
    assert not list(here.iterdir())
    assert not [path for path in temporary.iterdir() if path.name.startswith("discern-")]


def files(folder: Path) -> list[str]:
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    events = [name for name in names if "tfevents" in name]
    return [*sorted(names - set(events)), f"{len(events)} event files"]


def settings(folder: Path) -> dict[str, Any]:
    """config.yaml, without the folder's path."""
    text = (folder / "config.yaml").read_text()
    return yaml.safe_load(text.replace(str(folder), "FOLDER"))


def measured(folder: Path) -> list[dict[str, float]]:
    rows = metrics_csv(folder)
    return [{k: v for k, v in row.items() if "second" not in k} for row in rows]


def assert_same_run(found: Result, by_hand: Result, *besides: str) -> None:
    assert same_bits(weights(found.folder), weights(by_hand.folder))
    assert measured(found.folder) == measured(by_hand.folder)
    assert found.metrics == by_hand.metrics
    assert settings(found.folder) == settings(by_hand.folder)
    assert set(files(found.folder)) == {*files(by_hand.folder), *besides}


# The learning rate


def test_a_rate_is_suggested_and_nothing_trained(tiny_run, caplog):
    caplog.set_level(logging.INFO)
    result = tiny_run(*SHOWN, "find_lr=true")
    facts = summary(result.folder)
    lr = facts["found"]["optimizer.lr"]
    assert 1e-4 < lr < 1
    assert result.reason == facts["reason"] == f"find_lr=true: optimizer.lr={lr} suggested"
    assert f"python train.py optimizer.lr={lr}" in caplog.text
    assert result.metrics == {}
    assert files(result.folder) == [
        "config.yaml",
        "lr_find.png",
        "overrides.yaml",
        "report.html",
        "summary.json",
        "0 event files",
    ]
    height, width, _ = matplotlib.image.imread(result.folder / "lr_find.png").shape
    assert width > height > 200
    assert settings(result.folder)["find_lr"] is True


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        # What draws random numbers, keeps averages, changes the rate, augments.
        (
            "model.dropout=0.5",
            "callbacks.ema.decay=0.9",
            "scheduler=onecycle",
            "data.augment=shift",
        ),
        ("optimizer=sgd", "scheduler=cosine", "data.sampler=balanced", "data.val_size=0"),
    ],
)
def test_the_run_with_it_is_the_run_by_hand_to_the_bit(tiny_run, overrides):
    found = tiny_run("find_lr=use", *overrides, name="found")
    lr = summary(found.folder)["found"]["optimizer.lr"]
    assert settings(found.folder)["optimizer"]["lr"] == lr
    by_hand = tiny_run(f"optimizer.lr={lr}", *overrides, name="by_hand")
    assert len(measured(found.folder)) == 2
    assert_same_run(found, by_hand, "lr_find.png")


def test_the_same_command_finds_the_same(tiny_run):
    one, other = (tiny_run("find_lr=true", name=name) for name in ("one", "other"))
    assert one.reason == other.reason


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), per_class=12)


@pytest.mark.parametrize("mode", ["auto", "refresh", "off"])
def test_a_frozen_backbone(photos, tmp_path, monkeypatch, mode):
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))

    def run(*overrides: str, name: str) -> Result:
        (tmp_path / name).mkdir()
        transfer = ("model=densenet_transfer", "model.backbone=squeezenet1_1", "model.weights=null")
        data = ("data=image_folder", "data.image_size=64", "data.num_workers=0", "data.val_size=4")
        small = (
            "model.head=[8]",
            "model.norm=batch",
            "data.batch_size=8",
            "data.test_size=4",
            "data.augment=notes",
        )
        cpu = (
            "seed=1",
            "trainer.accelerator=cpu",
            "trainer.max_epochs=2",
            "engine=torch",
            "threads=1",
            "logger=csv",
            NOT_DRAWN,
        )
        folders = (f"data.dir={photos}", f"folder={tmp_path / name}", f"cache.mode={mode}")
        return train(composed(*transfer, *data, *small, *cpu, *folders, *overrides))

    found = run("find_lr=use", "optimizer=sgd", name="found")
    facts = summary(found.folder)
    by_hand = run(f"optimizer.lr={facts['found']['optimizer.lr']}", "optimizer=sgd", name="by_hand")
    assert_same_run(found, by_hand, "lr_find.png")
    if mode == "auto":  # the search has computed what the run reads
        assert facts["features"]["computed"] == 0


def test_a_rate_of_the_schedulers_own_changes_in_proportion(tiny_run):
    twice = ("scheduler=onecycle", "scheduler.max_lr=0.002")
    found = tiny_run("find_lr=use", *twice, name="found")
    changed = summary(found.folder)["found"]
    lr, peak = changed["optimizer.lr"], changed["scheduler.max_lr"]
    assert peak == pytest.approx(2 * lr, rel=0.01)
    by_hand = tiny_run(f"optimizer.lr={lr}", twice[0], f"scheduler.max_lr={peak}", name="by_hand")
    assert_same_run(found, by_hand, "lr_find.png")


def test_rates_that_refer_to_the_optimizers_follow_it_and_others_change_in_proportion():
    cfg = composed("scheduler=onecycle", "optimizer.lr=0.01")
    assert finders.rates_in_proportion(cfg, 0.05) == {"optimizer.lr": 0.05}
    cfg = composed("scheduler=onecycle", "optimizer.lr=0.01", "scheduler.max_lr=[0.1,0.02]")
    assert finders.rates_in_proportion(cfg, 0.05)["scheduler.max_lr"] == [0.5, 0.1]
    cfg = composed("scheduler=cosine", "optimizer.lr=0.01", "scheduler.eta_min=0.001")
    assert finders.rates_in_proportion(cfg, 0.005)["scheduler.eta_min"] == 0.0005


def test_parameter_groups_keep_their_proportions_in_the_search():
    seen: list[list[float]] = []
    parameters = [nn.Parameter(torch.ones(1)) for _ in range(2)]

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    groups = [{"params": [p], "factor": 0.1**n} for n, p in enumerate(parameters)]
    model: Any = SimpleNamespace(
        parameter_groups=lambda: groups, optimizer_factory=lambda groups: Watched(groups, lr=1.0)
    )
    finders._keep_proportions(model)
    optimizer = model.optimizer_factory(groups)
    for rate in (0.1, 0.2):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, rate])
    assert seen == [pytest.approx([0.1, 0.01]), pytest.approx([0.2, 0.02])]


def test_the_command_to_use_it_is_what_was_typed_without_the_search():
    typed = ["model.hidden=[8,8]", "find_lr=true", "optimizer.lr=1", "+optimizer.amsgrad=true"]
    told = finders.command_with({"optimizer.lr": 0.0123}, typed)
    assert told == (
        "python train.py 'model.hidden=[8,8]' +optimizer.amsgrad=true optimizer.lr=0.0123"
    )


# No suggestion


@pytest.mark.parametrize("find_lr", ["true", "use"])
@pytest.mark.parametrize(
    ("overrides", "trouble"),
    [
        (["optimizer=sgd", "+optimizer.maximize=true"], "the loss falls at none of the rates"),
        (own_model("test_find.Nothing"), "the loss diverges at once"),
        (["trainer.limit_train_batches=0"], "no batch was seen"),
    ],
)
def test_no_rate_to_suggest(tiny_run, tmp_path, find_lr, overrides, trouble):
    with pytest.raises(DiscernError, match=trouble) as caught:
        tiny_run(f"find_lr={find_lr}", *overrides)
    assert str(caught.value).startswith(f"find_lr={find_lr} has no learning rate to suggest")
    facts = summary(tmp_path / "run")
    assert facts["state"] == "failed"
    assert facts["reason"].startswith("find_lr=")
    assert not (tmp_path / "run" / "checkpoints").exists()


class Nothing(nn.Module):
    """A network whose output is not a number."""

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(input_shape), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images.flatten(1)) * math.nan


def test_exit_status_and_the_folder_of_a_command(working_directory, tmp_path):
    small = (SOURCE, "data.fraction=0.05", "trainer.max_epochs=1", "trainer.accelerator=cpu")
    folder = tmp_path / "given"
    done = invoke("train", *small, "find_lr=true", f"hydra.run.dir={folder}", cwd=working_directory)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Finished: find_lr=true: optimizer.lr=" in done.stdout
    assert "use it     python train.py data.source=sample data.fraction=0.05" in done.stdout
    flat = ("optimizer=sgd", "+optimizer.maximize=true", f"hydra.run.dir={tmp_path / 'flat'}")
    failed = invoke("train", *small, "find_lr=use", *flat, cwd=working_directory)
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: find_lr=use has no learning rate to suggest")
    assert failed.stderr.count("\n") == 1


# The batch size


@pytest.mark.parametrize("overrides", [(), ("model.dropout=0.5", "find_lr=use")])
def test_the_run_with_the_size_found_is_the_run_by_hand_to_the_bit(tiny_run, overrides, caplog):
    caplog.set_level(logging.INFO)
    found = tiny_run("data.batch_size=auto", *overrides, name="found")
    changed = summary(found.folder)["found"]
    assert changed["data.batch_size"] in (8, 16)  # ten batches of the 240 images
    assert f"batch size {changed['data.batch_size']}" in caplog.text
    assert settings(found.folder)["data"]["batch_size"] == changed["data.batch_size"]
    typed = [f"{name}={value}" for name, value in changed.items()]
    others = [each for each in overrides if each != "find_lr=use"]
    by_hand = tiny_run(*typed, *others, name="by_hand")
    assert_same_run(found, by_hand, *(["lr_find.png"] if "optimizer.lr" in changed else []))


SPEEDS = {8: 10.0, 16: 20.0, 32: 21.0, 64: 39.0, 128: 40.0, 256: 41.0, 512: 100.0}


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (100_000, 64),  # 32 was disturbed, and twice no more than 64 is the end
        (400, 16),  # 40 images at most
        (60, 8),
        (5, 5),
    ],
)
def test_images_per_second_decide_and_an_epoch_has_ten_batches(
    monkeypatch, images, expected, tiny_mnist
):
    cfg = composed("data.source=full", "data.batch_size=auto", "trainer.accelerator=cpu")
    cfg.data.dir = str(tiny_mnist)
    data = finders_data(cfg, images)
    monkeypatch.setattr(
        finders, "images_per_second", lambda cfg, model, data, size: SPEEDS.get(size, 1.0)
    )
    assert finders.find_batch_size(cfg, data) == expected


def finders_data(cfg: Any, images: int) -> Any:
    """A data module that says it has so many training images."""
    data: Any = build_data(cfg)

    class Said(type(data)):
        num_images: ClassVar[dict[str, int]] = {"train": images}

    data.__class__ = Said
    return data


def test_memory_is_tried_with_lightnings_search(tiny_mnist):
    cfg = composed("data.source=full", "data.batch_size=auto", "trainer.accelerator=cpu")
    cfg.data.dir = str(tiny_mnist)
    data = finders_data(cfg, 270)
    limits = (1, 20, 32, 100)
    with finders._isolated_trial(cfg, data) as (apart, model, its_data):
        refused = model.training_step

        def step(batch: Any, batch_idx: int) -> Any:
            if len(batch[1]) > 32:
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return refused(batch, batch_idx)

        model.training_step = step  # type: ignore[method-assign]
        found = [finders._largest_in_memory(apart, model, its_data, limit) for limit in limits]
    # It doubles what is below the limit.
    assert found == [8, 32, 32, 32]


def test_other_commands_need_no_number(tiny_mnist):
    cfg = composed("data.source=full", "data.batch_size=auto")
    cfg.data.dir = str(tiny_mnist)
    data: Any = build_data(cfg)
    assert next(iter(data.train_dataloader()))[1].shape == (1,)
    names = [file.stem for file in (conf_dir() / "data").glob("*.yaml")]
    assert len(names) > 5
    for name in names:
        check(composed(f"data={name}", "data.dir=x", "data.batch_size=auto"))


# What is not allowed


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["find_lr=maybe"], "find_lr=maybe is not allowed; it must be true, use or false."),
        (["find_lr=1"], "find_lr=1 is not allowed; it must be true, use or false."),
        (
            ["find_lr=true", "trainer.fast_dev_run=true"],
            "find_lr=true is not possible together with trainer.fast_dev_run=true: it trains on "
            "too few batches.",
        ),
        (
            ["find_lr=true", "train=false", "ckpt_path=FILE"],
            "find_lr=true is not possible together with train=false: with it nothing is trained.",
        ),
        (
            ["find_lr=use", "ckpt_path=FILE"],
            "find_lr=use is not possible together with ckpt_path: a continued run keeps its own.",
        ),
        (
            ["data.batch_size=auto", "ckpt_path=FILE"],
            "data.batch_size=auto is not possible together with ckpt_path: a continued run keeps "
            "its own.",
        ),
        (
            ["find_lr=use", "cache.shard=1/2"],
            "find_lr=use is not possible together with cache.shard: with it nothing is trained.",
        ),
        (
            ["find_lr=true", "~optimizer.lr", "optimizer._target_=torch.optim.LBFGS"],
            "find_lr=true needs optimizer.lr, and LBFGS is given none here.",
        ),
        (
            ["data.batch_size=all"],
            "data.batch_size=all is not allowed; it must be a whole number above 0, or auto.",
        ),
        (
            ["data.batch_size=0"],
            "data.batch_size=0 is not allowed; it must be a whole number above 0, or auto.",
        ),
    ],
)
def test_what_is_not_allowed_is_one_sentence(tmp_path, overrides, sentence):
    (tmp_path / "some.safetensors").touch()
    given = [o.replace("FILE", str(tmp_path / "some.safetensors")) for o in overrides]
    with pytest.raises(DiscernError) as caught:
        check(composed(*given))
    assert str(caught.value) == sentence


def test_several_devices(tiny_mnist, monkeypatch):
    cfg = composed("data.source=full", "find_lr=true", "trainer.accelerator=cpu")
    cfg.data.dir = str(tiny_mnist)
    monkeypatch.setattr(
        finders, "build_trainer", lambda *_: SimpleNamespace(world_size=2), raising=True
    )
    with pytest.raises(DiscernError, match=r"on one device, and here are 2: .*trainer\.devices=1"):
        finders.find_lr(cfg, finders_data(cfg, 240))


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_ends_the_search(tiny_run, tmp_path, number, ends):
    handler = signal.getsignal(signal.SIGINT)
    target = own_model("test_find.Interrupting", f"+model.number={int(number)}")
    with pytest.raises(ends) as caught:
        tiny_run("find_lr=use", *target)
    if ends is SystemExit:
        assert caught.value.code == 143
    assert signal.getsignal(signal.SIGINT) is handler
    facts = summary(tmp_path / "run")
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert (facts["state"], facts["reason"]) == ("interrupted", f"by {name}")
    assert not (tmp_path / "run" / "checkpoints").exists()


class Interrupting(Nothing):
    """A network in whose third batch a signal comes."""

    def __init__(self, number: int, **shape: Any) -> None:
        super().__init__(**shape)
        self.number, self.batches = number, 0

    def forward(self, images: Tensor) -> Tensor:
        self.batches += 1
        if self.batches == 3:
            signal.raise_signal(self.number)
        return self.layer(images.flatten(1))


def test_numbers_as_small_as_a_rate_are_kept_in_the_summary(tmp_path):
    given = Summary(tmp_path / "summary.json", found={"optimizer.lr": 1.23e-05, "loss": 0.1234567})
    given.write(Ended(State.DONE, ""))
    assert summary(tmp_path)["found"] == {"optimizer.lr": 1.23e-05, "loss": 0.123457}


def test_nothing_is_found_unless_it_is_asked_for():
    cfg = composed()
    assert OmegaConf.select(cfg, "find_lr") is False
    assert not finders.is_searched(cfg)
