"""The files of TensorBoard's projector: features of images, their labels and thumbnails."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf import text_format  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image
from tensorboard.plugins.projector.metadata import PROJECTOR_FILENAME
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from discern.files.writing import write_whole

FOLDER = "projector"
"""In the run's folder; TensorBoard reads nothing outside of that."""

THUMBNAIL, MAX_SHEET = 48, 8192
"""Pixels of a thumbnail's side, and of the side of the largest sheet that browsers allow."""


@dataclass(frozen=True)
class Points:
    """Images as points.

    Attributes:
        features: float32 (N, F).
        pixels: uint8 (N, C, H, W), of 1 or 3 channels.
        columns: name -> a text for each image, N.
    """

    features: NDArray[np.float32]
    pixels: NDArray[np.uint8]
    columns: Mapping[str, Sequence[str]]


def write_projector(points: Points, title: str, folder: Path) -> None:
    """Write the files of TensorBoard's projector for the run in ``folder``."""
    place = folder / FOLDER
    with write_whole(place / "features.tsv") as file:
        file.write(_rows(points.features))
    with write_whole(place / "labels.tsv") as file:
        file.write(_table(points.columns))
    picture, side = _sprite(points.pixels)
    with write_whole(place / "thumbnails.jpg", "wb") as file:
        file.write(picture)
    config = ProjectorConfig()
    embedding = config.embeddings.add(
        tensor_name=title,
        tensor_path=f"{FOLDER}/features.tsv",
        metadata_path=f"{FOLDER}/labels.tsv",
    )
    embedding.sprite.image_path = f"{FOLDER}/thumbnails.jpg"
    embedding.sprite.single_image_dim.extend([side, side])
    with write_whole(folder / PROJECTOR_FILENAME) as file:
        file.write(text_format.MessageToString(config))


def _rows(features: NDArray[np.float32]) -> str:
    """Numbers with four digits, separated by tabs; formatting all of them at once is fast."""
    row = "\t".join(["%.4g"] * features.shape[1]) + "\n"
    return row * len(features) % tuple(features.ravel().tolist())


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    rows = zip(*columns.values(), strict=True)
    # TensorBoard expects a header only if there are several columns.
    lines = [tuple(columns), *rows] if len(columns) > 1 else list(rows)
    return "".join("\t".join(map(_cell, line)) + "\n" for line in lines)


def _cell(text: str) -> str:
    one_line = " ".join(text.split()) or "-"
    return one_line.encode("utf-8", "backslashreplace").decode()


def _sprite(pixels: NDArray[np.uint8]) -> tuple[bytes, int]:
    """A square sheet of thumbnails as a JPEG file, and the side of each."""
    per_row = math.ceil(math.sqrt(len(pixels)))
    side = min(THUMBNAIL, MAX_SHEET // per_row)
    sheet = Image.new("RGB", (per_row * side, per_row * side))
    for number, image in enumerate(pixels):
        channels_last = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        thumbnail = Image.fromarray(channels_last).resize((side, side), Image.Resampling.BOX)
        row, column = divmod(number, per_row)
        sheet.paste(thumbnail, (column * side, row * side))
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=85, subsampling=0)
    return content.getvalue(), side
