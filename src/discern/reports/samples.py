"""Grids of images as the network sees them: samples.png and top_losses.png."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from discern.files.writing import write_whole
from discern.reports.fonts import isolated
from discern.reports.lettering import distinct, shortened, width_of
from discern.reports.page import percent
from discern.reports.sheet import Sheet
from discern.runs.predictions import Predictions

if TYPE_CHECKING:
    from torch import Tensor

CELL, GAP, LINE, FONT = 1.65, 0.2, 0.16, 8.0
"""Inches of an image's side, between images and of a line of text; font size in points."""

CAPTION, TITLE = CELL + GAP / 2, 8.0
"""Inches of the longest line of a caption, and of the longest title on one line."""

Caption = tuple[str, ...]


def top_losses(
    predictions: Predictions, rows: NDArray[np.int64], pixels: NDArray[np.uint8], title: str
) -> Sheet:
    """Images with true class, predicted class, its probability and the loss.

    Args:
        predictions: of a whole split.
        rows: the images that are drawn, int64 (M,).
        pixels: of these images, uint8 (M, C, H, W).
        title: the sheet's title.
    """
    names = predictions.class_names
    parts = [
        (
            int(predictions.labels[row]),
            int(predictions.predicted[row]),
            f"({percent(float(predictions.confidences[row]), 1)})",
            f"loss {predictions.losses[row]:.2f}",
        )
        for row in rows
    ]
    captions: list[Caption] = [
        (f"true {isolated(names[true])}, predicted {isolated(names[said])} {share}", loss)
        for true, said, share, loss in parts
    ]
    if any(width_of(line, FONT) > CAPTION for caption in captions for line in caption):
        names = distinct(names, CAPTION - width_of("predicted ", FONT), FONT)
        captions = [
            (
                f"true {isolated(names[true])}",
                f"predicted {isolated(names[said])}",
                f"{share}, {loss}",
            )
            for true, said, share, loss in parts
        ]
    return grid(pixels, captions, title)


def draw_grid(
    pixels: NDArray[np.uint8],
    captions: Sequence[Caption],
    title: str,
    path: Path,
    columns: int | None = None,
) -> None:
    """Draw images, uint8 (N, C, H, W), each under the lines of its caption, row by row.

    Without a number of columns the grid is about square.
    """
    grid(pixels, captions, title, columns).save(path)


def copied(key: str, folder: Path) -> bool:
    """Copy the pictures drawn last into ``folder`` if their key is the same; whether it was.

    Args:
        key: everything that determines the pictures.
        folder: where the pictures go.
    """
    pictures = _LATEST.get(key, {})
    for name, content in pictures.items():
        with write_whole(folder / name, "wb") as file:
            file.write(content)
    return bool(pictures)


def remember(key: str, paths: Sequence[Path]) -> None:
    """Keep pictures that have been drawn for :func:`copied`."""
    _LATEST.clear()
    _LATEST[key] = {path.name: path.read_bytes() for path in paths}


_LATEST: dict[str, dict[str, bytes]] = {}
"""Key -> name of the file -> content, for the pictures that this process drew last."""


def grid(
    pixels: NDArray[np.uint8],
    captions: Sequence[Caption],
    title: str,
    columns: int | None = None,
) -> Sheet:
    """Images, uint8 (N, C, H, W), each under the lines of its caption, row by row."""
    if columns is None:
        columns = max(1, min(len(pixels), math.ceil(math.sqrt(len(pixels)))))
    rows = math.ceil(len(pixels) / columns)
    lines = max((len(caption) for caption in captions), default=0)
    step = CELL + GAP, CELL + GAP + lines * LINE
    # The title has room even over a single image.
    width = max(GAP + columns * step[0], min(width_of(title, 11), TITLE) + 2 * GAP)
    margin = (width - columns * step[0] + GAP) / 2
    sheet = Sheet(width, Sheet.TITLE + rows * step[1], title)
    for number, (image, caption) in enumerate(zip(pixels, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = margin + column * step[0], Sheet.TITLE + row * step[1]
        for line, text in enumerate(caption):
            short = shortened(text, CAPTION, FONT)
            middle = top + (line + 0.5) * LINE
            sheet.text(short, left + CELL / 2, middle, size=FONT, ha="center")
        sheet.picture(image, left, top + lines * LINE, CELL, CELL)
    return sheet


def as_pixels(images: Tensor, preprocessing: Mapping[str, object]) -> NDArray[np.uint8]:
    """The uint8 pixels of images (N, C, H, W) that were normalised by ``mean`` and ``std``."""
    from torch import as_tensor  # start-up time

    means, stds = (
        as_tensor(preprocessing[name], dtype=images.dtype).reshape(-1, 1, 1)
        for name in ("mean", "std")
    )
    pixels: NDArray[np.uint8] = ((images * stds + means) * 255).round().clamp(0, 255).byte().numpy()
    return pixels
