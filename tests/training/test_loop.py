"""The lean epoch loop against Lightning's own: everything that can be observed must be the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from discern.training.loop import LeanEpochLoop, use_lean_epoch_loop

CLASSES, FEATURES, ROWS, BATCH = 3, 12, 90, 8  # eleven batches and a smaller one
BATCHES = 12

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Such small tensors are shared out among threads only to wait for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# What is trained, and on what


def rows(seed: int, count: int = ROWS) -> tuple[Tensor, Tensor]:
    """Three overlapping clouds: something to learn, and something to stay wrong about."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn(count, FEATURES, generator=generator)
    return noise + F.one_hot(labels, FEATURES) * 2.0, labels


def loader(shuffle: bool = True) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*rows(1)), batch_size=BATCH, shuffle=shuffle)


class Bulk(Dataset[Any]):
    """Batches put together by the dataset itself, as discern's in-memory images are."""

    def __init__(self) -> None:
        self.x, self.y = rows(1)

    def __len__(self) -> int:
        return ROWS

    def __getitems__(self, indices: list[int]) -> Any:
        chosen = torch.tensor(indices)
        return self.make(self.x[chosen], self.y[chosen])

    def make(self, x: Tensor, y: Tensor) -> Any:
        return x, y


class BulkDicts(Bulk):
    def make(self, x: Tensor, y: Tensor) -> Any:
        return {"x": x, "y": y}


class Pair:
    """A batch that knows how to move itself, and can tell that it was."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, device: Any) -> Pair:
        return Pair(self.x.to(device) * 2, self.y.to(device))

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.x, self.y))


class BulkPairs(Bulk):
    def make(self, x: Tensor, y: Tensor) -> Any:
        return Pair(x, y)


class Lengthless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return zip(*rows(1), strict=True)


class SameListAgain:
    """A loader that hands out one list over and over: what a step does to it must not stay."""

    def __init__(self) -> None:
        self.batch = list(rows(1, BATCH))

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch] * 5)


class SomeNone(SameListAgain):
    def __iter__(self) -> Iterator[Any]:
        return iter([self.batch, None, self.batch, None, self.batch])


def bulk(dataset: Bulk) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=BATCH, shuffle=True, collate_fn=lambda batch: batch)


class Mistaken(SameListAgain):
    """A loader whose epoch is not as long as it says."""

    def __init__(self, says: int) -> None:
        super().__init__()
        self.says = says

    def __len__(self) -> int:
        return self.says


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES)
        )

    def loss(self, batch: Any) -> Tensor:
        x, y = (batch["x"], batch["y"]) if isinstance(batch, dict) else batch
        return F.cross_entropy(self.net(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch), prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class LogsEachStep(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("twice", 2 * loss)
        return loss


class LogsSometimes(Net):
    """Also under a name the validation logs under, so that one may hide the other's value."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        if batch_idx % 3 == 1:
            self.log("val/loss", loss, on_step=True, on_epoch=False, prog_bar=True)
            self.log("loss", loss, on_step=False, on_epoch=True)
        return loss


class LogsInHooks(Net):
    def on_train_epoch_start(self) -> None:
        self.log("at/epoch_start", float(self.current_epoch))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.log("at/batch_start", float(batch_idx), on_step=True)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.log("grad", self.net[0].weight.grad.norm(), on_step=True)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % 2:
            self.log("at/batch_end", outputs["loss"], on_step=True)

    def on_train_epoch_end(self) -> None:
        self.log("at/epoch_end", 1.0)


class ReturnsDicts(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "index": batch_idx}


class ReturnsNothingAtTimes(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx % 4 == 2 else self.loss(batch)


class TakesNoIndex(Net):
    def training_step(self, batch: Any) -> Any:  # type: ignore[override]
        return self.loss(batch)


class Drops(Net):
    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(F.dropout(x, 0.3, self.training)), y)


