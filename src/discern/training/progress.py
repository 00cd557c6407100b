"""One progress bar on a terminal or in a notebook, one line an epoch everywhere."""

import logging
import sys
import time

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities.types import STEP_OUTPUT
from tqdm import tqdm

from discern.console import in_notebook, is_terminal
from discern.models.classifier import Batch

SECONDS_BETWEEN_DRAWS = 0.2
"""A redrawn tqdm costs 60 µs, a tenth of a small network's step."""


class Progress(ProgressBar):
    """Shows images/s, loss and the time left of the epoch on a terminal or in a notebook."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = is_terminal() or in_notebook()
        self._bar: tqdm | None = None
        self._waiting = 0
        self._drawn = 0.0

    def disable(self) -> None:
        """Hide the bar (Lightning calls this in every process but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bar again, if somebody watches."""
        self._enabled = is_terminal() or in_notebook()

    def print(self, *args: object, **kwargs: object) -> None:
        """Log the text of ``LightningModule.print`` above the bar."""
        logging.getLogger(__name__).info(" ".join(str(arg) for arg in args))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the epoch's bar."""
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        batches = trainer.num_training_batches
        loader = trainer.train_dataloader
        images = len(loader.dataset) if loader is not None and hasattr(loader, "dataset") else None
        total = min(images, batches * loader.batch_size) if loader and images else None
        self._open(f"epoch {trainer.current_epoch + 1}{of}", total)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the batch; draw now and then."""
        if self._bar is None:
            return
        self._waiting += batch[1].shape[0]
        now = time.perf_counter()
        if now - self._drawn > SECONDS_BETWEEN_DRAWS:
            self._drawn = now
            if isinstance(outputs, dict) and "loss" in outputs:
                loss = float(outputs["loss"].detach()) * trainer.accumulate_grad_batches
                self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update(self._waiting)
            self._waiting = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the bar; the epoch's line replaces it."""
        self._close()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar over the test batches."""
        self._open("test", sum(trainer.num_test_batches), unit=" batches")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch."""
        if self._bar is not None:
            self._bar.update()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the bar away."""
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar before the error message."""
        self._close()

    def _open(self, title: str, total: float | None, unit: str = " images") -> None:
        self._close()
        if self._enabled:
            self._bar = tqdm(
                desc=title, total=total, unit=unit, leave=False, dynamic_ncols=True,
                mininterval=0, unit_scale=unit == " images",
                # In a notebook among the epochs' lines, since standard error is a box of its own.
                file=sys.stdout if in_notebook() else None,
            )  # fmt: skip

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._waiting = 0
