"""The training, validation and test steps of every classifier."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from discern.data.sampler import batch_with_a_repeat
from discern.errors import DiscernError, refusals_of
from discern.models.card import CARD
from discern.models.metrics import STEP_LOSS, EpochMetrics
from discern.models.mixing import Mixing
from discern.models.optimizer import Build, Group, build_optimizer
from discern.models.saved import BACKBONE, IMAGES, with_backbone
from discern.models.schedule import Schedule

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    """Trains a network that maps images to class logits with cross-entropy.

    The state dict is that of the network alone, with the network's own keys, so that a checkpoint's
    weights can be used without this class.

    Args:
        network: images (N, C, H, W) float32, normalised -> logits (N, num_classes).
        num_classes: the number of classes.
        optimizer: builds the optimizer from the trainable parameters; one of torch's that can be is
            fused on a CPU, unless its arguments say how a step is to be computed.
        schedule: changes the learning rate during the run.
        label_smoothing: part of the target that training spreads over all classes.
        class_weights: (num_classes,) float32, what an image of each class counts for in training.
        mixing: makes of a training batch mixtures of its images, with labels (N, num_classes) that
            are shares. The validation and test losses are without these three.
        lr_factor: what the learning rate is multiplied by from each of the network's parameter
            groups to the next, if it has any (``parameter_groups``).
        full_checkpoints: store a frozen backbone with published weights all the same.
        card: what checkpoints say of the model, as plain values.
        images: what checkpoints say of the images that it is trained on.

    Attributes:
        optimizer_factory: ``optimizer``; whoever wants another step replaces it before the fit.
        schedule: ``schedule``.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: Build,
        schedule: Schedule | None = None,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        mixing: Mixing | None = None,
        lr_factor: float = 1.0,
        full_checkpoints: bool = False,
        card: dict[str, Any] | None = None,
        images: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        # Hooks rather than methods of this class: they also serve where it is part of another
        # module, as in an average of weights.
        self.register_state_dict_post_hook(_leave_out_network)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_put_back_network)  # type: ignore[no-untyped-call]
        self.optimizer_factory = optimizer
        self.schedule = schedule
        self._label_smoothing = label_smoothing
        self._mixing = mixing
        self._lr_factor = lr_factor
        self._full_checkpoints = full_checkpoints
        self.trained_later: set[str] = set()
        """Parameter groups that are frozen and that a callback will unfreeze."""
        # Not persistent: a setting, not something learnt.
        self._class_weights: Tensor | None
        self.register_buffer("_class_weights", class_weights, persistent=False)
        self.card = card
        self.images = images
        self.validated: list[tuple[Tensor, Tensor]] | None = None
        """Logits (N, num_classes) and labels (N,) per validation batch; collected on request."""
        self._log_every = 0
        self._num_classes = num_classes
        self._repeat_in: int | None = None
        self.schedule_total: dict[str, int] = {}
        self.train_metrics = EpochMetrics(num_classes, "train")
        self.val_metrics = EpochMetrics(num_classes, "val")
        self.test_metrics = EpochMetrics(num_classes, "test")

    @property
    def metric_names(self) -> list[str]:
        """The metrics that a fit logs and that callbacks can watch."""
        train = [f"train/{name}" for name in self.train_metrics.names]
        return train + [f"val/{name}" for name in self.val_metrics.names]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W).

        Raises:
            DiscernError: the network, which may be a user's own, gives something else.
        """
        logits: object = self.network(images)
        rows = len(images), self._num_classes
        if not isinstance(logits, Tensor) or logits.shape != rows:
            given = "None" if logits is None else f"a {type(logits).__name__}"
            if isinstance(logits, Tensor):
                given = f"a tensor of shape {tuple(logits.shape)}"
            raise DiscernError(
                f"model: {type(self.network).__name__} gives {given} for images of shape "
                f"{tuple(images.shape)}; it must give logits, a tensor of shape {rows}: a row for "
                "each image, a column for each class."
            )
        return logits

    def on_train_start(self) -> None:
        """Prepare the rest of an epoch that is continued, which has no start of its own."""
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Look up the logging interval, which would take 3 us per step, and the repeated image."""
        self._log_every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        self._repeat_in = batch_with_a_repeat(self.trainer.train_dataloader)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The batch's mean cross-entropy, with its graph."""
        images, labels = batch
        targets = labels
        if self._mixing is not None:
            images, targets = self._mixing(images, labels)
        logits = self(images)
        loss = self._training_loss(logits, targets)
        if batch_idx == self._repeat_in:
            # Trained on, as others train on as many images, but measured by another process.
            logits, labels = logits[:-1].detach(), labels[:-1]
            measured = self._training_loss(logits, targets[:-1])
            self.train_metrics.update(measured, logits, labels)
        else:
            self.train_metrics.update(loss, logits, labels)
        # The one value a step may log: each costs about 0.3 ms, as much as the step itself. It is
        # logged in those steps in which Lightning asks for it; one of others would stay, and pass
        # for that of a later step. Lightning also counts a step that is left out (on_nan=skip).
        if self._log_every:
            steps = self.trainer.fit_loop.epoch_loop._batches_that_stepped
            if (steps + 1) % self._log_every == 0:
                self.log(STEP_LOSS, loss.detach(), on_step=True, on_epoch=False)
        return loss

    def _training_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted mean over images; a mixture has the mean of its classes' weights.

        torch's own ``weight`` also weights the shares that smoothing gives to other classes: the
        share of a rare class then outweighs the image's own class. With mixed labels it divides by
        the number of images, so that the size of the weights scales the loss.
        """
        weights = self._class_weights
        if weights is None:
            return cross_entropy(logits, targets, label_smoothing=self._label_smoothing)
        losses = cross_entropy(
            logits, targets, reduction="none", label_smoothing=self._label_smoothing
        )
        of_image = weights[targets] if targets.ndim == 1 else (targets * weights).sum(1)
        return (of_image * losses).sum() / of_image.sum()

    def bounds_of_loss(self, counts: Tensor) -> tuple[float, float]:
        """The lowest training loss of the same answer to all images, and the lowest of any answer.

        Args:
            counts: images of each class, float64 (num_classes,).
        """
        weights = 1.0 if self._class_weights is None else self._class_weights.to(counts)
        share, smooth = counts * weights / (counts * weights).sum(), self._label_smoothing
        mean = (1 - smooth) * share + smooth / len(share)
        one = torch.full_like(share, smooth / len(share))
        one[0] += 1 - smooth
        return float(torch.special.entr(mean).sum()), float(torch.special.entr(one).sum())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update the validation metrics."""
        logits = self._measure(batch, self.val_metrics)
        if self.validated is not None:
            self.validated.append((logits, batch[1]))

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Update the test metrics; return ``logits`` (N, num_classes) and ``labels`` (N,)."""
        return {"logits": self._measure(batch, self.test_metrics), "labels": batch[1]}

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Class probabilities (N, num_classes)."""
        images, _ = batch
        probabilities: Tensor = self(images).softmax(dim=1)
        return probabilities

    def _measure(self, batch: Batch, metrics: EpochMetrics) -> Tensor:
        images, labels = batch
        if not len(labels):  # of a process whose share of the images has ended
            logits = torch.empty(0, self._num_classes, device=labels.device)
        else:
            logits = self(images)
        metrics.update(cross_entropy(logits, labels), logits, labels)
        return logits

    def on_train_epoch_end(self) -> None:
        """Log the training metrics, each the mean over the epoch's images while it was training."""
        self._log("train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log("test", self.test_metrics)

    def _log(self, split: str, metrics: EpochMetrics) -> None:
        for name, value in metrics.compute().items():
            # Torchmetrics has summed over the processes: the mean of equal values asks for nothing.
            self.log(f"{split}/{name}", value, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over the trainable parameters, and the schedule for the run's length."""
        groups = self.parameter_groups()
        if not any(group["params"] for group in groups):
            raise DiscernError("The model has no weights that are trained: all of them are frozen.")
        with refusals_of("optimizer"):
            optimizer = self.another_optimizer(groups)
        for group in optimizer.param_groups:
            group["lr"] *= group.get("factor", 1.0)
        if self.schedule is None:
            return optimizer
        steps, epochs = self._length_of_run(self.schedule)
        self.schedule_total = self.schedule.total(steps, epochs)
        with refusals_of("scheduler"):
            try:
                entry = self.schedule.for_run(optimizer, steps, epochs)
            except ZeroDivisionError as error:
                if "pct_start" not in getattr(self.schedule.build, "keywords", {}):
                    raise
                raise DiscernError(
                    f"scheduler: one of its phases has no step in a run of {steps}; the run must "
                    "be longer, or its phases must be different (scheduler.pct_start)."
                ) from error
        monitor = self.schedule.monitor or ""
        watches = isinstance(entry["scheduler"], ReduceLROnPlateau) and monitor.startswith("val/")
        if watches and self.schedule.interval == "epoch":
            # An epoch without validation does not count as one without improvement.
            entry["frequency"] = self.trainer.check_val_every_n_epoch or 1
            entry["strict"] = False
        return {"optimizer": optimizer, "lr_scheduler": entry}

    def another_optimizer(self, groups: list[Group]) -> Optimizer:
        """An optimizer like the run's, for other groups of parameters."""
        return build_optimizer(self.optimizer_factory, groups, self._may_fuse_optimizer())

    def _length_of_run(self, schedule: Schedule) -> tuple[int, int]:
        """Optimizer steps and epochs of the run; -1 for unlimited.

        Raises:
            DiscernError: the schedule depends on the length, and the run has none.
        """
        trainer = self.trainer
        steps, epochs = trainer.estimated_stepping_batches, trainer.max_epochs
        if math.isinf(steps) or steps < 0:
            if schedule.total_as:
                raise DiscernError(
                    f"trainer.max_epochs={epochs} leaves open how long the run is, and the "
                    "scheduler has to know: give a number of epochs or trainer.max_steps "
                    "(trainer.max_time cannot tell), or scheduler=none."
                )
            return -1, -1
        if epochs in (None, -1) and schedule.total_as and schedule.interval == "epoch":
            trainer.fit_loop.setup_data()  # which counts the batches
            batches = trainer.num_training_batches / trainer.accumulate_grad_batches
            epochs = 1 if math.isinf(batches) else math.ceil(steps / max(1, math.ceil(batches)))
        return int(steps), epochs or -1

    def _may_fuse_optimizer(self) -> bool:
        """Lightning clips no gradients of fused optimizers in mixed precision; none are sparse."""
        mixed = self._trainer is not None and isinstance(
            self._trainer.precision_plugin, MixedPrecision
        )
        return not mixed and not any(getattr(module, "sparse", False) for module in self.modules())

    def parameter_groups(self) -> list[Group]:
        """The parameters that are or will be trained, in groups for the optimizer."""
        groups = getattr(self.network, "parameter_groups", None)
        if groups is None:
            return [{"params": [p for p in self.parameters() if p.requires_grad]}]
        return [
            {"params": parameters, "factor": self._lr_factor**number, "name": name}
            for number, (name, parameters) in enumerate(groups())
            if name in self.trained_later or any(p.requires_grad for p in parameters)
        ]

    @property
    def omits_backbone(self) -> bool:
        """Whether the state dict leaves out a backbone that is frozen and can be had elsewhere."""
        return not self._full_checkpoints and getattr(self.network, "stored_elsewhere", False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card, the images, and the training metrics of the current epoch."""
        checkpoint["train_metrics"] = self.train_metrics.snapshot()
        if self.card is not None:
            metrics = {k: float(value) for k, value in self.trainer.callback_metrics.items()}
            checkpoint[CARD] = {**self.card, "metrics": metrics}
        if self.images is not None:
            checkpoint[IMAGES] = self.images

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the training metrics of the current epoch."""
        self.train_metrics.restore(checkpoint["train_metrics"])


def _leave_out_network(
    module: Classifier, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """network.hidden.0.weight -> hidden.0.weight, as a state dict is given out."""
    omits_backbone = module.omits_backbone
    for key in [key for key in state if key.startswith(f"{prefix}network.")]:
        value, plain = state.pop(key), key.removeprefix(f"{prefix}network.")
        if not (omits_backbone and plain.startswith(BACKBONE)):
            state[prefix + plain] = value


def _put_back_network(
    module: Classifier, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """hidden.0.weight -> network.hidden.0.weight, as a state dict is taken in."""
    plain = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
    given = {short: state.pop(key) for short, key in plain.items()}
    for key, value in with_backbone(module.network, given).items():
        state[f"{prefix}network.{key}"] = value
