"""From the images of a data set to Lightning's data loaders."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.accelerators import CUDAAccelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from discern.data.augment import AUGMENTATIONS, View
from discern.data.division import Content, Division, all_on, divide, seen
from discern.data.images import (
    Augmentable,
    AugmentedImages,
    Batch,
    Batched,
    Images,
    labels_of,
)
from discern.data.in_memory import InMemoryImages
from discern.data.known import Changes, KnownImages, Rule, Side, check_classes
from discern.data.loader import ImageLoader, ResumableDataLoader
from discern.data.sampler import (
    EpochSampler,
    InOrderSampler,
    ShareSampler,
    mixed_order,
    spread_order,
)
from discern.data.served import Features, ServedFeatures
from discern.errors import DiscernError


@dataclass(frozen=True)
class Parts:
    """A data set in its published parts.

    Attributes:
        title: name for people.
        source_used: its origin, in a word.
        digests: hex SHA-256 of the training and test images and labels, in a fixed order.
        train: images to train on and, unless there are parts for it, to hold out of.
        val: images for validation, or None without such a part.
        test: images for the test, or None without such a part.
    """

    title: str
    source_used: str
    digests: tuple[str, ...]
    train: Images
    val: Images | None
    test: Images | None


@dataclass(frozen=True)
class _Splits:
    loaded: Parts
    train: Images
    val: Images
    test: Images
    seen: KnownImages
    """The images as a model trained on them will know them."""


class ImageDataModule(LightningDataModule, ABC):
    """Data module of labelled images, with a validation split that training never sees.

    A batch is a tuple: images, float32 (B, C, H, W), normalised, and labels, int64 (B,). The last
    batch of an epoch may be smaller, and one of validation or test empty where several processes
    share the images.

    Args:
        val_size: number (an int) or fraction (a float) of the training images that are held out,
            in equal proportion of each class, unless the data set has a part for validation; with
            0 there is no validation.
        batch_size: images in a training batch.
        eval_batch_size: images in a batch of validation or test.
        num_workers: processes that load batches; with 0 the training process does.
        augment: augmentation of training images, a key of ``augmentations``.
        sampler: ``none`` to visit each training image once an epoch, ``balanced`` to draw as many,
            each class equally often on average.
        fraction: of the training images used, the same for each class.
        folds: number of parts for cross-validation in place of ``val_size``; None for none.
        fold: the part to validate on, from 0.
        seed: decides which images are held out, the order of each epoch and the augmentation.
        strict: whether measuring images that were trained on is an error.
    """

    class_names: list[str]
    """Names of the classes, in the order of their labels."""

    input_shape: tuple[int, int, int]
    """Shape of an image: channels, height, width."""

    augmentations: ClassVar[Mapping[str, object]]
    """Values of ``augment``."""

    def __init__(
        self,
        *,
        val_size: int | float = 0.1,
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        num_workers: int = 0,
        augment: str = "none",
        sampler: str = "none",
        fraction: float = 1.0,
        folds: int | None = None,
        fold: int = 0,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.val_size = val_size
        self.test_size: int | float = 0
        """As ``val_size``, for the test, if the data set has no part for it."""
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.augmentation = self.augmentations[augment]
        self.sampler = sampler
        self.fraction = fraction
        self.folds = folds
        self.fold = fold
        self.seed = seed
        self.strict = strict
        self.known: KnownImages | None = None
        """The images known to the model used with these data; set before ``setup``."""
        self.are_own = False
        """Whether the data are those that this model was trained on, perhaps with some changes."""
        self.measures_all = False
        """Whether ``measured`` is all that the model has not been trained on."""
        self.left_out = 0
        """Number of further images that the model was trained on, or that its run held out."""
        self.kept_out = 0
        """Number of training images left out because the model's run held them out."""
        self.measured: str | None = None
        """The split to measure, if the data are not the model's own: all images that it was not
        trained on. None for training."""
        self.omits_single_images = False
        """Whether training leaves out a last batch of one image."""
        self.features: Features | None = None
        """Serves features in place of images; None without a feature cache."""
        self._splits: _Splits | None = None

    @abstractmethod
    def _load_parts(self) -> Parts:
        """Find the images, and read them if they are to be in memory."""

    @property
    @abstractmethod
    def preprocessing(self) -> dict[str, object]:
        """The preparation of pixels for the network, as stored with a model."""

    def setup(self, stage: str | None = None) -> None:
        """Find the data set and divide it, once, whatever the stage.

        Raises:
            DiscernError: it cannot be read, or lacks the classes of the model used with it.
        """
        if self._splits is not None:
            return
        loaded = self._load_parts()
        if self.known is not None:
            check_classes(loaded.title, self.class_names, self.known)
        self._splits = self._divided(loaded)

    def _divided(self, loaded: Parts) -> _Splits:
        given = {} if loaded.test is None else {Side.TEST: loaded.test}
        if loaded.val is not None:  # folds take its place
            given[Side.VAL if self.folds is None else Side.UNUSED] = loaded.val
        pool = _content(loaded.train)
        parts = {side: _content(images) for side, images in given.items()}
        known, every = self.known, [pool.keys, *(part.keys for part in parts.values())]
        self.are_own = known is not None and (
            known.continued or known.are_those_of(np.concatenate(every))
        )
        sides, rule, self.kept_out = self._sides(pool, set(given))
        rows = [(part, np.full(len(part.keys), side, np.uint8)) for side, part in parts.items()]
        fingerprint = self._fingerprint_of(loaded)
        now = seen([(pool, sides), *rows], rule, self.class_names, fingerprint, known)

        def images(side: Side) -> Images:
            drawn = torch.from_numpy(np.flatnonzero(sides == side))
            return given[side] if side in given else loaded.train.subset(drawn)

        return _Splits(loaded, images(Side.TRAIN), images(Side.VAL), images(Side.TEST), now)

    def _sides(self, pool: Content, given: set[Side]) -> Division:
        """The side of each image in the pool, with the parts that are given."""
        wanted, known = self._wanted(draws_test=Side.TEST not in given), self.known
        if known is None or self.measured is None or self.are_own:
            draws_val = Side.VAL not in given
            return divide(pool, self.num_classes, wanted, draws_val, known, self.are_own)
        side = Side[self.measured.upper()]
        if side in given:
            return Division(all_on(Side.TRAIN, pool, known), wanted)
        if side is not Side.TRAIN:
            self._check_no_part_is_meant(given)
        sides = all_on(side, pool, known)
        self.measures_all = side is not Side.TRAIN or not given
        self.left_out = int((sides != side).sum())
        return Division(sides, wanted)

    def _check_no_part_is_meant(self, given: set[Side]) -> None:
        """Refuse to measure all images as one split if the data have parts for others.

        Raises:
            DiscernError: they have, or the images held out for validation are unknown.
        """
        parts = sorted(side.name.lower() for side in given & {Side.VAL, Side.TEST})
        if parts:
            raise DiscernError(
                f"split={self.measured} is not in these data, which have a part for "
                f"{' and '.join(parts)}: it must be {' or '.join(parts)}."
            )
        if self.measured == "val" and self.known is not None and self.known.rule is None:
            raise DiscernError(
                f"split=val is not allowed: {self.known.source} does not record which images "
                "its run held out; it must be test or train."
            )

    def _wanted(self, draws_test: bool) -> Rule:
        """The rule that the settings describe."""
        return Rule.model_construct(  # sizes are checked where they are used
            seed=self.seed % 2**32,
            val_size=self.val_size,
            test_size=self.test_size if draws_test else None,
            folds=self.folds,
            fold=self.fold,
            fraction=float(self.fraction),
        )

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def title(self) -> str:
        """Name for people of the data that is used."""
        return self._set_up.loaded.title

    @property
    def source_used(self) -> str:
        """Origin of the data, such as ``full`` for the published data set."""
        return self._set_up.loaded.source_used

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 that changes with any pixel or label of the training or test images."""
        return self._fingerprint_of(self._set_up.loaded)

    @staticmethod
    def _fingerprint_of(loaded: Parts) -> str:
        return hashlib.sha256("".join(loaded.digests).encode()).hexdigest()

    # The images as a model knows them, before it is trained and after

    @property
    def seen(self) -> KnownImages:
        """The images as a model trained on these data knows them."""
        return self._set_up.seen

    @property
    def changes(self) -> Changes | None:
        """The difference from the data of the model used with these; None without a difference."""
        known, seen = self.known, self.seen
        if known is None or known.rule is None or known.fingerprint == self.fingerprint:
            return None
        # In other data 001.jpg is another picture, not a changed one.
        names = seen.names if self.are_own else seen.names[:0]
        return known.changes(seen.keys, seen.labels, names)

    @property
    def num_known(self) -> int:
        """Number of these images known to the model used with them."""
        return 0 if self.known is None else int((self.known.sides_of(self.seen.keys) >= 0).sum())

    @property
    def overruled(self) -> dict[str, tuple[object, object]]:
        """Settings of the split that the model's rule overrides -> setting, value of the rule."""
        rule = None if self.known is None or not self.are_own else self.known.rule
        if rule is None or not rule.asked:
            return {}
        pairs = {name: (getattr(self, name), value) for name, value in rule.asked.items()}
        pairs["seed"] = self.seed % 2**32, rule.seed
        if self.folds is not None and rule.val is not None:
            pairs["folds"] = self.folds, rule.folds
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def trained_on(self, split: str, trains: bool = True) -> int | None:
        """Number of images of a split that the model was or will be trained on; None if unknown.

        Args:
            split: ``train``, ``val`` or ``test``.
            trains: whether the images for training will be trained on.
        """
        known, seen = self.known, self.seen
        if known is not None and known.rule is None and known.class_names is not None:
            return None
        trained = [] if known is None else [known.trained_on]
        trained += [seen.trained_on] if trains else []
        measured = seen.keys[seen.sides == Side[split.upper()]]
        return int(np.isin(measured, np.concatenate(trained)).sum()) if trained else 0

    @property
    def train_dataset(self) -> Images:
        """The images trained on."""
        return self._set_up.train

    @property
    def val_dataset(self) -> Images:
        """The images held out of training; none with ``val_size`` 0."""
        return self._set_up.val

    @property
    def test_dataset(self) -> Images:
        """The images of the test set."""
        return self._set_up.test

    @property
    def num_images(self) -> dict[str, int]:
        """Number of images in each split: ``train``, ``val``, ``test``."""
        splits = self._set_up
        return {"train": len(splits.train), "val": len(splits.val), "test": len(splits.test)}

    @property
    def train_class_counts(self) -> Tensor:
        """Number of training images of each class, int64 (num_classes,)."""
        return torch.bincount(labels_of(self.train_dataset), minlength=self.num_classes)

    @property
    def has_validation(self) -> bool:
        """Whether any image is held out."""
        return len(self.val_dataset) > 0

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches in an order given by seed and epoch; it resumes within an epoch."""
        trainer = self.trainer
        overfits = trainer is not None and trainer.overfit_batches  # type: ignore[attr-defined]
        dataset = self._in_mixed_order() if overfits else self._seen_in_training()
        share = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
        if overfits:
            sampler: EpochSampler = InOrderSampler(dataset, self.seed, *share)
        else:
            sampler = EpochSampler(
                dataset,
                self.seed,
                *share,
                labels=labels_of(self.train_dataset) if self.sampler == "balanced" else None,
                places=isinstance(dataset, AugmentedImages),
            )
        return ResumableDataLoader(
            dataset,
            sampler=sampler,
            batch_size=self.batch_size,
            batches_done=self._batches_done,
            drop_last=not overfits
            and self.omits_single_images
            and len(sampler) > self.batch_size
            and len(sampler) % self.batch_size == 1,
            **self._loader_options(),
        )

    def _in_mixed_order(self) -> Augmentable:
        """The images trained on, for a run that overfits on the first few batches.

        They may be sorted by class, and a batch of one class is learnt without looking at it.
        """
        mixed = mixed_order(labels_of(self.train_dataset))
        indices = self.train_dataset.indices
        return self._served(self.train_dataset.subset(mixed if indices is None else indices[mixed]))

    def _seen_in_training(self) -> Batched:
        """The images trained on, as training sees them."""
        images = self._served(self.train_dataset)
        if self.augmentation is None:
            return images
        return AugmentedImages(images, self.augmentation, self.seed)

    def seen_in_epoch(self, indices: list[int], epoch: int) -> Batch:
        """Training images at ``indices`` as the network sees them in an epoch, from 0."""
        view = View.of(self.augmentation, self.seed, epoch)
        if view is None:
            return self.train_dataset.__getitems__(indices)
        return self.train_dataset.augmented(np.array(indices, dtype=np.int64), view)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Batches of the images held out, in order; no loader at all where there are none.

        Under a limit of batches those of ``evaluated`` come first.
        """
        if not self.has_validation:
            # An empty list means no validation to Lightning, which warns of it.
            warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")
            return []
        return self._share_of("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Batches of the test images, in order; under a limit those of ``evaluated`` first."""
        return self._share_of("test")

    def evaluated(self, split: str) -> Images:
        """The images of a split, in their order, to which the Trainer's limit of batches comes.

        They hold each class in its proportion: the first images of a folder would be of one class.

        Args:
            split: ``val`` or ``test``.
        """
        images, count = self._evaluation_split(split), self._num_evaluated(split)
        if count == len(images):
            return images
        first = spread_order(labels_of(images), count)[:count]
        return images.subset(images.of_all(first.numpy()))

    def _evaluation_split(self, split: str) -> Images:
        return self.val_dataset if split == "val" else self.test_dataset

    def _num_evaluated(self, split: str) -> int:
        trainer, images = self.trainer, len(self._evaluation_split(split))
        if trainer is None:
            return images
        at_once = self.eval_batch_size * trainer.world_size
        limit = getattr(trainer, f"limit_{split}_batches")
        batches = limit if isinstance(limit, int) else int(-(-images // at_once) * limit)
        return min(images, batches * at_once)

    @property
    def _set_up(self) -> _Splits:
        if self._splits is None:
            raise RuntimeError(f"{type(self).__name__} knows its data only after setup()")
        return self._splits

    def sequential_loader(self, dataset: Images, batch_size: int) -> DataLoader[Batch]:
        """Batches of ``dataset`` in order, as the network sees them in evaluation."""
        return self._loader(dataset, batch_size)

    def _share_of(self, split: str) -> DataLoader[Batch]:
        """Batches of the images of a split that this process evaluates."""
        trainer, images, share = self.trainer, self._evaluation_split(split), None
        count, order = self._num_evaluated(split), None
        if count < len(images):
            order = spread_order(labels_of(images), count).tolist()
        if trainer is not None and (trainer.world_size > 1 or order is not None):
            share = ShareSampler(images, trainer.world_size, trainer.global_rank, order)
        return self._loader(images, self.eval_batch_size, share)

    def _loader(
        self, images: Images, batch_size: int, sampler: ShareSampler | None = None
    ) -> DataLoader[Batch]:
        return ImageLoader(
            self._served(images), batch_size=batch_size, sampler=sampler, **self._loader_options()
        )

    def _served(self, images: Images) -> Augmentable:
        return images if self.features is None else ServedFeatures(images, self.features)

    def _loader_options(self) -> dict[str, object]:
        # Features are read, not computed: worker processes would only slow it down.
        num_workers = self.num_workers if self.features is None else 0
        return {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "pin_memory": self.trainer is not None
            and isinstance(self.trainer.accelerator, CUDAAccelerator),
            # A loader draws from its generator whenever it is iterated. With the global one, how
            # often validation runs would change the random numbers that training gets.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _batches_done(self) -> int:
        """Batches of the current epoch that the model has been trained on."""
        if self.trainer is None:
            return 0
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return int(progress.current.processed)  # type: ignore[attr-defined]


def _content(images: Images) -> Content:
    return Content(images.content_keys(), labels_of(images).numpy(), images.name_keys())


@dataclass(frozen=True)
class LoadedImages:
    """A whole data set in memory.

    Attributes:
        title: name for people.
        train_images: uint8 (N, C, H, W).
        train_labels: int64 (N,).
        test_images: uint8 (M, C, H, W).
        test_labels: int64 (M,).
        source_used: "full" or "sample", of a published data set.
        digests: hex SHA-256 of the images and labels of both parts, in a fixed order; computed
            if none are given.
    """

    title: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    source_used: str = "full"
    digests: tuple[str, ...] = ()


class InMemoryDataModule(ImageDataModule):
    """Data module of images that fit in memory.

    Args:
        mean: subtracted from pixels scaled to [0, 1]; one number, or one per channel.
        std: divides the difference; one number, or one per channel.
        **options: see ``ImageDataModule``.
    """

    augmentations = AUGMENTATIONS

    def __init__(
        self,
        *,
        mean: float | Sequence[float] = 0.5,
        std: float | Sequence[float] = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.mean = mean
        self.std = std

    @abstractmethod
    def load_images(self) -> LoadedImages:
        """Read or create the data set; called once."""

    @property
    def preprocessing(self) -> dict[str, object]:
        """Mean and standard deviation."""
        return {"mean": self.mean, "std": self.std}

    def _load_parts(self) -> Parts:
        loaded = self.load_images()
        return Parts(
            loaded.title,
            loaded.source_used,
            loaded.digests or _digests(loaded),
            train=InMemoryImages(loaded.train_images, loaded.train_labels, self.mean, self.std),
            val=None,
            test=InMemoryImages(loaded.test_images, loaded.test_labels, self.mean, self.std),
        )


def _digests(loaded: LoadedImages) -> tuple[str, ...]:
    """Hex SHA-256 of the images and labels of each part, independent of their order."""
    parts = (
        (loaded.train_images, loaded.train_labels),
        (loaded.test_images, loaded.test_labels),
    )
    return tuple(_digest(InMemoryImages(*part).identify(), part[1]) for part in parts)


def _digest(words: NDArray[np.uint64], labels: Tensor) -> str:
    rows = np.column_stack([words, labels.numpy().astype(np.uint64)])
    return hashlib.sha256(rows[np.lexsort(rows.T)].tobytes()).hexdigest()
