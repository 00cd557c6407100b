"""Unfreezing a backbone step by step."""

import logging

from lightning.pytorch import Callback, LightningModule, Trainer

from discern.errors import DiscernError
from discern.models.transfer import DEPTHS, TransferClassifier
from discern.training.seam import settings_of

log = logging.getLogger(__name__)


NAMES = {"last_block": "last_block", "all": "everything"}
"""What is trained -> the setting that says from when on."""


class Finetune(Callback):
    """Unfreezes more of a backbone from given epochs on, like fastai's ``fine_tune``.

    The optimizer knows all parameters that will be trained from the start, each group with its own
    learning rate (``model.lr_factor``), so that schedules and continued runs need not know of it;
    what is frozen has no gradient and is left alone.

    Before the first of its stages what is trained is what ``model.unfreeze`` says.

    Args:
        last_block: the epoch, from 1, from whose beginning on the backbone's last block is trained
            too; None for none.
        everything: the epoch from which all of it is.
    """

    def __init__(self, last_block: int | None = None, everything: int | None = None) -> None:
        begins = [(last_block, "last_block"), (everything, "all")]
        self.stages = {depth: epoch for epoch, depth in begins if epoch is not None}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the model what will be trained, before it makes its optimizer.

        Raises:
            DiscernError: the model has no backbone, or less would be trained than before.
        """
        network = getattr(pl_module, "network", None)
        if not isinstance(network, TransferClassifier):
            raise DiscernError(
                "callbacks=finetune needs a model with a backbone, such as "
                "model=densenet_transfer, and this one has none."
            )
        order = sorted(self.stages, key=lambda depth: self.stages[depth])
        depths = [network.depth, *order]
        if sorted(depths, key=DEPTHS.index) != depths and stage == "fit":
            stages = " ".join(f"callbacks.finetune.{NAMES[d]}={n}" for d, n in self.stages.items())
            raise DiscernError(
                f"{stages} is not allowed after model.unfreeze={network.depth}; each stage must "
                "train more than what is trained before it."
            )
        later = {"last_block", "rest"} if "all" in self.stages else set(self.stages)
        pl_module.trained_later = later  # type: ignore[assignment]

    def depth_at(self, epoch: int) -> str | None:
        """What the stages train in an epoch, from 1; None before the first of them."""
        due = [depth for depth, first in self.stages.items() if first <= epoch]
        return max(due, key=DEPTHS.index, default=None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze what was due before, in a continued run."""
        self._enter_stage(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze what is due."""
        self._enter_stage(trainer, pl_module)

    def _enter_stage(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze what is due, and train on images again instead of cached features."""
        if not self._unfreeze(trainer, pl_module):
            return
        data = settings_of(trainer).datamodule
        if data is None or getattr(data, "features", None) is None:
            return
        data.features = None
        loop = trainer.fit_loop
        loop._combined_loader = loop.epoch_loop.val_loop._combined_loader = None
        loop.setup_data()
        set_epoch = getattr(getattr(trainer.train_dataloader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:
            set_epoch(trainer.current_epoch)

    def _unfreeze(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        network = pl_module.network
        assert isinstance(network, TransferClassifier)
        epoch = trainer.current_epoch + 1
        depth = self.depth_at(epoch)
        if depth is None or depth == network.depth:
            return False
        network.unfreeze(depth)
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        log.info("From epoch %d on %s parameters are trained (%s).", epoch, f"{trained:,}", depth)
        return True
