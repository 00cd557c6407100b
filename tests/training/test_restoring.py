"""Going on from a stranger's checkpoint: nothing is loaded that is not of the form of its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from discern.errors import DiscernError
from discern.models.checkpoint import write
from discern.models.saved import read
from run_files import checkpoint, same_bits, weights

ARMED = (
    "callbacks.ema.decay=0.9", "callbacks.early_stopping.patience=3", "scheduler=step",
    "trainer.max_epochs=2",
)  # fmt: skip


@pytest.fixture
def first(tiny_run) -> Path:
    """The folder of a run with everything in its checkpoint that has a state."""
    return tiny_run(*ARMED, name="first").folder


def with_change(folder: Path, path: tuple[Any, ...], value: Any) -> Path:
    """The last checkpoint of a run, with something else at a place."""
    file = folder / "checkpoints" / "last.safetensors"
    content = read(file)
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    write(content, file)
    return file


KEY = (
    "RunCheckpoint{'monitor': 'val/loss', 'mode': 'min', 'every_n_train_steps': 0, "
    "'every_n_epochs': 1, 'train_time_interval': None}"
)
LAST = KEY.replace("'val/loss'", "None")
STOPPING = "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.zeros(3), "exp_avg of parameter 0"),
        (("optimizer_states",), [], "optimizer_states is not of 1 optimizers"),
        (("optimizer_states", 0, "param_groups", 0, "lr"), float("nan"), "lr is not a number"),
        (("lr_schedulers", 0, "step"), 3, r"StepLR\.step is not known"),
        (("lr_schedulers", 0, "base_lrs"), [1.0, 2.0], "base_lrs has 2 values and not 1"),
        (("lr_schedulers", 0, "gamma"), "x", "gamma is not a number"),
        (("loops", "fit_loop", "epoch_progress", "total", "ready"), -1, "ready is not a count"),
        (("loops", "fit_loop", "epoch_progress", "total", "ready"), 0, "has ended more than"),
        (("loops", "fit_loop", "epoch_progress", "total", "reset"), 1, "reset is not known"),
        (("loops", "fit_loop", "state_dict", "combined_loader"), [{}, {}], "is of 2 loaders"),
        (("loops", "fit_loop", "state_dict", "combined_loader", 0, "epoch"), "1", "is not a count"),
        (("loops",), None, "loops.fit_loop is not the progress of a fit"),
        (("callbacks",), [], "callbacks is not a mapping"),
        (("callbacks", "History", "rows"), [{"epoch": 1}], "step is not a count"),
        (("callbacks", "History", "totals", "images"), -5, "images: Input should be greater"),
        (("callbacks", "RngState", "cpu"), torch.zeros(8).byte(), "shape .8. and not .5056."),
        (("callbacks", "RngState", "cpu"), torch.zeros(5056).byte(), "not a state of a generator"),
        (("callbacks", STOPPING, "wait_count"), "many", "wait_count is not a whole number"),
        (("callbacks", STOPPING, "on_fit_end"), None, "on_fit_end is not known"),
        (("callbacks", "EMAWeightAveraging", "latest_update_step"), None, "not a whole number"),
        (("callbacks", KEY, "best_k_models"), {"x": "y"}, r"best_k_models\.x: it is not the value"),
        (("averaging_state", "n_averaged"), torch.zeros(3), "n_averaged has the shape"),
        (("current_model_state", "output.bias"), torch.zeros(3), "output.bias is 3 there"),
        (("train_metrics", "loss", "updates"), None, "updates is not a whole number"),
        (("pytorch-lightning_version",), "\x1b[31m", "cannot be continued: "),
        (("epoch",), "x", None),
    ],
)  # fmt: skip
def test_a_part_of_another_form_is_refused_in_a_sentence(tiny_run, first, path, value, told):
    file = with_change(first, path, value)
    go_on = lambda: tiny_run(*ARMED, f"ckpt_path={file}", "trainer.max_epochs=3", name="rest")  # noqa: E731
    if told is None:  # which only names a number that is then counted
        go_on()
        return
    with pytest.raises(DiscernError, match=told) as refused:
        go_on()
    assert str(refused.value).startswith(f"ckpt_path={file} ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("what", "place"),
    [
        ("best_k_models", "elsewhere"), ("best_model_path", "elsewhere"), ("both", "up"),
        ("both", "link"), ("both", "beside"),
    ],
)  # fmt: skip
def test_a_file_that_a_state_names_is_none_but_a_checkpoint_beside(
    tiny_run, first, tmp_path, what, place
):
    private = tmp_path / "private"
    private.mkdir()
    folder = first / "checkpoints"
    name = "secret.txt" if place == "beside" else "secret.safetensors"
    secret = (folder if place == "beside" else private) / name
    secret.write_text("a secret")
    named = str(secret)
    if place == "up":
        named = f"{folder}/../../private/{name}"
    if place == "link":
        (folder / name).symlink_to(secret)
        named = str(folder / name)
    for key in (KEY, LAST):
        if what != "best_model_path":
            with_change(first, ("callbacks", key, "best_k_models"), {named: torch.tensor(-9.0)})
        if what != "best_k_models":
            with_change(first, ("callbacks", key, "best_model_path"), named)
            with_change(first, ("callbacks", key, "kth_best_model_path"), named)
            with_change(first, ("callbacks", key, "last_model_path"), named)
    last = folder / "last.safetensors"
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    elsewhere = tiny_run(*ARMED, f"ckpt_path={last}", "trainer.max_epochs=3", name="rest")
    tiny_run(*ARMED, f"ckpt_path={last}", "trainer.max_epochs=3", name="first")

    for path in (elsewhere.folder / "checkpoints").iterdir():
        assert path.name in ("best.safetensors", "last.safetensors", "previous.safetensors")
        assert path.read_bytes() != b"a secret"
    assert all(path.exists() for path in before), "something was removed"
    assert secret.read_text() == "a secret"


def test_a_run_that_was_moved_is_gone_on_with(tiny_run, first, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(first, moved)
    whole = tiny_run(*ARMED, f"ckpt_path={first}", "trainer.max_epochs=4", name="whole")
    shutil.rmtree(first)
    rest = tiny_run(*ARMED, f"ckpt_path={moved}", "trainer.max_epochs=4", name="rest")
    for name in ("best", "last"):
        assert same_bits(weights(rest.folder, name), weights(whole.folder, name))


class Counting(Callback):
    """A user's own callback, with a state of its own."""

    def __init__(self) -> None:
        self.seen: dict[Any, Any] = {"batches": 0}

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen["batches"] += 1
        self.seen[self.seen["batches"], "mine"] = torch.ones(2)

    def state_dict(self) -> dict[str, Any]:
        return self.seen

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = {**state_dict, "batches": state_dict["batches"] + 0}


