from __future__ import annotations

import logging

import numpy as np
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from discern.reports.tensorboard.events import EventWriter
from disk import full_after


def read(folder):
    (path,) = folder.glob("events.out.tfevents.*")
    return [event for event in EventFileLoader(str(path)).Load() if event.summary.value]


def test_events_are_readable_as_soon_as_they_are_written(tmp_path):
    writer = EventWriter(str(tmp_path / "new"))
    writer.add_scalar("loss", 0.5, 3)
    (event,) = read(tmp_path / "new")
    assert (event.step, event.summary.value[0].tag) == (3, "loss")
    writer.close()


def test_a_full_disk_ends_the_events_with_one_warning_and_not_the_run(tmp_path, caplog):
    writer = EventWriter(str(tmp_path))
    with full_after(2000):
        for step in range(100):
            writer.add_scalar("loss", 0.5, step)
        writer.flush()
        writer.close()
    assert [event.step for event in read(tmp_path)] == [*range(len(read(tmp_path)))]
    assert len(read(tmp_path)) > 10
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cannot be written (File too large): the run goes on without it." in record.message


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    writer = EventWriter(str(tmp_path / "file" / "below"))
    writer.add_image("image", np.zeros((3, 4, 4), np.uint8))
    writer.close()
    assert len(caplog.records) == 1


def test_a_purge_is_announced_to_readers(tmp_path):
    EventWriter(str(tmp_path), purge_step=7).close()
    (path,) = tmp_path.iterdir()
    starts = [event.step for event in EventFileLoader(str(path)).Load() if event.session_log.status]
    assert starts == [7]
