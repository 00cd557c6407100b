"""A training epoch loop that does what Lightning's does without its price per batch.

Lightning's Trainer spends about as long on a batch of a small network as the network does: every
hook is looked up, wrapped in a profiler's context and called on every callback although nearly all
of them are empty, signatures are inspected, and results are collected although nothing was logged.
:class:`LeanEpochLoop` finds out once an epoch which hooks anybody overrides and then calls those,
in the same order, with the same arguments and the same counters around them. Where a step is not
the plain one (another strategy, precision, profiler, ...; see :func:`_why_stock`) it leaves the
batch to Lightning's own code, so it can be slower than hoped, but not different.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.core.optimizer import LightningOptimizer, do_nothing_closure
from lightning.pytorch.loops.fetchers import (
    _DataFetcher,
    _PrefetchDataFetcher,
    _profile_nothing,
)
from lightning.pytorch.loops.optimization.automatic import (
    Closure,
    ClosureResult,
    _AutomaticOptimization,
)
from lightning.pytorch.loops.optimization.closure import AbstractClosure
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer import call
from lightning.pytorch.trainer.connectors.logger_connector.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.logger_connector.result import _ResultCollection
from torch import Tensor
from typing_extensions import override

_HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
_TRANSFER_HOOKS = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
)


def use_lean_epoch_loop(trainer: Trainer) -> LeanEpochLoop:
    """Give ``trainer`` a lean epoch loop, in the way ``Trainer.__init__`` gives it the stock one.

    To be called before anything is fitted, validated or loaded with that trainer.
    """
    loop = LeanEpochLoop(trainer, min_steps=trainer.min_steps, max_steps=trainer.max_steps)
    trainer.fit_loop.epoch_loop = loop
    return loop


def _inherits(thing: object, base: type, *names: str) -> bool:
    """Whether ``thing`` has every one of these methods as ``base`` defines it.

    Stricter than Lightning's ``is_overridden``, which sees through wrappers and mocks.
    """
    return all(
        getattr(getattr(thing, name), "__func__", None) is getattr(base, name) for name in names
    )


def _pristine(thing: object, cls: type) -> bool:
    """Whether ``thing`` is a ``cls``, not of a subclass, and none of its methods was replaced."""
    return type(thing) is cls and not any(hasattr(cls, name) for name in vars(thing))


def _why_stock(loop: LeanEpochLoop, data_fetcher: _DataFetcher) -> str | None:
    """What about this epoch only Lightning's own code does exactly right; ``None`` if nothing."""
    trainer, module = loop.trainer, loop.trainer.lightning_module
    parts = (
        (trainer.strategy, SingleDeviceStrategy),
        (trainer.precision_plugin, Precision),
        (trainer.profiler, PassThroughProfiler),
        (data_fetcher, _PrefetchDataFetcher),
        (loop.automatic_optimization, _AutomaticOptimization),
        (trainer._logger_connector, _LoggerConnector),
    )
    for part, expected in parts:
        if not _pristine(part, expected):
            return f"{type(part).__name__} is not the plain {expected.__name__}"
    if not module.automatic_optimization:
        return "manual optimization"
    if len(trainer.optimizers) != 1:
        return "there is not exactly one optimizer"
    if trainer.accumulate_grad_batches != 1 or loop.automatic_optimization._skip_backward:
        return "gradients are accumulated, or not computed"
    if trainer.strategy.model is not module or module._compiler_ctx is not None:
        return "the module is wrapped or compiled"
    if not _inherits(module, LightningModule, "optimizer_step"):
        return "optimizer_step is overridden"
    optimizer = trainer.strategy._lightning_optimizers[0]
    if (
        not _inherits(optimizer, LightningOptimizer, "step")
        or optimizer._on_before_step is not do_nothing_closure
        or optimizer._on_after_step is not do_nothing_closure
    ):
        return "the optimizer's step is wrapped"
    return None


class _Results(_ResultCollection):
    """What was logged, and whether any of it was since the flag was last lowered."""

    fresh = True

    @override
    def update_metrics(self, key: str, value: Any, batch_size: int) -> None:
        self.fresh = True
        super().update_metrics(key, value, batch_size)


