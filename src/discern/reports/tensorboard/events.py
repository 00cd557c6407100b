"""TensorBoard's event files, on a disk that may be full."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from discern.files.writing import make_folder, warn_without

_NUMBERS = itertools.count()
"""Of the event files of this process, in their names."""


class EventFile:
    """Takes the place of TensorBoard's EventFileWriter, whose thread dies of a full disk.

    An event is a record with checksums, appended in one piece: of a killed process the last one may
    be cut, which readers pass over. After an error nothing more is written, with one warning.

    Args:
        folder: of the file; it is made.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}"
        self._path = Path(folder, f"{name}.{os.getpid()}.{next(_NUMBERS)}")
        self._file: IO[bytes] | None = None
        with self._until_it_fails():
            make_folder(Path(folder))
            self._file = self._path.open("xb")
        source = SourceMetadata(writer="discern")
        first = Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=source)
        self.add_event(first)

    def get_logdir(self) -> str:
        """The folder of the file."""
        return self._folder

    def add_event(self, event: Event) -> None:
        """Append an event, and hand it to the system: a process that is killed loses none."""
        if self._file is not None:
            with self._until_it_fails():
                RecordWriter(self._file).write(event.SerializeToString())
                self._file.flush()

    def flush(self) -> None:
        """Nothing: each event is written at once."""

    def close(self) -> None:
        """Have the events on disk, and close the file."""
        if self._file is not None:
            with self._until_it_fails():
                os.fsync(self._file.fileno())
                self._file.close()
            self._file = None

    @contextmanager
    def _until_it_fails(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            file, self._file = self._file, None
            with suppress(OSError):  # what it could not write, it tries once more
                if file is not None:
                    file.close()
            warn_without(str(self._path), error.strerror or str(error))


class EventWriter(SummaryWriter):
    """SummaryWriter into an :class:`EventFile`."""

    def _get_file_writer(self) -> FileWriter:
        writer: FileWriter | None = self.file_writer
        if writer is None:
            # Its constructor would begin a file of TensorBoard's own.
            writer = FileWriter.__new__(FileWriter)
            writer.event_writer = EventFile(self.log_dir)
            self.file_writer = writer  # type: ignore[assignment]
            self.all_writers = {self.log_dir: writer}  # type: ignore[assignment]
            if self.purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                writer.add_event(Event(step=self.purge_step, session_log=start))
                self.purge_step = None
        return writer
