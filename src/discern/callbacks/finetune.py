"""Unfreezing a backbone step by step."""

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from discern.errors import DiscernError
from discern.models.transfer import DEPTHS

log = logging.getLogger(__name__)


class Finetune(Callback):
    """Trains more of a backbone from given epochs on, as fastai's ``fine_tune`` does.

    The optimizer knows all parameters that will be trained from the start, each group with its own
    learning rate (``model.lr_factor``), so that schedules and continued runs need not know of it;
    what is frozen has no gradient and is left alone.

    Args:
        stages: epoch, from 1 -> what is trained from its beginning on: ``last_block`` or ``all``.
            Before the first it is what ``model.unfreeze`` says.
    """

    def __init__(self, stages: Mapping[int, str]) -> None:
        self.stages = {int(epoch): depth for epoch, depth in sorted(stages.items())}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the model what will be trained, before it makes its optimizer.

        Raises:
            DiscernError: the model has no backbone, or less would be trained than before.
        """
        network: Any = getattr(pl_module, "network", None)
        if not hasattr(network, "unfreeze"):
            raise DiscernError(
                "callbacks=finetune needs a model with a backbone, such as "
                "model=densenet_transfer, and this one has none."
            )
        depths = [network.depth, *self.stages.values()]
        if sorted(depths, key=DEPTHS.index) != depths and stage == "fit":
            raise DiscernError(
                f"callbacks.finetune.stages={self.stages} is not allowed; after "
                f"model.unfreeze={network.depth}, which is what is trained at first, each stage "
                "must train as much as the one before or more."
            )
        groups = {"last_block": ("last_block",), "all": ("last_block", "rest")}
        pl_module.trained_later = {  # type: ignore[assignment]
            name for depth in self.stages.values() for name in groups.get(depth, ())
        }

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze what is due; also in a continued run, whose stages lie behind it."""
        network: Any = pl_module.network
        due = [depth for epoch, depth in self.stages.items() if epoch <= trainer.current_epoch + 1]
        if due and due[-1] != network.depth:
            network.unfreeze(due[-1])
            trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
            log.info(
                "Epoch %d: model.unfreeze=%s from here on, %s parameters are trained.",
                trainer.current_epoch + 1,
                due[-1],
                f"{trained:,}",
            )
