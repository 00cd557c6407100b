"""predictions.png: each picture beside its class probabilities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from discern.reports.explain import overlay, scale
from discern.reports.lettering import distinct, shortened, width_of
from discern.reports.page import percent
from discern.reports.sheet import BLUE, GREY, Sheet

BARS = 10
"""Classes that are shown: all in their order if there are no more, else the most probable."""

PICTURE, NAMES, SCALE, GAP, LINE, FONT = 1.6, 1.4, 1.9, 0.25, 0.17, 8.0
"""Inches of a picture's side, of the longest class name, of a bar of probability 1, between panels
and of a line of text; font size in points."""

TITLE = 9.0
"""Inches of the longest title on one line."""

BESIDE = 0.06
"""Inches between a picture and its Grad-CAM."""

MEANING = (
    "beside each picture, Grad-CAM: how much each part speaks for the predicted class, from not at "
    "all to most"
)


@dataclass(frozen=True)
class Classified:
    """A classified picture.

    Attributes:
        name: the picture's name.
        pixels: as the network sees them, uint8 (C, H, W).
        probabilities: float32 (K,).
        importance: of each pixel for the predicted class, float32 (H, W), 0 or above; None if not
            computed.
    """

    name: str
    pixels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    importance: NDArray[np.float32] | None = None


def classified_sheet(
    pictures: Sequence[Classified], class_names: Sequence[str], title: str
) -> Sheet:
    """A page with each picture beside a bar chart of its class probabilities.

    Its Grad-CAM is shown between the two if it was computed.
    """
    explained = any(picture.importance is not None for picture in pictures)
    columns = max(1, min(2 if explained else 3, math.ceil(len(pictures) / 2)))
    bars = min(BARS, len(class_names))
    class_names = distinct(class_names, NAMES - 0.1, FONT, weight="bold")
    names = 0.15 + max(width_of(name, FONT, "bold") for name in class_names)
    shown = 2 * PICTURE + BESIDE if explained else PICTURE
    width = shown + names + SCALE + 2 * GAP
    height = 2 * LINE + max(PICTURE, bars * LINE) + GAP
    rows = math.ceil(len(pictures) / columns)
    head = Sheet.TITLE + (2.5 if explained else 1) * LINE
    across = max(GAP + columns * width, min(width_of(title, 11), TITLE) + 2 * GAP)
    sheet = Sheet(across, head + rows * height, title)
    _draw_legend(sheet, explained)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        left, top = GAP + column * width, head + row * height
        heading = shortened(picture.name, width - GAP, FONT, "bold")
        sheet.text(heading, left, top + LINE / 2, size=FONT, weight="bold")
        body = max(PICTURE, bars * LINE)
        sheet.picture(picture.pixels, left, top + LINE, PICTURE, body)
        if picture.importance is not None:
            seen = overlay(picture.pixels, picture.importance)
            sheet.picture(seen, left + PICTURE + BESIDE, top + LINE, PICTURE, body)
        _draw_bars(sheet, picture, class_names, left + shown + names, top + LINE)
    return sheet


def _draw_legend(sheet: Sheet, explained: bool) -> None:
    x, y = GAP, Sheet.TITLE
    for colour, name in ((BLUE, "predicted class"), (GREY, "other classes")):
        sheet.bars([(x, y - 0.05, x + 0.2, y + 0.05)], [colour])
        sheet.text(name, x + 0.28, y, size=FONT)
        x += 1.5
    if explained:
        x, y = GAP, y + 1.5 * LINE
        sheet.picture(scale(10, 60), x, y - 0.05, 0.6, 0.1)
        sheet.text(MEANING, x + 0.68, y, size=FONT)


def _draw_bars(
    sheet: Sheet, picture: Classified, class_names: Sequence[str], left: float, top: float
) -> None:
    """Draw a bar chart whose zero is at ``left``, with its scale below."""
    probabilities = picture.probabilities
    best = int(probabilities.argmax())
    shown = range(len(class_names))
    if len(class_names) > BARS:
        shown = np.argsort(-probabilities, kind="stable")[:BARS].tolist()
    bottom = top + len(shown) * LINE
    sheet.lines(
        [(left + at * SCALE, top, left + at * SCALE, bottom) for at in (0, 0.25, 0.5, 0.75, 1)],
        GREY,
    )
    for row, number in enumerate(shown):
        middle, probability = top + (row + 0.5) * LINE, float(probabilities[number])
        weight = "bold" if number == best else "normal"
        sheet.text(class_names[number], left - 0.05, middle, size=FONT, ha="right", weight=weight)
        end = left + probability * SCALE
        # Inside the bar if there is no room behind it.
        inside = probability > 0.75
        sheet.text(
            percent(probability, 1), end + (-0.05 if inside else 0.05), middle, size=FONT - 1,
            ha="right" if inside else "left", color="white" if inside else "black",
        )  # fmt: skip
    sheet.bars(
        [
            (left, top + row * LINE + 0.02, left + float(probabilities[n]) * SCALE,
             top + (row + 1) * LINE - 0.02)
            for row, n in enumerate(shown)
        ],
        [BLUE if number == best else GREY for number in shown],
    )  # fmt: skip
    for at in (0, 0.5, 1):
        sheet.text(f"{at:g}", left + at * SCALE, bottom + LINE / 2, size=FONT - 1, ha="center")
    sheet.text("probability", left + 0.25 * SCALE, bottom + LINE / 2, size=FONT - 1, ha="center")
