from __future__ import annotations

import json
import weakref
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from numbered_images import NumberedImages, Recorder, indices_of, quiet_trainer
from torch.utils.data import Dataset

from discern.data.loader import ResumableDataLoader
from discern.data.sampler import EpochSampler

EPOCHS = 3


def train(checkpoint=None, callbacks=(), limit=None, **settings):
    model = Recorder()
    trainer = quiet_trainer(
        max_epochs=EPOCHS,
        limit_train_batches=limit,
        callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks),
    )
    trainer.fit(model, NumberedImages(**settings), ckpt_path=checkpoint, weights_only=True)
    return model


def assert_same_from(step, resumed, undisturbed):
    assert resumed.seen == undisturbed.seen[step:]
    for value, expected in zip(resumed.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(value, expected)


# In each setting 7 batches are an epoch without a limit and validation, 4 with a limit, 6 with
# validation. The steps are: within the first epoch, its end, and within later epochs.
@pytest.mark.parametrize(
    ("num_workers", "val_size", "limit", "steps"),
    [
        (0, 0, None, (1, 6, 7, 8, 13, 14, 20)),
        (0, 4, None, (2, 5, 6, 7, 12, 16)),
        (0, 4, 4, (3, 4, 5, 8, 10)),
        (2, 0, None, (2, 7, 12)),
        (2, 4, 4, (4, 6)),
    ],
)
def test_a_run_resumed_from_any_step_sees_the_batches_not_yet_seen(
    tmp_path, num_workers, val_size, limit, steps
):
    settings = {"num_workers": num_workers, "val_size": val_size}
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    undisturbed = train(callbacks=[saving], limit=limit, **settings)
    first_batches = [indices for _, batch_idx, indices in undisturbed.seen if batch_idx == 0]
    assert len(first_batches) == len({tuple(indices) for indices in first_batches}) == EPOCHS
    for step in steps:
        checkpoint = tmp_path / f"step={step}.ckpt"
        resumed = train(checkpoint, limit=limit, **settings)
        assert_same_from(step, resumed, undisturbed)


@pytest.mark.parametrize("after_training", [True, False])
def test_a_run_resumed_from_the_end_of_an_epoch_starts_the_next(tmp_path, after_training):
    saving = ModelCheckpoint(
        tmp_path, "{step}", save_top_k=-1, save_on_train_epoch_end=after_training
    )
    undisturbed = train(callbacks=[saving], limit=4, val_size=4)
    resumed = train(tmp_path / "step=4.ckpt", limit=4, val_size=4)
    assert_same_from(4, resumed, undisturbed)


def test_a_run_interrupted_within_a_step_repeats_that_step(tmp_path):
    class Interrupted(Recorder):
        def training_step(self, batch, batch_idx):
            if (self.current_epoch, batch_idx) == (1, 3):
                raise RuntimeError("power cut")
            return super().training_step(batch, batch_idx)

    undisturbed = train()
    saving = ModelCheckpoint(tmp_path, "cut", save_on_exception=True, every_n_train_steps=100)
    trainer = quiet_trainer(max_epochs=EPOCHS, callbacks=[saving], enable_checkpointing=True)
    with pytest.raises(RuntimeError, match="power cut"):
        trainer.fit(Interrupted(), NumberedImages())
    (checkpoint,) = tmp_path.glob("*.ckpt")
    assert_same_from(7 + 3, train(checkpoint), undisturbed)


class RankRecorder(Recorder):
    """Leaves what each process has seen in a file of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self) -> None:
        (self.folder / f"rank{self.global_rank}.json").write_text(json.dumps(self.seen))


def train_on_two(folder: Path, checkpoint: Path | None = None) -> list[list[tuple]]:
    """Train with two processes; what each has seen."""
    saving = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = quiet_trainer(
        max_epochs=2,
        devices=2,
        strategy="ddp_fork",
        callbacks=[saving],
        enable_checkpointing=True,
    )
    model = RankRecorder(folder)
    trainer.fit(model, NumberedImages(), ckpt_path=checkpoint, weights_only=True)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_share_an_epoch_and_resume_it(tmp_path):
    undisturbed = train_on_two(tmp_path)  # 10 images each: 4 batches in an epoch
    for epoch in range(2):
        visited = [
            i for seen in undisturbed for e, _, indices in seen if e == epoch for i in indices
        ]
        assert sorted(visited) == list(range(20))
    assert undisturbed[0][0][2] != undisturbed[0][4][2]
    resumed = train_on_two(tmp_path, tmp_path / "step=6.ckpt")
    assert resumed == [seen[6:] for seen in undisturbed]


class Place:
    """A loader of the numbered images, and a count of the batches trained on."""

    def __init__(self) -> None:
        self.batches = 0
        data = NumberedImages()
        data.setup()
        self.loader = ResumableDataLoader(
            data.train_dataset,
            sampler=EpochSampler(data.train_dataset, seed=1),
            batch_size=3,
            batches_done=lambda: self.batches,
        )

    def epoch(self, number: int) -> list[list[int]]:
        self.loader.sampler.set_epoch(number)
        return [indices_of(images) for images, _ in self.loader]


def test_the_state_is_the_place_in_training():
    place = Place()
    place.loader.sampler.set_epoch(4)
    place.batches = 2
    assert place.loader.state_dict() == {"epoch": 4, "batches": 2}


def test_a_loaded_state_shortens_one_iteration_of_its_epoch_but_not_the_length():
    place = Place()
    complete = place.epoch(4)
    place.loader.load_state_dict({"epoch": 4, "batches": 2})
    assert len(place.loader) == 7
    assert place.epoch(4) == complete[2:]
    assert place.epoch(4) == complete


def test_a_loaded_state_does_not_shorten_another_epoch():
    place = Place()
    complete = place.epoch(5)
    place.loader.load_state_dict({"epoch": 4, "batches": 2})
    assert place.epoch(5) == complete


def test_skipped_batches_are_not_loaded(monkeypatch):
    place = Place()
    cut = []
    dataset = type(place.loader.dataset)
    original = dataset.__getitems__
    monkeypatch.setattr(dataset, "__getitems__", lambda self, i: cut.append(i) or original(self, i))
    place.loader.load_state_dict({"epoch": 0, "batches": 5})
    assert len(place.epoch(0)) == len(cut) == 2


def test_the_epoch_is_read_when_the_first_batch_is_asked_for():
    place = Place()
    expected = place.epoch(6)
    place.loader.sampler.set_epoch(0)
    batches = iter(place.loader)
    place.loader.sampler.set_epoch(6)
    assert [indices_of(images) for images, _ in batches] == expected


class Forgotten(Dataset):
    """Makes a batch only when nobody holds the one before: it may take its memory."""

    def __init__(self):
        self.last = None

    def __len__(self):
        return 12

    def __getitems__(self, indices):
        assert self.last is None or self.last() is None
        images = torch.zeros(len(indices), 1, 2, 2)
        self.last = weakref.ref(images)
        return images, torch.tensor(indices)


def test_a_batch_is_given_up_before_the_next_one_is_made():
    dataset = Forgotten()
    sampler = EpochSampler(dataset, seed=0)
    options = {"batch_size": 4, "batches_done": lambda: 0}
    batches = iter(ResumableDataLoader(dataset, sampler=sampler, **options))
    seen = 0
    while (batch := next(batches, None)) is not None:
        seen += len(batch[1])
        del batch
    assert seen == len(dataset)
