"""Checks and messages where a checkpoint meets data."""

import logging
from collections.abc import Sequence

from lightning.pytorch import LightningDataModule

from discern.data.module import ImageDataModule
from discern.errors import DiscernError, as_override
from discern.runs.summary import trained_on_sentence
from discern.training.job import relative

log = logging.getLogger(__name__)


def say_what_differs(data: ImageDataModule) -> None:
    """Log how the data differ from the data known to a checkpoint, and what is used.

    Raises:
        DiscernError: the checkpoint does not say what it was trained on, and ``data.strict`` is
            set; or a model is to be trained on other folds than those of its checkpoint.
    """
    known = data.known
    if known is None:
        return
    source = relative(known.source)
    if known.rule is None and known.class_names is not None:
        unknown = f"{source} does not record which images its model was trained on"
        if data.strict:
            raise DiscernError(f"data.strict=true: {unknown}.")
        log.warning("%s, so some of these may be among them.", unknown)
    if (changes := data.changes) is not None:
        if data.are_own:
            log.warning("%s is not as %s knows it: %s.", data.title, source, changes)
        else:
            log.warning(
                "%s is not the data that %s was trained on, which knows %s of its %s images.",
                *(data.title, source, f"{data.num_known:,}", f"{len(data.seen.keys):,}"),
            )
    for name, (asked, stored) in data.overruled.items():
        if name in ("folds", "fold") and data.folds is not None and data.measured is None:
            # All folds would be the same images, and their mean no estimate.
            raise DiscernError(
                f"data.{name}={as_override(asked)} is not allowed: {data.title} is divided as by "
                f"the run of {source}, with data.{name}={as_override(stored)}, whose images for "
                "validation cannot become others."
            )
        log.warning(
            "The split is that of %s, made with data.%s=%s: data.%s=%s does not change it.",
            *(source, name, as_override(stored), name, as_override(asked)),
        )
    if data.kept_out:
        log.warning(
            "%s images of %s are among those to train on, but were held out by the run of %s: they "
            "are left out.",
            *(f"{data.kept_out:,}", data.title, source),
        )


def say_what_is_measured(data: ImageDataModule, split: str) -> None:
    """Log which images of data that differ from the model's own are used for a split."""
    if not isinstance(data, ImageDataModule) or data.known is None or data.known.rule is None:
        return
    if not data.are_own:
        which = "all that it has" if data.measures_all else f"its part for {split}"
        if data.left_out:
            which += (
                f" but for {data.left_out:,} that the model is trained on or that its run held out"
            )
    elif data.changes is not None:
        which = f"those on the side of {split}"
    else:
        return
    log.info("Measured: %s of %s, %s.", f"{data.num_images[split]:,} images", data.title, which)


def check_trained_on(
    data: LightningDataModule, splits: Sequence[str], trains: bool = False
) -> dict[str, int | None]:
    """Count, and warn of, images to be measured that the model is or will be trained on.

    Args:
        data: the data module, set up; of a user's own that is not discern's nothing is known.
        splits: what will be measured.
        trains: whether the model will be trained on the images for training.

    Returns:
        Split -> the number of such images; None where it is unknown.

    Raises:
        DiscernError: there are some, and ``data.strict`` is set.
    """
    if not isinstance(data, ImageDataModule):
        return dict.fromkeys(splits)
    counts = {split: data.trained_on(split, trains) for split in splits}
    for split, count in counts.items():
        if count and split != "train":
            sentence = trained_on_sentence(split, count, data.num_images[split])
            if data.strict:
                raise DiscernError(f"data.strict=true: {sentence}.")
            log.warning("%s.", sentence)
    return counts
