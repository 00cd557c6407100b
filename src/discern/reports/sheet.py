"""A page of small pictures and texts, laid out in inches."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import IO, TypedDict, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from discern.files.writing import write_whole
from discern.reports.fonts import drawable, fall_back
from discern.reports.lettering import DPI, wrapped

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
        self.text(wrapped(title, width - 0.2, 11, 2), width / 2, self.TITLE / 2, 11, ha="center")

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
        """Write lines, centred vertically on y; dollar signs are not mathtext."""
        self.axes.text(
            x, y, drawable(content), fontsize=size, va="center", parse_math=False, in_layout=False,
            linespacing=1.15, **style,
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
    fall_back(figure)
    figure.savefig(file, format="png", dpi=DPI, pil_kwargs=FAST_PNG)


def rendered(figure: Figure, dpi: int = 80) -> NDArray[np.uint8]:
    """The pixels of a figure, uint8 (H, W, 3)."""
    fall_back(figure)
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def title(figure: Figure, text: str, size: float = 11, y: float | None = None) -> None:
    """Write a figure's title, each of its lines wrapped to the figure's width.

    Args:
        figure: of its final width.
        text: without markup: dollar signs are not mathtext.
        size: of the font, in points.
        y: the middle of the title, as a share of the figure's height; None for at the top.
    """
    width = figure.get_size_inches()[0] - 0.3
    lines = "\n".join(wrapped(line, width, size, 3) for line in text.split("\n"))
    place = {} if y is None else {"y": y, "va": "center"}
    figure.suptitle(lines, x=0.5, fontsize=size, parse_math=False, **place)


def legend_above(axes: Axes) -> None:
    """Explain what is drawn in one row above the axes, where it covers nothing."""
    drawn = axes.get_legend_handles_labels()[0]
    if drawn:
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=len(drawn), frameon=False, fontsize=9,
            borderaxespad=0.2, borderpad=0, handlelength=1.5, columnspacing=1.2,
        )  # fmt: skip


def black_or_white(colour: NDArray[np.floating]) -> str:
    """The colour of a text on a colour, red, green, blue (3,) from 0 to 1, with more contrast.

    The contrast is WCAG 2's, which is 4.58 or more for one of the two.
    """
    parts = colour[:3]
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "black" if luminance > 0.179 else "white"
