"""A training epoch loop that does what Lightning's does, without what Lightning's costs per batch.

On a small network the Trainer spends as long on a batch as the network does. Every hook is looked
up, put into a profiler's context and called on every callback, although most are empty; signatures
are inspected and results collected although nothing was logged. :class:`LeanEpochLoop` finds out
once an epoch which hooks anybody overrides, and calls those: in the same order, with the same
arguments, between the same counters. An epoch that is not of the plain kind (another strategy,
precision, profiler, ...: see :func:`_why_stock`) is run by Lightning's own code altogether, so it
can be slower than it might be, but never different.

Microseconds per batch, with a network of one weight on one core: a bare loop 310, this one 330,
Lightning's 800. What costs Lightning most is the optimizer's step through six wrappers, rounds of
hooks that nobody overrides, moving to the CPU a batch that is there, inspecting the training step's
signature, and asking whether a validation or a scheduler is due. benchmarks/mlp_epoch.py shows what
that comes to with a real network and real images.

The classes extended here are private to Lightning: :mod:`discern.training.build` imports this
module with the release that it was written for, and leaves the loop alone with another.
tests/training/test_loop.py compares the two loops hook by hook.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from lightning.pytorch.loops.fetchers import _DataFetcher, _PrefetchDataFetcher
from lightning.pytorch.loops.optimization.automatic import (
    Closure,
    ClosureResult,
    _AutomaticOptimization,
)
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import _VALUE, _ResultCollection
from torch import Tensor
from torch.optim import Optimizer

from discern.training.between_batches import BetweenBatches
from discern.training.seam import callbacks_of

Outputs = dict[str, Any]
"""What a training step returned; its loss is detached."""

_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
_STEPS = ("optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping")
_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def use_lean_epoch_loop(trainer: Trainer) -> LeanEpochLoop:
    """Give a new ``trainer`` a lean epoch loop, as ``Trainer.__init__`` gives it the stock one."""
    loop = LeanEpochLoop(trainer, min_steps=trainer.min_steps, max_steps=trainer.max_steps)
    trainer.fit_loop.epoch_loop = loop
    return loop


def _is_method(method: object, of_class: object) -> bool:
    """Whether a bound method is the one that a class defines."""
    return getattr(method, "__func__", None) is of_class


def _inherits(thing: object, base: type, *names: str) -> bool:
    """Whether these methods of ``thing`` are those of ``base``, neither overridden nor replaced.

    Lightning's ``is_overridden`` would see through a wrapper and call it not overridden.
    """
    return all(_is_method(getattr(thing, name), getattr(base, name)) for name in names)


def _is_plain(thing: object, cls: type) -> bool:
    """Whether ``thing`` is a ``cls``, not of a subclass, with none of its methods replaced."""
    return type(thing) is cls and not any(hasattr(cls, name) for name in vars(thing))


def _is_on_cpu(batch: object) -> bool:
    """Whether moving a batch to the CPU would leave it as it is."""
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    return all(type(part) is Tensor and part.is_cpu for part in parts)


def _why_stock(loop: LeanEpochLoop, data_fetcher: _DataFetcher) -> str | None:
    """Why this epoch needs Lightning's own loop, or None."""
    trainer, module = loop.trainer, loop.trainer.lightning_module
    for part, plain in (
        (trainer.strategy, SingleDeviceStrategy),
        (trainer.precision_plugin, Precision),
        (trainer.profiler, PassThroughProfiler),
        (trainer._logger_connector, _LoggerConnector),
        (loop.automatic_optimization, _AutomaticOptimization),
        (data_fetcher, _PrefetchDataFetcher),
    ):
        if not _is_plain(part, plain):
            return f"{type(part).__name__} is not the plain {plain.__name__}"
    if not module.automatic_optimization:
        return "manual optimization"
    if trainer.strategy.model is not module or module._compiler_ctx is not None:
        return "the module is wrapped or compiled"
    return None


class _Results(_ResultCollection):
    """What was logged, and whether any of it was since ``fresh`` was last lowered."""

    fresh = True

    def update_metrics(self, key: str, value: _VALUE, batch_size: int) -> None:
        self.fresh = True
        super().update_metrics(key, value, batch_size)


_Hook = Callable[..., object]


class _Hooks:
    """The overridden hooks around a batch.

    A hook that is replaced on a live object in the middle of an epoch is called from the next one
    on; callbacks that come and go are noticed at once.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.module = trainer, trainer.lightning_module
        self._look_up()

    def _look_up(self) -> None:
        self.callbacks = list(callbacks_of(self.trainer))
        self.of: dict[str, tuple[list[_Hook], _Hook | None]] = {}
        for name in _HOOKS:
            overriding = [c for c in self.callbacks if not _inherits(c, Callback, name)]
            hooks = [hook for c in overriding if callable(hook := getattr(c, name))]
            own = None if _inherits(self.module, LightningModule, name) else name
            self.of[name] = hooks, getattr(self.module, own) if own else None

    def call(self, name: str, *args: object) -> object:
        """Call a hook on the callbacks, then on the module; return the module's result."""
        if callbacks_of(self.trainer) != self.callbacks:
            self._look_up()
        of_callbacks, of_module = self.of[name]
        if not of_callbacks and of_module is None:
            return None
        # where ``self.log`` finds out what it is called from; ``Module.__setattr__`` costs 1 us
        state = self.module.__dict__
        outer, state["_current_fx_name"] = state["_current_fx_name"], name
        for hook in of_callbacks:
            hook(self.trainer, self.module, *args)
        result = of_module(*args) if of_module is not None else None
        state["_current_fx_name"] = outer
        return result