class _Plan:
    """What an epoch's batches have in common: who overrides what, resolved once."""

    def __init__(self, loop: LeanEpochLoop) -> None:
        self.trainer = trainer = loop.trainer
        self.module = module = trainer.lightning_module
        self.optimizer = trainer.optimizers[0]
        self._look_up_hooks()
        owners = [module] if trainer.datamodule is None else [module, trainer.datamodule]
        self.plain_transfer = trainer.strategy.root_device.type == "cpu" and all(
            _inherits(owner, DataHooks, *_TRANSFER_HOOKS) for owner in owners
        )
        self.plain_zero_grad = _inherits(module, LightningModule, "optimizer_zero_grad")
        self.plain_clipping = _inherits(module, LightningModule, "configure_gradient_clipping")
        self.plain_backward = _inherits(module, LightningModule, "backward")
        self.takes_batch_idx = "batch_idx" in loop._build_kwargs(OrderedDict(), None, 0)

    def _look_up_hooks(self) -> None:
        self.callbacks = list(self.trainer.callbacks)
        self.hooks = {name: self._overridden(name) for name in _HOOKS}

    def _overridden(
        self, name: str
    ) -> tuple[tuple[Callable[..., Any], ...], Callable[..., Any] | None]:
        """The callbacks' hooks of this name, and the module's, without Lightning's empty ones."""
        of_callbacks = tuple(
            hook
            for callback in self.callbacks
            if not _inherits(callback, Callback, name) and callable(hook := getattr(callback, name))
        )
        of_module = getattr(self.module, name)
        empty = _inherits(self.module, LightningModule, name) or not callable(of_module)
        return of_callbacks, None if empty else of_module

    def can_step(self) -> bool:
        """Whether the optimizer is still the one planned for, and steps on every batch."""
        trainer = self.trainer
        return trainer.accumulate_grad_batches == 1 and trainer.optimizers[0] is self.optimizer

    def call(self, name: str, *args: Any) -> Any:
        """Call a hook on the callbacks, then on the module, and return what the module's did."""
        if self.trainer.callbacks != self.callbacks:
            self._look_up_hooks()  # a callback brought or took another
        of_callbacks, of_module = self.hooks[name]
        if not of_callbacks and of_module is None:
            return None
        # ``self.log`` asks this attribute where it is; past ``Module.__setattr__`` it costs nothing
        state = self.module.__dict__
        outer, state["_current_fx_name"] = state["_current_fx_name"], name
        for hook in of_callbacks:
            hook(self.trainer, self.module, *args)
        answer = None if of_module is None else of_module(*args)
        state["_current_fx_name"] = outer
        return answer


class _LeanClosure(AbstractClosure[ClosureResult]):
    """Training step, ``zero_grad`` and backward, as the optimizer's ``step`` calls them."""

    def __init__(self, loop: LeanEpochLoop, plan: _Plan, batch: Any, batch_idx: int) -> None:
        super().__init__()
        self.loop, self.plan, self.batch, self.batch_idx = loop, plan, batch, batch_idx

    @override
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor | None:
        if torch.is_grad_enabled():
            self._result = self.closure()
        else:
            with torch.enable_grad():
                self._result = self.closure()
        plan, trainer = self.plan, self.plan.trainer
        plan.call("on_before_optimizer_step", plan.optimizer)
        if trainer.gradient_clip_val is not None or not plan.plain_clipping:
            trainer.precision_plugin._clip_gradients(
                plan.module,
                plan.optimizer,
                trainer.gradient_clip_val,
                gradient_clip_algorithm=trainer.gradient_clip_algorithm,
            )
        return self._result.loss

    @override
    def closure(self, *args: Any, **kwargs: Any) -> ClosureResult:
        plan, optimization = self.plan, self.loop.automatic_optimization
        module, optimizer = plan.module, plan.optimizer
        state = module.__dict__
        outer, state["_current_fx_name"] = state["_current_fx_name"], "training_step"
        if plan.takes_batch_idx:
            output = module.training_step(self.batch, self.batch_idx)
        else:
            output = module.training_step(self.batch)
        state["_current_fx_name"] = outer
        if (
            type(output) is Tensor
            and plan.plain_backward
            and not any(plan.hooks["on_before_backward"])
        ):
            result = ClosureResult(output)  # without a division by one, and its gradient
        else:
            result = ClosureResult.from_training_step_output(output)
        loss = result.closure_loss
        if loss is None:
            Closure.warning_cache.warn(
                "`training_step` returned `None`. If this was on purpose, ignore this warning..."
            )

        zeroed = optimization.optim_progress.optimizer.zero_grad
        zeroed.increment_ready()
        plan.call("on_before_zero_grad", optimizer)
        zeroed.increment_started()
        if plan.plain_zero_grad:
            optimizer.zero_grad()
            zeroed.increment_completed()
        else:
            optimization._optimizer_zero_grad(self.batch_idx, optimizer)

        if loss is not None:
            state["_current_fx_name"] = "backward"
            plan.call("on_before_backward", loss)
            module.backward(loss)
            plan.call("on_after_backward")
            state["_current_fx_name"] = outer
        return result


