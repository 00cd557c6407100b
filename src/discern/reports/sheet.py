"""A page of small pictures and texts, laid out in inches."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, TypedDict, Unpack

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from discern.files.writing import write_whole
from discern.text import visible

# Okabe & Ito's blue and vermilion: distinguishable with colour blindness and in grey.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#B8B8B8"

FAST_PNG = {"compress_level": 1}
"""For ``savefig``: files are a third larger than by default, and written three times as fast."""


class Style(TypedDict, total=False):
    """matplotlib's options for a text."""

    ha: str
    weight: str
    color: str


class Sheet:
    """A page with one coordinate system: inches right of and below its upper left corner.

    24 Axes take matplotlib over a second; one Axes with the same content takes a fifth of that.

    Args:
        width: inches.
        height: inches.
        title: at the top of the page.
    """

    TITLE = 0.5
    """The title's height in inches."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.figure = Figure(figsize=(width, height))
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        self.axes.set_axis_off()
        self.text(title, width / 2, self.TITLE / 2, size=12, ha="center")

    def picture(
        self, pixels: NDArray[np.uint8], left: float, top: float, width: float, height: float
    ) -> None:
        """Show pixels, uint8 (C, H, W) of 1 or 3 channels, as large as they fit into a box."""
        rows, columns = pixels.shape[1:]
        scale = min(width / columns, height / rows)
        left += (width - columns * scale) / 2
        top += (height - rows * scale) / 2
        self.axes.imshow(
            pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0),
            cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto",
            extent=(left, left + columns * scale, top + rows * scale, top),
        )  # fmt: skip

    def text(
        self, content: str, x: float, y: float, size: float = 8, **style: Unpack[Style]
    ) -> None:
        """Write one line, centred vertically on y; dollar signs are not mathtext.

        Control characters are shown as their codes, since no font has them.
        """
        self.axes.text(
            x, y, visible(content), fontsize=size, va="center", parse_math=False, in_layout=False,
            **style,
        )  # fmt: skip

    def bars(
        self, boxes: Sequence[tuple[float, float, float, float]], colours: Sequence[str]
    ) -> None:
        """Fill boxes, each (left, top, right, bottom)."""
        corners = [((x0, y0), (x1, y0), (x1, y1), (x0, y1)) for x0, y0, x1, y1 in boxes]
        self.axes.add_collection(PolyCollection(corners, facecolors=colours), autolim=False)

    def lines(self, lines: Sequence[tuple[float, float, float, float]], colour: str) -> None:
        """Draw thin lines, each (x0, y0, x1, y1)."""
        ends = [((x0, y0), (x1, y1)) for x0, y0, x1, y1 in lines]
        self.axes.add_collection(
            LineCollection(ends, colors=colour, linewidths=0.6, zorder=0.5), autolim=False
        )

    def finished(self) -> Figure:
        """The finished page."""
        width, height = self.figure.get_size_inches()
        # imshow changes the limits.
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        return self.figure

    def save(self, path: Path) -> None:
        """Write the page as a PNG file."""
        save(self.finished(), path)

    def png(self) -> bytes:
        """The page as PNG."""
        content = BytesIO()
        _write(self.finished(), content)
        return content.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file."""
    with write_whole(path, "wb") as file:
        _write(figure, file)


def _write(figure: Figure, file: IO[bytes]) -> None:
    figure.savefig(file, format="png", dpi=120, pil_kwargs=FAST_PNG)


def rendered(figure: Figure, dpi: int = 80) -> NDArray[np.uint8]:
    """The pixels of a figure, uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def shorten(text: str, length: int) -> str:
    """``text`` on one line of at most ``length`` characters, shortened in the middle."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    head = (length - 1) // 2
    return f"{line[:head]}…{line[len(line) - (length - 1 - head) :]}"


def fitting(width: float, size: float) -> int:
    """The number of characters of the default font, ``size`` points, in ``width`` inches."""
    return max(3, int(width * 72 / (0.6 * size)))