class SpoilsItsBatch(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        batch[0] = torch.zeros_like(batch[0])
        return loss


class StopsEarlyInEpoch(Net):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == 7 else None


class ChangesItsLoss(Net):
    """Keeps the loss it returned and doubles the one it is shown: these are two tensors."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.kept = self.loss(batch)
        return self.kept

    def on_before_backward(self, loss: Tensor) -> None:
        loss.mul_(2)

    def on_after_backward(self) -> None:
        self.log("kept", self.kept.detach())


class ChangesItsLossInBackward(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.kept = self.loss(batch)
        return self.kept

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        loss.mul_(2).backward()

    def on_after_backward(self) -> None:
        self.log("kept", self.kept.detach())


class ClearsGradients(Net):
    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if batch_idx % 2 == 0:
            optimizer.zero_grad(set_to_none=False)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        (3 * loss).backward()

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, 0.1, "value")


class MovesItsBatches(Net):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 1, batch[1]]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2, batch[1]] if self.trainer.training else batch


class MovesItsBatchesInData(LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2, batch[1]]


class BatchByName(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch["a"])


class TwoLoaders(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch["a"]) + self.loss(batch["b"])


class AsksWhereItIs(Net):
    """Notes under which hook's name Lightning would file what is logged, wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(("step", self._current_fx_name))
        loss = self.loss(batch)
        loss.register_hook(lambda _: self.seen.append(("gradient", self._current_fx_name)))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
            register(lambda *_: self.seen.append(("optimizer", self._current_fx_name)))
        return optimizer


class HalvesGradients(SingleDeviceStrategy):
    def post_backward(self, closure_loss: Tensor) -> None:
        for p in self.model.parameters():
            p.grad.mul_(0.5)


class Replaces(Callback):
    """Puts another method on an object Lightning works with, as some libraries do."""

    def __init__(self, find: Callable[[Any], Any], name: str, method: Callable[..., Any]) -> None:
        self.find, self.name, self.method = find, name, method

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        setattr(self.find(trainer), self.name, self.method)


def replaced(find: Callable[[Any], Any], name: str, method: Callable[..., Any]) -> Case:
    return Case(LogsEachStep, callbacks=lambda _: [Replaces(find, name, method)], lean=False)


def scheduled(make: Callable[[Any], Any], module: type[Net] = Net, **config: Any) -> type[Net]:
    class Scheduled(module):  # type: ignore[misc,valid-type]
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": make(optimizer), **config},
            }

    return Scheduled


def optimized(make: Callable[[Any], Any]) -> type[Net]:
    class Optimized(Net):
        def configure_optimizers(self) -> Any:
            return make(self.parameters())

    return Optimized


def cosine(optimizer: Any) -> Any:
    return CosineAnnealingLR(optimizer, 5)


def plateau(optimizer: Any) -> Any:
    return ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)


