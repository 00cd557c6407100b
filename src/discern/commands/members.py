"""The saved models that a command is given: one, a list, or the jobs of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from discern.config.models_meant import check_models
from discern.config.values import plain
from discern.data.known import KnownImages, Side, same_classes
from discern.errors import DiscernError
from discern.exports.files import is_exported
from discern.files.places import placed
from discern.models.combined import Model
from discern.models.saved import (
    Content,
    known_images,
    model_name,
    read,
    rebuilt,
    undamaged_checkpoint,
)
from discern.runs.folder import checkpoint_in, is_sweep
from discern.runs.state import State
from discern.training.job import relative

MAX_MEMBERS = 1000


@dataclass(frozen=True, eq=False)
class Member(Model):
    """A saved model.

    Attributes:
        path: of its checkpoint.
        content: of it.
        epoch: after which it was saved, from 1; None where it does not say.
    """

    path: Path
    content: Content
    epoch: int | None

    @property
    def known(self) -> KnownImages:
        """The images that its run knew."""
        if is_exported(self.path):
            known: KnownImages = self.network.known  # type: ignore[assignment]
            return known
        return known_images(self.path, self.content)


def members_of(ckpt_path: str | list[str], ensemble: str | None) -> list[Member]:
    """The models that these settings mean, the first or best one first.

    Raises:
        DiscernError: one cannot be loaded, or they are of different classes, images or data.
    """
    ckpt_path = plain(ckpt_path)
    check_models(ckpt_path, ensemble)
    members = [_loaded(path) for path in _checkpoints(ckpt_path, ensemble)]
    exported = next((one.path for one in members if is_exported(one.path)), None)
    if exported is not None and len(members) > 1:
        raise DiscernError(
            f"{relative(exported)} is an exported model, and no part of an ensemble; give the "
            "checkpoint."
        )
    for other in members[1:]:
        _check_alike(members[0], other)
    return members


def _loaded(path: Path) -> Member:
    if is_exported(path):
        from discern.exports.onnx_model import load_exported  # start-up time

        exported = load_exported(path)
        # Its temperature is in the file's own graph.
        card = exported.card.model_copy(update={"temperature": None})
        return Member(exported, card, path, {}, None)
    content = read(path)
    network = rebuilt(path, content)
    return Member(network, network.card, path, content, network.epoch)  # type: ignore[arg-type]


def _checkpoints(ckpt_path: str | list[str], ensemble: str | None) -> list[Path]:
    if isinstance(ckpt_path, list):
        return [undamaged_checkpoint(each) for each in ckpt_path]
    folder = placed(ckpt_path)
    if ensemble is None or not is_sweep(folder):
        return [undamaged_checkpoint(ckpt_path)]
    found = _of_sweep(folder)
    if not found:
        raise DiscernError(f"ckpt_path={ckpt_path} is a sweep without a job that is done.")
    if not ensemble.startswith("top"):
        return found[:MAX_MEMBERS]
    wanted = int(ensemble.removeprefix("top"))
    if wanted > len(found):
        which = "top1" if len(found) == 1 else f"top1 to top{len(found)}"
        jobs = "1 job that is done" if len(found) == 1 else f"{len(found)} jobs that are done"
        raise DiscernError(
            f"ensemble={ensemble} is not allowed; {ckpt_path} has {jobs}, so it must be {which}."
        )
    return found[:wanted]


def _of_sweep(folder: Path) -> list[Path]:
    """The checkpoints of a sweep's jobs that are done, the best first."""
    from discern.sweeps.ledger import Ledger  # start-up time: a sweep alone has one
    from discern.sweeps.ranking import listed_rows

    ledger = Ledger.load(folder)
    rows = [row for _, row in listed_rows(ledger.rows(), ledger.ranked_by)]
    found = [checkpoint_in(row.folder) for row in rows if row.state is State.DONE]
    return [path for path in found if path is not None]


def _check_alike(one: Member, other: Member) -> None:
    """Check that two models answer the same question about the same images.

    Raises:
        DiscernError: says in what they differ.
    """
    first, second = relative(one.path), relative(other.path)
    if not same_classes(one.classes, other.classes):
        different = "classes"
    elif one.card.input_shape != other.card.input_shape or (
        one.preprocessing != other.preprocessing
    ):
        different = "preprocessing (size of the image, mean or standard deviation)"
    elif one.card.data.get("fingerprint") != other.card.data.get("fingerprint"):
        different = "data"
    else:
        return
    raise DiscernError(
        f"ckpt_path: the models in {first} and {second} were trained on different {different}, so "
        "that they are no ensemble."
    )


def name_of(members: Sequence[Member], ensemble: str | None, tta: str | int) -> str:
    """What one or several models, in these views, are called in titles."""
    name = model_name(members[0].card)
    if len(members) > 1:
        name = f"{'soup' if ensemble == 'soup' else 'mean'} of {len(members)} × {name}"
    return name if tta == "none" else f"{name} with tta={tta}"


def known_to_any(members: Sequence[Member]) -> KnownImages:
    """The images known to the first model, and beside them those that any other is trained on."""
    first, *others = [member.known for member in members]
    trained = [known.trained_on for known in others]
    if not trained or first.rule is None:
        return first
    keys = np.concatenate([first.before, *trained])
    sides = np.concatenate(
        [first.before_sides, *(np.full(len(each), Side.TRAIN, np.uint8) for each in trained)]
    )
    order = np.lexsort((sides, keys))
    keys, sides = keys[order], sides[order]
    new = np.concatenate([[True], keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.bool_)
    return replace(first, before=keys[new], before_sides=sides[new])
