"""Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP: stop between two batches, keep everything."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from lightning.pytorch import LightningModule, Trainer

from discern.runs.signals import BY_CTRL_C, BY_SIGNAL, heeded
from discern.runs.state import Ended
from discern.training.between_batches import BetweenBatches
from discern.training.checkpointing import RunCheckpoint
from discern.training.divergence import finite_weights
from discern.training.seam import callbacks_of

Handler = Callable[[int, FrameType | None], object] | int | None


@contextmanager
def ends_at_once() -> Iterator[None]:
    """Within the block each signal that stops a run ends it at once, with its exit status.

    Left alone, Lightning goes on to the end of a test after SIGTERM, and after Ctrl-C ends with
    status 1 and Ctrl-C switched off. A handler of the caller's own is kept. Training itself is
    within a :class:`GracefulStop`.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        SystemExit: another one of these signals.
    """
    found: dict[int, Handler] = {}
    # Python allows handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in heeded()}
        for number, handler in found.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, _end)
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's own end after it
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in found.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(BY_SIGNAL[number].status)


class GracefulStop(BetweenBatches):
    """Stops training after the current batch on the first signal of :data:`BY_SIGNAL`.

    In the middle of an optimizer step some parameters are new and others old; between batches the
    saved checkpoint is one that training passed through. A second signal ends at once.

    Used as a context manager round ``Trainer.fit``, which restores the handlers that it found.

    Args:
        checkpoint: where the state is saved when training is stopped; None saves nothing.

    Attributes:
        ended: how the run ends, once a signal has come.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self.ended: Ended | None = None
        self._checkpoint = checkpoint
        self._found: dict[int, Handler] = {}

    def __enter__(self) -> GracefulStop:
        # Python allows handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in heeded():
                self._found[number] = signal.signal(number, self._on_signal)
        return self

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Be the only handler of SIGTERM, unless other processes need Lightning's.

        Lightning puts a handler of its own before this one, and then ends training in the middle of
        a validation, or before the epoch that is over has been closed.
        """
        if self._found and trainer.world_size == 1:
            signal.signal(signal.SIGTERM, self._on_signal)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._found.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self.ended is not None
        self.ended = BY_SIGNAL[number]
        if again:
            raise KeyboardInterrupt

    def between_batches(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the state and stop here."""
        if self._is_asked(trainer):
            if self._checkpoint is not None and finite_weights(pl_module):
                trainer.save_checkpoint(self._checkpoint)
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs if the state was saved there; else after the next batch."""
        if self._is_asked(trainer) and self._is_saved(trainer):
            raise KeyboardInterrupt

    def _is_asked(self, trainer: Trainer) -> bool:
        """Whether a signal has come, to whichever process."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(
            self.ended is not None, all=False
        ):
            self.ended = self.ended or BY_CTRL_C
        return self.ended is not None

    def _is_saved(self, trainer: Trainer) -> bool:
        path, step = self._checkpoint, trainer.global_step
        return path is None or any(
            isinstance(callback, RunCheckpoint) and callback.has_saved(path, step)
            for callback in callbacks_of(trainer)
        )