class OwnSchedulerStep(scheduled(cosine, interval="step")):  # type: ignore[misc]
    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step(self.trainer.global_step // 3)


class OwnOptimizerStep(Net):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:  # type: ignore[override]
        optimizer.step(closure=closure)
        for group in optimizer.param_groups:
            group["lr"] *= 0.9


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class TakesIterator(Net):
    def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


class StepsTwice(torch.optim.SGD):
    """Calls its closure twice, as line searches do."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        with torch.enable_grad():
            closure()
        return super().step(closure)


class ClosesWithoutGrad(torch.optim.SGD):
    """Calls its closure where gradients are off; Lightning turns them on itself."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = closure()
        super().step()
        return loss


def with_step_hook(parameters: Any) -> Any:
    """An optimizer with a hook that must see the gradients of the step before."""
    optimizer = torch.optim.SGD(parameters, lr=0.05)

    def halve(optimizer: Any, args: Any, kwargs: Any) -> None:
        for p in optimizer.param_groups[0]["params"]:
            if p.grad is not None:
                p.data.sub_(p.grad, alpha=0.01)

    optimizer.register_step_pre_hook(halve)
    return optimizer


# What is observed


def told(value: Any) -> Any:
    """A value in a form that can be compared and stays as it is now."""
    if isinstance(value, Tensor):
        return value.detach().clone().tolist()
    if isinstance(value, dict):
        return {key: told(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *map(told, value)]
    if value is None or isinstance(value, int | float | str):
        return value
    return type(value).__name__


def observed(trainer: Trainer) -> dict[str, Any]:
    """All that a hook could find out about where training is."""
    module, results = trainer.lightning_module, trainer.fit_loop.epoch_loop._results
    fetcher = trainer.fit_loop._data_fetcher
    return {
        "progress": trainer.fit_loop.state_dict(),
        "step": trainer.global_step,
        "at": (trainer.current_epoch, trainer.fit_loop.batch_idx, module._current_fx_name),
        "last": trainer.is_last_batch,
        "fetched": fetcher and (fetcher.fetched, fetcher.done),
        "first": trainer._logger_connector._first_loop_iter,
        "gradients": told([p.grad for p in module.parameters()]),
        "weights": told([p.detach().sum() for p in module.parameters()]),
        "held": (told(results.batch), results.batch_size, list(results)),
        "grad_mode": torch.is_grad_enabled(),
        "metrics": told(trainer.callback_metrics) if trainer.training else None,
        "stored": told(trainer._logger_connector._callback_metrics),
        "bar": told(trainer._logger_connector._progress_bar_metrics),
    }


class Trace(Callback):
    """Overrides every hook there is and writes down when it is called and with what."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note(self, name: str, trainer: Trainer, *args: Any) -> None:
        self.seen.append((name, told(args), observed(trainer)))


def _traced(name: str) -> Any:
    def hook(self: Trace, trainer: Trainer, module: Any, *args: Any, **kwargs: Any) -> None:
        self.note(name, trainer, *args)

    return hook


HOOKS = [name for name in vars(Callback) if name.startswith("on_") and "checkpoint" not in name]
for _name in HOOKS:
    setattr(Trace, _name, _traced(_name))


class OnlyEnds(Callback):
    """Overrides few hooks, so that the others stay empty: the usual case."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, i: Any
    ) -> None:
        self.seen.append((told(outputs), told(batch), i, observed(trainer)))


class Memory(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[Any] = []

    @property
    def name(self) -> str:
        return "memory"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """There are none."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((dict(metrics), step))

    def save(self) -> None:
        self.logged.append("saved")


def traced_module(module: type[Net]) -> type[Net]:
    """``module`` with every one of its own per-batch hooks written down, then called."""

    class Traced(module):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []

    def recorded(name: str) -> Any:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.seen.append((name, told(args), told(kwargs), observed(self.trainer)))
            return getattr(super(Traced, self), name)(*args, **kwargs)

        return hook

    for name in (
        "on_before_batch_transfer",
        "on_after_batch_transfer",
        "on_train_batch_start",
        "on_train_batch_end",
        "on_before_zero_grad",
        "optimizer_zero_grad",
        "on_before_backward",
        "backward",
        "on_after_backward",
        "on_before_optimizer_step",
        "configure_gradient_clipping",
        "lr_scheduler_step",
    ):
        setattr(Traced, name, recorded(name))
    return Traced


@dataclass
class Case:
    """A way to train, and whether it is one that the lean loop takes on itself."""

    module: type[Net] = Net
    trainer: dict[str, Any] = field(default_factory=dict)
    data: Callable[[], Any] = loader
    callbacks: Callable[[Path], list[Callback]] = lambda folder: []
    lean: bool = True
    validate: bool = True
    resume_from: str | None = None


@dataclass
class Outcome:
    """Everything a run left behind."""

    weights: Any
    optimizer: Any
    rates: Any
    progress: Any
    step: int
    epoch: int
    logged: Any
    metrics: Any
    random: Any
    hooks: Any
    files: Any
    error: str | None


def run(case: Case, lean: bool, folder: Path, trace: Callback | None) -> Outcome:
    folder.mkdir()
    torch.manual_seed(3)
    logger, module = Memory(), case.module()
    callbacks = [*([trace] if trace else []), *case.callbacks(folder)]
    quiet = {"enable_model_summary": False, "enable_checkpointing": False}
    settings = {"max_epochs": 2, "log_every_n_steps": 2, **quiet, **case.trainer}
    settings = {
        key: value() if isinstance(value, type) else value for key, value in settings.items()
    }
    settings["enable_checkpointing"] = any(isinstance(c, ModelCheckpoint) for c in callbacks)
    settings["enable_progress_bar"] = any(isinstance(c, TQDMProgressBar) for c in callbacks)
    trainer = Trainer(
        accelerator="cpu",
        logger=logger,
        callbacks=callbacks,
        default_root_dir=folder,
        **settings,
    )
    loop = use_lean_epoch_loop(trainer) if lean else None
    data = case.data()
    val = DataLoader(TensorDataset(*rows(2, 20)), batch_size=10) if case.validate else None
    resume = str(folder.parent / case.resume_from) if case.resume_from else None
    error = None
    try:
        if isinstance(data, LightningDataModule):
            trainer.fit(module, datamodule=data, ckpt_path=resume)
        else:
            trainer.fit(module, data, val, ckpt_path=resume)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    except SIGTERMException:
        error = "SIGTERM"
    if loop is not None:
        assert loop.lean == case.lean, loop.why_stock
    return Outcome(
        weights=module.state_dict(),
        optimizer=[optimizer.state_dict() for optimizer in trainer.optimizers],
        rates=[config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        progress=trainer.fit_loop.state_dict(),
        step=trainer.global_step,
        epoch=trainer.current_epoch,
        logged=logger.logged,
        metrics=(
            trainer.callback_metrics,
            trainer.logged_metrics,
            trainer.progress_bar_metrics,
        ),
        random=torch.get_rng_state(),
        hooks=(getattr(trace, "seen", None), getattr(module, "seen", None)),
        files=saved(folder),
        error=error,
    )


def saved(folder: Path) -> dict[str, Any]:
    """The checkpoints in a folder, but for what callbacks keep in them (paths and times)."""
    files = {path.name: torch.load(path, weights_only=False) for path in folder.glob("**/*.ckpt")}
    return {
        name: {key: value for key, value in content.items() if key != "callbacks"}
        for name, content in sorted(files.items())
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def check(case: Case, folder: Path, trace: Callable[[], Callback | None] = lambda: None) -> Outcome:
    """Train both ways, require the same outcome, and return it."""
    stock = run(case, False, folder / "stock", trace())
    lean = run(case, True, folder / "lean", trace())
    for part in fields(Outcome):
        ours, theirs = getattr(lean, part.name), getattr(stock, part.name)
        if part.name == "hooks" and not same(ours, theirs):
            for mine, its in zip(ours, theirs, strict=True):
                for index, (left, right) in enumerate(zip(mine or (), its or (), strict=False)):
                    assert same(left, right), f"hook {index}: {left} != {right}"
        assert same(ours, theirs), f"{part.name}: {ours} != {theirs}"
    return stock


# The tests


class Swaps(Callback):
    """Exchanges parts of the trainer in the middle of an epoch."""

    def __init__(self, swap: Callable[[Trainer], None], when: str = "end") -> None:
        self.swap, self.when = swap, when

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.when == "start":
            self.at(trainer, batch_idx)

    def on_train_batch_end(self, trainer: Any, module: Any, o: Any, b: Any, batch_idx: int) -> None:
        if self.when == "end":
            self.at(trainer, batch_idx)

    def at(self, trainer: Trainer, batch_idx: int) -> None:
        if batch_idx == 4 and trainer.current_epoch == 0:
            self.swap(trainer)


class Nudges(Callback):
    def on_after_backward(self, trainer: Any, module: Any) -> None:
        for p in module.parameters():
            p.grad.mul_(0.5)


def _accumulate(trainer: Trainer) -> None:
    trainer.accumulate_grad_batches = 2


def _new_optimizer(trainer: Trainer) -> None:
    trainer.strategy.optimizers = [torch.optim.SGD(trainer.lightning_module.parameters(), lr=0.3)]


def _clip(trainer: Trainer) -> None:
    trainer.gradient_clip_val = 0.01


CASES = {
    "plain": Case(),
    "no validation": Case(validate=False),
    "bulk batches": Case(data=lambda: bulk(Bulk())),
    "dicts for batches": Case(data=lambda: bulk(BulkDicts())),
    "batches that move themselves": Case(data=lambda: bulk(BulkPairs())),
    "iterable without length": Case(
        data=lambda: DataLoader(Lengthless(), batch_size=BATCH),
        trainer={"val_check_interval": 1.0},
    ),
    "iterable, limited": Case(
        data=lambda: DataLoader(Lengthless(), batch_size=BATCH),
        trainer={"limit_train_batches": 5},
    ),
    "one list for every batch": Case(SpoilsItsBatch, data=SameListAgain),
    "batches of None": Case(data=SomeNone),
    "fewer batches than the loader says": Case(data=lambda: Mistaken(7)),
    "more batches than the loader says": Case(data=lambda: Mistaken(3)),
    "one loader by a name": Case(BatchByName, data=lambda: {"a": loader()}),
    "two loaders": Case(TwoLoaders, data=lambda: {"a": loader(), "b": loader()}, validate=False),
    "limit_train_batches=5": Case(trainer={"limit_train_batches": 5}),
    "limit_train_batches=0.5": Case(trainer={"limit_train_batches": 0.5}),
    "max_steps in an epoch": Case(trainer={"max_steps": 17, "max_epochs": -1}),
    "max_steps at its end": Case(trainer={"max_steps": BATCHES, "max_epochs": -1}),
    "val_check_interval=0.25": Case(LogsSometimes, {"val_check_interval": 0.25}),
    "val_check_interval=5": Case(LogsSometimes, {"val_check_interval": 5}),
    "val_check_interval=5 across epochs": Case(
        LogsSometimes, {"val_check_interval": 5, "check_val_every_n_epoch": None}
    ),
    "val_check_interval by time": Case(trainer={"val_check_interval": {"hours": 1}}),
    "check_val_every_n_epoch=2": Case(trainer={"check_val_every_n_epoch": 2, "max_epochs": 4}),
    "no sanity check": Case(trainer={"num_sanity_val_steps": 0}),
    "log_every_n_steps=1": Case(LogsSometimes, {"log_every_n_steps": 1}),
    "log_every_n_steps=0": Case(LogsEachStep, {"log_every_n_steps": 0}),
    "log_every_n_steps=5": Case(LogsEachStep, {"log_every_n_steps": 5}),
    "fast_dev_run": Case(LogsEachStep, {"fast_dev_run": 3}),
    "overfit_batches": Case(trainer={"overfit_batches": 2, "max_epochs": 3}),
    "detect_anomaly": Case(trainer={"detect_anomaly": True}),
    "reload every epoch": Case(trainer={"reload_dataloaders_every_n_epochs": 1}),
    "logs each step": Case(LogsEachStep),
    "logs every third step": Case(LogsSometimes),
    "logs in hooks": Case(LogsInHooks),
    "returns a dict": Case(ReturnsDicts),
    "returns None": Case(ReturnsNothingAtTimes),
    "takes no index": Case(TakesNoIndex),
    "dropout": Case(Drops),
    "stops at batch 7": Case(StopsEarlyInEpoch),
    "changes its loss": Case(ChangesItsLoss),
    "changes its loss in backward": Case(ChangesItsLossInBackward),
    "asks where it is": Case(AsksWhereItIs),
    "own zero_grad, backward, clipping": Case(ClearsGradients),
    "moves its batches": Case(MovesItsBatches),
    "data module moves the batches": Case(data=MovesItsBatchesInData),
    "gradient_clip_val": Case(trainer={"gradient_clip_val": 0.1}),
    "gradient_clip_val by value": Case(
        trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}
    ),
    "scheduler by step": Case(scheduled(cosine, interval="step", frequency=2)),
    "scheduler by epoch": Case(scheduled(cosine, interval="epoch"), {"max_epochs": 3}),
    "plateau by epoch": Case(scheduled(plateau, monitor="val/loss"), {"max_epochs": 4}),
    "plateau by step": Case(
        scheduled(plateau, LogsEachStep, monitor="loss", interval="step", frequency=3)
    ),
    "plateau without its metric": Case(scheduled(plateau, monitor="nowhere")),
    "own scheduler step": Case(OwnSchedulerStep),
    "adam": Case(optimized(torch.optim.AdamW)),
    "lbfgs": Case(optimized(lambda p: torch.optim.LBFGS(p, max_iter=3))),
    "optimizer with a hook": Case(optimized(with_step_hook)),
    "optimizer that closes twice": Case(optimized(lambda p: StepsTwice(p, lr=0.05))),
    "optimizer that closes without grad": Case(optimized(lambda p: ClosesWithoutGrad(p, lr=0.05))),
    "progress bar": Case(LogsEachStep, callbacks=lambda folder: [TQDMProgressBar(refresh_rate=1)]),
    "checkpoint every 5 steps": Case(
        LogsSometimes,
        callbacks=lambda folder: [ModelCheckpoint(folder, every_n_train_steps=5, save_top_k=-1)],
    ),
    "checkpoint of the best": Case(
        LogsEachStep,
        {"val_check_interval": 4},
        callbacks=lambda folder: [ModelCheckpoint(folder, monitor="val/loss", save_last=True)],
    ),
    "early stopping": Case(
        trainer={"max_epochs": 6, "min_epochs": 3},
        callbacks=lambda folder: [EarlyStopping("val/loss", patience=0, min_delta=9.0)],
    ),
    "early stopping in an epoch": Case(
        trainer={"val_check_interval": 3, "max_epochs": 4},
        callbacks=lambda folder: [EarlyStopping("val/loss", patience=0, min_delta=9.0)],
    ),
    "early stopping before min_steps": Case(
        trainer={"val_check_interval": 3, "max_epochs": 4, "min_steps": 20},
        callbacks=lambda folder: [EarlyStopping("val/loss", patience=0, min_delta=9.0)],
    ),
    "timer": Case(callbacks=lambda folder: [Timer(timedelta(hours=1))]),
    "asked to stop in an epoch": Case(
        LogsEachStep, callbacks=lambda folder: [Swaps(lambda t: setattr(t, "should_stop", True))]
    ),
    "learning rate monitor": Case(
        scheduled(cosine, LogsSometimes, interval="step"),
        callbacks=lambda folder: [LearningRateMonitor("step", log_momentum=True)],
    ),
    "weight averaging": Case(
        trainer={"max_epochs": 4},
        callbacks=lambda folder: [StochasticWeightAveraging(0.01, 2)],
    ),
    "accumulate_grad_batches=4": Case(trainer={"accumulate_grad_batches": 4}),
    "accumulation from epoch 1": Case(
        callbacks=lambda folder: [GradientAccumulationScheduler({1: 3})]
    ),
    "own optimizer step": Case(OwnOptimizerStep),
    # those that are left to Lightning
    "bf16-mixed": Case(trainer={"precision": "bf16-mixed"}, lean=False),
    "64-true": Case(trainer={"precision": "64-true"}, lean=False),
    "profiler": Case(trainer={"profiler": "simple"}, lean=False),
    "own strategy": Case(trainer={"strategy": HalvesGradients}, lean=False),
    "convert_input replaced": replaced(
        lambda trainer: trainer.precision_plugin,
        "convert_input",
        lambda batch: [batch[0] * 2, batch[1]],
    ),
    "on_batch_end replaced": replaced(
        lambda trainer: trainer._logger_connector, "on_batch_end", lambda: None
    ),
    "_on_before_zero_grad replaced": replaced(
        lambda trainer: trainer.fit_loop.epoch_loop.automatic_optimization,
        "_on_before_zero_grad",
        lambda optimizer: None,
    ),
    "manual optimization": Case(Manual, lean=False),
    "dataloader_iter": Case(TakesIterator, lean=False),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_same_outcome_as_stock(case: Case, tmp_path: Path) -> None:
    outcome = check(case, tmp_path)
    assert outcome.error is None or "ReduceLROnPlateau conditioned" in outcome.error


@pytest.mark.parametrize("trace", [Trace, OnlyEnds])
@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "bulk batches",
        "batches of None",
        "logs in hooks",
        "logs every third step",
        "val_check_interval=0.25",
        "max_steps in an epoch",
        "returns None",
        "returns a dict",
        "stops at batch 7",
        "gradient_clip_val",
        "scheduler by step",
        "plateau by step",
        "lbfgs",
        "early stopping in an epoch",
        "accumulate_grad_batches=4",
    ],
)
def test_same_hooks_in_the_same_order(
    name: str, trace: Callable[[], Callback], tmp_path: Path
) -> None:
    outcome = check(CASES[name], tmp_path, trace)
    assert outcome.hooks[0]


@pytest.mark.parametrize(
    "name",
    ["plain", "returns None", "gradient_clip_val", "scheduler by step", "logs in hooks", "lbfgs"],
)
def test_same_hooks_of_the_module(name: str, tmp_path: Path) -> None:
    case = Case(**{**vars(CASES[name]), "module": traced_module(CASES[name].module)})
    seen = {entry[0] for entry in check(case, tmp_path).hooks[1]}
    assert {"backward", "on_train_batch_start", "configure_gradient_clipping"} <= seen


@pytest.mark.parametrize("every", [5, 12, 14])
@pytest.mark.parametrize("saved_by", ["stock", "lean"])
def test_resumes_from_either_loops_checkpoint(every: int, saved_by: str, tmp_path: Path) -> None:
    first = Case(
        scheduled(cosine, LogsSometimes, interval="step"),
        {"max_epochs": 2, "val_check_interval": 6},
        lambda: loader(shuffle=False),
        lambda folder: [ModelCheckpoint(folder, every_n_train_steps=every, filename="{step}")],
    )
    check(first, tmp_path)
    (checkpoint,) = (tmp_path / saved_by).glob("*.ckpt")
    again = Case(
        first.module,
        {"max_epochs": 3, "val_check_interval": 6},
        first.data,
        resume_from=str(checkpoint),
    )
    (tmp_path / "again").mkdir()
    outcome = check(again, tmp_path / "again", Trace)
    assert outcome.error is None
    assert outcome.step > every


def _wrap_step(trainer: Trainer) -> None:
    wrapper = trainer.strategy._lightning_optimizers[0]
    step = wrapper.step
    wrapper.step = lambda closure: (step(closure), step(closure))


def _before_step(trainer: Trainer) -> None:
    module, wrapper = trainer.lightning_module, trainer.strategy._lightning_optimizers[0]
    wrapper._on_before_step = lambda: module.net[0].weight.data.mul_(0.9)


def _after_step(trainer: Trainer) -> None:
    module, wrapper = trainer.lightning_module, trainer.strategy._lightning_optimizers[0]
    wrapper._on_after_step = lambda: module.net[0].weight.data.mul_(0.9)


def _skip_backward(trainer: Trainer) -> None:
    trainer.fit_loop._skip_backward = True


@pytest.mark.parametrize(
    "swap",
    [
        lambda trainer: trainer.callbacks.append(Nudges()),
        _new_optimizer,
        _accumulate,
        _clip,
        _wrap_step,
        _before_step,
        _after_step,
        _skip_backward,
    ],
)
@pytest.mark.parametrize("when", ["start", "end"])
def test_notices_what_a_hook_exchanges(
    swap: Callable[[Trainer], None], when: str, tmp_path: Path
) -> None:
    case = Case(callbacks=lambda folder: [Swaps(swap, when)])
    swapped = check(case, tmp_path)
    untouched = tmp_path / "untouched"
    untouched.mkdir()
    assert not same(swapped.weights, check(Case(), untouched).weights)


def test_a_method_replaced_on_the_object_is_called(tmp_path: Path) -> None:
    class Patched(Net):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []
            self.on_after_backward = lambda: self.seen.append("hook")  # type: ignore[method-assign]

    assert len(check(Case(Patched), tmp_path).hooks[1]) == 2 * BATCHES


def test_an_error_in_a_step_leaves_the_same_counts(tmp_path: Path) -> None:
    class Fails(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 3:
                raise ValueError("no more")
            return super().training_step(batch, batch_idx)

    assert check(Case(Fails), tmp_path).error == "ValueError: no more"


def test_leaves_off_at_the_same_batch_when_terminated(tmp_path: Path) -> None:
    def terminate(trainer: Trainer) -> None:
        trainer._signal_connector.received_sigterm = True

    outcome = check(Case(callbacks=lambda folder: [Swaps(terminate)]), tmp_path)
    assert (outcome.error, outcome.step) == ("SIGTERM", 5)


def test_a_closure_that_is_never_called_is_refused_alike(tmp_path: Path) -> None:
    class Idle(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            return None

    outcome = check(Case(optimized(lambda p: Idle(p, lr=0.1))), tmp_path)
    assert outcome.error is not None
    assert "closure hasn't been executed" in outcome.error


def test_a_compiled_module_is_left_to_lightning(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, max_epochs=1, default_root_dir=tmp_path)
    loop = use_lean_epoch_loop(trainer)
    trainer.fit(torch.compile(Net(), backend="eager"), loader())
    assert loop.why_stock == "the module is wrapped or compiled"


def test_says_why_it_is_not_lean() -> None:
    trainer = Trainer(accelerator="cpu", logger=False)
    loop = use_lean_epoch_loop(trainer)
    assert isinstance(trainer.fit_loop.epoch_loop, LeanEpochLoop)
    assert not loop.lean
    assert loop.why_stock == "no epoch has been run"


def test_keeps_the_limits_of_the_trainer() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, min_steps=3, max_steps=7)
    loop = use_lean_epoch_loop(trainer)
    assert (loop.min_steps, loop.max_steps, trainer.max_steps) == (3, 7, 7)


def test_warns_of_none_as_stock_does(tmp_path: Path) -> None:
    case = Case(ReturnsNothingAtTimes)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        check(case, tmp_path)