OWN = "+callbacks.own._target_=test_restoring.Counting"


def test_a_callback_of_ones_own_goes_on_with_its_state(tiny_run):
    first = tiny_run(OWN, name="first").folder
    rest = tiny_run(OWN, f"ckpt_path={first}", "trainer.max_epochs=3", name="rest").folder
    assert checkpoint(rest)["callbacks"]["Counting"]["batches"] == 18
    # And a run without it takes no notice of its state.
    tiny_run(f"ckpt_path={first}", "trainer.max_epochs=3", name="without")


def test_what_a_callback_of_ones_own_does_not_understand_is_told(tiny_run):
    first = tiny_run(OWN, name="first").folder
    file = with_change(first, ("callbacks", "Counting"), {"other": 1})
    with pytest.raises(DiscernError, match=r"cannot be continued: KeyError: 'batches'\.$"):
        tiny_run(OWN, f"ckpt_path={file}", "trainer.max_epochs=3", name="rest")


def test_a_run_with_averaged_weights_of_lightnings_is_gone_on_with(tiny_run):
    of_average = (
        "+callbacks.x._target_=lightning.pytorch.callbacks.StochasticWeightAveraging",
        "+callbacks.x.swa_lrs=0.01", "+callbacks.x.swa_epoch_start=1",
    )  # fmt: skip
    folder = Path(tiny_run(*of_average, name="first").folder)
    last = folder / "checkpoints" / "last.safetensors"
    tiny_run(*of_average, f"ckpt_path={last}", "trainer.max_epochs=3", name="on")
    schedule = ("callbacks", "StochasticWeightAveraging", "scheduler_state")
    for value in ({"step": 1}, {"_step_count": "x"}, {"_anneal_strategy": "x"}, 3):
        changed = with_change(folder, schedule, value)
        with pytest.raises(DiscernError, match=r"scheduler_state"):
            tiny_run(*of_average, f"ckpt_path={changed}", "trainer.max_epochs=3", name="on")
