"""The images that models disagree about, each under what the models say of it."""

from discern.reports.comparison import Disagreement
from discern.reports.samples import grid
from discern.reports.sheet import Sheet


def disputed_sheet(found: Disagreement) -> Sheet:
    """The images, the most disputed first."""
    captions = [
        (f"is {label}", *(text for text, _ in said))
        for label, said in zip(found.labels, found.said, strict=True)
    ]
    title = f"The most disputed of {found.count:,} of {found.images:,} test images"
    return grid(found.pixels, captions, title)
