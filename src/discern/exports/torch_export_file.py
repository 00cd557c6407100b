"""``format=torch_export``: a ``torch.export`` program, which needs no code of the model's."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from torch.export import Dim

from discern.errors import DiscernError, first_line
from discern.exports.bundle import Bundle, example, traceable
from discern.exports.running import Floats, Pixels, Run
from discern.files.writing import write_whole
from discern.models.card import Card

FILE = "model.pt2"


def write(bundle: Bundle, card: Card, about: Mapping[str, str], folder: Path) -> Path:
    """Write model.pt2, with the facts as extra files of the archive.

    It takes pixels of 2 × 2 and more.

    Raises:
        DiscernError: the network cannot be exported.
    """
    path = folder / FILE
    axes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    level = logging.getLogger("torch").level
    with traceable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch").setLevel(logging.CRITICAL)
        try:
            # Where it fails it prints all that it has traced.
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                program = torch.export.export(bundle, (example(card),), dynamic_shapes=(axes,))
        except Exception as error:  # the exporter has many kinds
            raise DiscernError(
                f"format=torch_export is not possible for this model: "
                f"{first_line(error).removesuffix('.')}."
            ) from error
        finally:
            logging.getLogger("torch").setLevel(level)
        with write_whole(path, "wb") as file:
            torch.export.save(program, file, extra_files=dict(about))
    return path


def run(path: Path, bundle: Bundle) -> Run:
    """The program that was just written to ``path``, ready to run."""
    program = torch.export.load(path).module()

    def probabilities(pixels: Pixels) -> Floats:
        with torch.no_grad():
            found: Floats = program(torch.from_numpy(pixels)).numpy()
        return found

    return probabilities