class LeanEpochLoop(_TrainingEpochLoop):
    """Lightning's epoch loop at a fraction of its cost per batch, or Lightning's own; see above.

    Attributes:
        why_stock: Why the latest epoch ran through Lightning's own code; ``None`` if it did not.
    """

    def __init__(self, trainer: Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self._results: _Results = _Results(training=True)
        self._plan: _Plan | None = None
        self.why_stock: str | None = "no epoch has been run"

    @property
    def lean(self) -> bool:
        """Whether the latest epoch was run in the lean way."""
        return self.why_stock is None

    @override
    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        super().on_run_start(data_fetcher)
        self.why_stock = _why_stock(self, data_fetcher)
        self._plan = _Plan(self) if self.lean else None
        if self.lean:
            data_fetcher._start_profiler = data_fetcher._stop_profiler = _profile_nothing

    @override
    def advance(self, data_fetcher: _DataFetcher) -> None:
        plan = self._plan
        if plan is None or self._restarting:
            super().advance(data_fetcher)
            return
        if self.val_loop.restarting:
            self.val_loop.restarting = False
        trainer, progress, results = self.trainer, self.batch_progress, self._results
        connector = trainer._logger_connector

        batch, _, _ = next(data_fetcher)
        batch_idx = progress.current.ready
        progress.is_last_batch = data_fetcher.done
        if plan.plain_transfer and _is_on_cpu(batch):
            batch = list(batch) if type(batch) is list else batch  # as a transfer would copy it
        else:
            batch = plan.module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = call._call_strategy_hook(trainer, "batch_to_device", batch, dataloader_idx=0)

        progress.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        results.batch, results.batch_size, results.dataloader_idx = batch, None, None
        output: dict[str, Any] | None = None
        stop = False
        if batch is None:
            self._warning_cache.warn(
                "train_dataloader yielded None. If this was on purpose, ignore this warning..."
            )
        else:
            stop = plan.call("on_train_batch_start", batch, batch_idx) == -1
            if stop:
                progress.increment_by(0, is_last_batch=True)
            else:
                progress.increment_started()
                if plan.can_step():
                    output = self._optimize(plan, batch, batch_idx)
                else:
                    kwargs = self._build_kwargs(OrderedDict(), batch, batch_idx)
                    optimization = self.automatic_optimization
                    output = optimization.run(trainer.optimizers[0], batch_idx, kwargs)
        progress.increment_processed()

        if trainer.lr_scheduler_configs:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if stop:
            raise StopIteration

        plan.call("on_train_batch_end", output, batch, batch_idx)
        if results.fresh:
            connector.on_batch_end()
            results.fresh = False
        else:  # the values on show are those of the latest logging, and are there already
            results.batch = results.batch_size = None
        progress.increment_completed()
        if results:
            connector.update_train_step_metrics()

    def _optimize(self, plan: _Plan, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Step the optimizer on a batch and return what ``on_train_batch_end`` is to be given."""
        state, steps = (
            plan.module.__dict__,
            self.automatic_optimization.optim_progress.optimizer.step,
        )
        closure = _LeanClosure(self, plan, batch, batch_idx)
        steps.increment_ready()
        outer, state["_current_fx_name"] = state["_current_fx_name"], "optimizer_step"
        plan.optimizer.step(closure=closure)
        state["_current_fx_name"] = outer
        steps.increment_completed()
        result = closure.consume_result()
        return {} if result.loss is None else result.asdict()

    @override
    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        if self._plan is not None and self._only_counts():
            self._batches_that_stepped += 1
        else:
            super().on_advance_end(data_fetcher)
            self._results.fresh = True  # a validation may have logged under the same names

    def _only_counts(self) -> bool:
        """Whether there is nothing to do after this batch but to count it."""
        trainer, every = self.trainer, self.trainer.val_check_batch
        if (
            trainer.should_stop
            or trainer.received_sigterm
            or self._restarting
            or self._skip_next_val
            or trainer.accumulate_grad_batches != 1
            or self.batch_progress.is_last_batch
            or trainer._val_check_time_interval is not None
            or not isinstance(every, int)
            or any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)
        ):
            return False
        across_epochs = trainer.check_val_every_n_epoch is None
        progress = self.batch_progress.total if across_epochs else self.batch_progress.current
        return progress.ready % every != 0


def _is_on_cpu(batch: Any) -> bool:
    """Whether moving a batch to the CPU would leave it as it is."""
    parts = batch if type(batch) in (tuple, list) else (batch,)
    return all(type(part) is Tensor and part.is_cpu for part in parts)
