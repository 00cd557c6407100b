from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from numbered_images import NUM_IMAGES, NumberedImages, Recorder, indices_of, quiet_trainer

from discern.data.module import LoadedImages
from discern.errors import DiscernError


def set_up(**settings) -> NumberedImages:
    data = NumberedImages(**settings)
    data.setup()
    return data


def visited(loader) -> list[int]:
    return [index for images, _ in loader for index in indices_of(images)]


def test_the_loaders_serve_each_image_of_their_split_once():
    data = set_up(val_size=6)
    train, val = visited(data.train_dataloader()), visited(data.val_dataloader())
    assert sorted(train + val) == list(range(NUM_IMAGES))
    assert len(val) == 6
    assert train != sorted(train)
    assert val == sorted(val)
    assert visited(data.test_dataloader()) == list(range(NUM_IMAGES))


def test_batches_have_the_size_asked_for_and_the_last_is_kept():
    data = set_up(val_size=6, batch_size=4, eval_batch_size=5)
    assert [len(labels) for _, labels in data.train_dataloader()] == [4, 4, 4, 2]
    assert [len(labels) for _, labels in data.val_dataloader()] == [5, 1]
    assert [len(labels) for _, labels in data.test_dataloader()] == [5, 5, 5, 5]


def test_labels_belong_to_their_images():
    for images, labels in set_up().train_dataloader():
        assert labels.tolist() == [index % 2 for index in indices_of(images)]


def test_the_seed_decides_the_split_and_the_order():
    first, again, other = (set_up(val_size=6, seed=seed) for seed in (1, 1, 2))
    assert visited(first.val_dataloader()) == visited(again.val_dataloader())
    assert visited(first.train_dataloader()) == visited(again.train_dataloader())
    assert visited(first.val_dataloader()) != visited(other.val_dataloader())


def test_iterating_leaves_the_global_random_numbers_alone():
    data = set_up(val_size=6)
    state = torch.get_rng_state()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        visited(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_setting_up_again_changes_nothing(monkeypatch):
    data = set_up()
    dataset = data.train_dataset
    monkeypatch.setattr(data, "load_images", None)
    data.setup("test")
    assert data.train_dataset is dataset


def test_the_data_are_not_known_before_setup():
    with pytest.raises(RuntimeError, match="NumberedImages knows its data only after setup"):
        NumberedImages().train_dataset  # noqa: B018


def test_a_validation_size_that_leaves_no_training_is_refused():
    with pytest.raises(DiscernError, match=r"^data\.val_size=20 "):
        set_up(val_size=20)


def test_a_run_validates_on_the_images_held_out():
    model, data = Recorder(), NumberedImages(val_size=6)
    trainer = quiet_trainer(max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(model, data)
    assert data.has_validation
    assert model.validated == visited(data.val_dataloader())


def test_a_run_without_validation_gives_no_warning():
    model, data = Recorder(), NumberedImages(val_size=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Of Lightning's own making, whatever the data.
        warnings.filterwarnings("ignore", ".*LeafSpec.*", FutureWarning)
        warnings.filterwarnings("ignore", ".*does not have many workers")
        quiet_trainer(max_epochs=2).fit(model, data)
    assert not data.has_validation
    assert model.validated == []
    assert len(model.seen) == 14


def test_overfitting_repeats_the_same_batches_in_order():
    model, data = Recorder(), NumberedImages()
    quiet_trainer(max_epochs=2, overfit_batches=2).fit(model, data)
    assert [indices for _, _, indices in model.seen] == [[0, 1, 2], [3, 4, 5]] * 2


class Sorted(NumberedImages):
    """Twelve images of one class, then eight of the other, as the files of a folder are found."""

    def load_images(self) -> LoadedImages:
        labels = (torch.arange(NUM_IMAGES) >= 12).long()
        return replace(super().load_images(), train_labels=labels, test_labels=labels)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "limit",
    [
        {"limit_val_batches": 1},
        {"limit_val_batches": 0.5},
        {"limit_val_batches": 1, "num_sanity_val_steps": 2},
        {"limit_val_batches": 1, "val_check_interval": 1, "limit_train_batches": 1},
        {"overfit_batches": 1},
        {"fast_dev_run": 1},
    ],
)
def test_a_limit_of_batches_leaves_each_class_its_proportion(limit, num_workers):
    model, data = Recorder(), Sorted(val_size=10, num_workers=num_workers)
    quiet_trainer(max_epochs=1, **{"num_sanity_val_steps": 0, **limit}).fit(model, data)
    seen = model.validated[-5:]
    assert len(model.validated) == (10 if limit.get("num_sanity_val_steps") else 5)
    assert sum(index < 12 for index in seen) == 3
    assert seen == sorted(seen) == visited(data.sequential_loader(data.evaluated("val"), 5))


@pytest.mark.parametrize("limit", [None, 1.0, 2, 100])
def test_a_limit_that_leaves_nothing_out_changes_nothing(limit):
    model, data = Recorder(), NumberedImages(val_size=10)
    quiet_trainer(limit_val_batches=limit).validate(model, data, verbose=False)
    assert model.validated == visited(set_up(val_size=10).val_dataloader())
    assert data.evaluated("val") is data.val_dataset


@pytest.mark.parametrize("num_workers", [0, 1])
def test_workers_are_kept_between_epochs(num_workers):
    loader = set_up(num_workers=num_workers).train_dataloader()
    assert loader.num_workers == num_workers
    assert loader.persistent_workers == bool(num_workers)


def test_memory_is_pinned_only_for_cuda():
    data = set_up(val_size=6)
    assert not data.train_dataloader().pin_memory
    data.trainer = quiet_trainer()
    assert not data.train_dataloader().pin_memory
    data.trainer.strategy._accelerator = CUDAAccelerator()
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert loader.pin_memory