class _LeanOptimization:
    """Lightning's optimization of a batch, calling only overridden hooks."""

    def __init__(self, stock: _AutomaticOptimization, hooks: _Hooks) -> None:
        self.stock, self.progress = stock, stock.optim_progress.optimizer
        self.hooks, self.trainer, self.module = hooks, hooks.trainer, hooks.module
        self.state = self.module.__dict__
        self.plain = {name: _inherits(self.module, LightningModule, name) for name in _STEPS}

    def run(self, batch_idx: int, *args: object) -> Outputs:
        """Take an optimizer step; return the result of the training step."""
        trainer = self.trainer
        wrapper: LightningOptimizer = trainer.strategy._lightning_optimizers[0]
        optimizer = wrapper.optimizer
        if self._is_special(wrapper):
            arguments = OrderedDict(zip(("batch", "batch_idx"), args, strict=False))
            return self.stock.run(optimizer, batch_idx, arguments)
        outputs: Outputs | None = None

        def learn() -> None:
            nonlocal outputs
            outputs = self._learn(optimizer, batch_idx, args)

        def closure() -> Tensor | None:
            with torch.enable_grad():
                learn()
            self._before_step(optimizer)
            return outputs.get("loss") if outputs else None

        if trainer.accumulate_grad_batches != 1 and trainer.fit_loop._should_accumulate():
            learn()
        else:
            self.progress.step.increment_ready()
            outer = self.state["_current_fx_name"]
            self.state["_current_fx_name"] = "optimizer_step"
            optimizer.step(closure=closure)  # type: ignore[arg-type]  # a loss, or None
            self.state["_current_fx_name"] = outer
            self.progress.step.increment_completed()
        if outputs is None:  # the optimizer has not called it, which Lightning says
            Closure(lambda: ClosureResult(None)).consume_result()
        return outputs or {}

    def _is_special(self, wrapper: LightningOptimizer) -> bool:
        """Whether the optimizer step is customised."""
        return (
            not self.plain["optimizer_step"]
            or self.stock._skip_backward
            or not _is_method(wrapper.step, LightningOptimizer.step)
            or wrapper._on_before_step is not do_nothing_closure
            or wrapper._on_after_step is not do_nothing_closure
        )

    def _learn(self, optimizer: Optimizer, batch_idx: int, args: tuple[object, ...]) -> Outputs:
        """The training step, then the gradients of its loss; what the step returned."""
        outer, self.state["_current_fx_name"] = self.state["_current_fx_name"], "training_step"
        output = self.module.training_step(*args)
        self.state["_current_fx_name"] = outer
        share = self.trainer.accumulate_grad_batches
        seen = not self.plain["backward"] or any(self.hooks.of["on_before_backward"])
        if share == 1 and type(output) is Tensor and not seen:
            # Nobody can tell whether it was divided by one.
            loss: Tensor | None = output
            outputs = {"loss": output.detach().clone()}
        else:
            result = ClosureResult.from_training_step_output(output, share)
            loss, outputs = result.closure_loss, {} if result.loss is None else result.asdict()
        if loss is None:
            Closure.warning_cache.warn(
                "`training_step` returned `None`. If this was on purpose, ignore this warning..."
            )
        if batch_idx % share == 0:
            self._zero_gradients(optimizer, batch_idx)
        if loss is not None:
            self._backward(loss)
        return outputs

    def _zero_gradients(self, optimizer: Optimizer, batch_idx: int) -> None:
        progress = self.progress.zero_grad
        progress.increment_ready()
        self.hooks.call("on_before_zero_grad", optimizer)
        progress.increment_started()
        if not self.plain["optimizer_zero_grad"]:
            self.stock._optimizer_zero_grad(batch_idx, optimizer)
            return
        if _is_method(optimizer.zero_grad, Optimizer.zero_grad):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        else:
            optimizer.zero_grad()
        progress.increment_completed()

    def _backward(self, loss: Tensor) -> None:
        outer, self.state["_current_fx_name"] = self.state["_current_fx_name"], "backward"
        self.hooks.call("on_before_backward", loss)
        self.module.backward(loss)
        self.hooks.call("on_after_backward")
        self.state["_current_fx_name"] = outer

    def _before_step(self, optimizer: Optimizer) -> None:
        trainer = self.trainer
        self.hooks.call("on_before_optimizer_step", optimizer)
        clips = trainer.gradient_clip_val is not None
        if clips or not self.plain["configure_gradient_clipping"]:
            clip = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            trainer.precision_plugin._clip_gradients(self.module, optimizer, *clip)


