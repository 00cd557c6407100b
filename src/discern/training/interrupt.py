"""Ctrl-C and SIGTERM: stop between two batches, keep everything."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT

from discern.runs.state import Ended, State
from discern.training.divergence import finite_weights

Handler = Callable[[int, FrameType | None], object] | int | None

BY_CTRL_C, BY_SIGTERM = (
    Ended(State.INTERRUPTED, f"by {name}", status=128 + number)  # as shells count
    for name, number in (("Ctrl-C", signal.SIGINT), ("SIGTERM", signal.SIGTERM))
)
"""How a run ends that a signal has stopped."""


class GracefulStop(Callback):
    """Stops training after the current batch on the first Ctrl-C or SIGTERM.

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
        self._midway = False

    def __enter__(self) -> "GracefulStop":
        # Python allows handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
        self.ended = BY_CTRL_C if number == signal.SIGINT else BY_SIGTERM
        if again:
            raise KeyboardInterrupt

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Stop here, unless the epoch is over: then its validation and checkpoint come first."""
        if self.ended is not None and not trainer.is_last_batch:
            self._midway = True
            raise KeyboardInterrupt

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        if self.ended is not None:
            raise KeyboardInterrupt

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save the state within an epoch; at an epoch's end the checkpoint callbacks have."""
        if self._midway and self._checkpoint is not None and finite_weights(pl_module):
            trainer.save_checkpoint(self._checkpoint)