class _Plan(NamedTuple):
    """What the batches of an epoch have in common. Not a ``_Loop``, so not saved with the loop."""

    hooks: _Hooks
    optimization: _LeanOptimization
    stays: bool  # a batch on the CPU is where it belongs, and nobody wants to know
    takes_index: bool  # so does the training step


class LeanEpochLoop(_TrainingEpochLoop):
    """Lightning's epoch loop at a fifth of its cost per batch, or else Lightning's own.

    Attributes:
        why_stock: Why the latest epoch was run by Lightning's own code; ``None`` if it was not.
    """

    def __init__(self, trainer: Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._results: _Results = _Results(training=True)
        self._plan: _Plan | None = None
        self._called_between: list[BetweenBatches] = []
        self.why_stock: str | None = "no epoch has been run"

    @property
    def lean(self) -> bool:
        """Whether the latest epoch was run in the lean way."""
        return self.why_stock is None

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Look at what the epoch's batches will have in common."""
        super().on_run_start(data_fetcher)
        callbacks = callbacks_of(self.trainer)
        self._called_between = [each for each in callbacks if isinstance(each, BetweenBatches)]
        self._plan, self.why_stock = None, _why_stock(self, data_fetcher)
        if self.lean:
            trainer, hooks = self.trainer, _Hooks(self.trainer)
            movers = (trainer.lightning_module, trainer.datamodule)
            plain = all(m is None or _inherits(m, DataHooks, *_TRANSFER) for m in movers)
            self._plan = _Plan(
                hooks,
                _LeanOptimization(self.automatic_optimization, hooks),
                stays=plain and trainer.strategy.root_device.type == "cpu",
                takes_index="batch_idx" in self._build_kwargs(OrderedDict(), None, 0),
            )

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Train on a batch: Lightning's ``advance``, step by step, without its detours."""
        plan = self._plan
        if plan is None or self._restarting:
            super().advance(data_fetcher)
            return
        if self.val_loop.restarting:
            self.val_loop.restarting = False
        trainer, progress, results = self.trainer, self.batch_progress, self._results
        connector, hooks = trainer._logger_connector, plan.hooks

        batch, _, _ = next(data_fetcher)
        batch_idx = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        if not (plan.stays and _is_on_cpu(batch)):
            batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)
        elif type(batch) is list:
            batch = list(batch)  # the loader's own is left alone, as a transfer leaves it

        progress.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        output: Outputs | None = None
        skips_the_rest = False
        if batch is None:
            self._warning_cache.warn(
                "train_dataloader yielded None. If this was on purpose, ignore this warning..."
            )
        elif hooks.call("on_train_batch_start", batch, batch_idx) == -1:
            skips_the_rest = True
            progress.increment_by(0, is_last_batch=True)
        else:
            progress.increment_started()
            args = (batch, batch_idx) if plan.takes_index else (batch,)
            output = plan.optimization.run(batch_idx, *args)
        progress.increment_processed()

        if trainer.strategy.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if skips_the_rest:
            raise StopIteration

        hooks.call("on_train_batch_end", output, batch, batch_idx)
        if results.fresh:
            connector.on_batch_end()
            results.fresh = False
        else:  # what was logged last is on show already
            results.batch = results.batch_size = None
        progress.increment_completed()
        if results:
            connector.update_train_step_metrics()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Count the batch, and do whatever else is due after it."""
        if self._plan is not None and self._only_counts():
            self._batches_that_stepped += 1
        else:
            super().on_advance_end(data_fetcher)
            self._results.fresh = True  # a validation may have logged under the same names
        if not self._should_accumulate() and not self.done:
            for callback in self._called_between:
                callback.between_batches(self.trainer, self.trainer.lightning_module)

    def reset(self) -> None:
        """Begin an epoch, or go on within one.

        Lightning takes every checkpoint for one made while a batch is closed. After one made
        between two batches it would close the batch once more, and count a step twice for the
        loggers. And at the end of a continued epoch it does not tell a plateau's schedule of the
        metrics, which are known here (:class:`discern.training.resume.Continuation`).
        """
        super().reset()
        self.trainer.fit_loop._restarting = False
        begun = self.automatic_optimization.optim_progress.optimizer.zero_grad.total.completed
        if self.restarted_on_last and self._batches_that_stepped in (self.global_step, begun):
            self._restarting = self.val_loop._restarting = False

    def _only_counts(self) -> bool:
        """Whether this batch only needs counting."""
        trainer, every = self.trainer, self.trainer.val_check_batch
        if (
            not isinstance(every, int)  # a validation is due by the clock, or by the loader's end
            or trainer.accumulate_grad_batches != 1
            or trainer.should_stop
            or trainer.received_sigterm
        ):
            return False
        configs = trainer.strategy.lr_scheduler_configs
        if configs and any(config.reduce_on_plateau for config in configs):
            return False
        across_epochs = trainer.check_val_every_n_epoch is None
        progress = self.batch_progress.total if across_epochs else self.batch_progress.current
        return progress.ready % every != 0
