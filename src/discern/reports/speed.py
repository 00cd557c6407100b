"""The training speed of a run, and what its images/s count."""

from __future__ import annotations

from discern.runs.folder import Run, finite, numbers


def how_counted(features_read: float, features_computed: float) -> str:
    """What images/s count if the backbone did not process every image; else an empty text."""
    if not features_computed:
        return "features read" if features_read else ""
    if not features_read:
        return "features computed"
    return f"{features_computed:,.0f} features computed, {features_read:,.0f} read"


def counted_in(run: Run) -> str:
    """:func:`how_counted` for all epochs of a run."""
    counts = numbers(run.part("images_counted"))
    return how_counted(counts.get("features_read", 0), counts.get("features_computed", 0))


def speed_of(run: Run) -> str | None:
    """Images/s of training, and what they count; None if unknown."""
    speed, counted = finite(run.facts.get("images_per_second")), counted_in(run)
    if speed is None:
        return None
    return f"{speed:,.0f} images/s" + (f" ({counted})" if counted else "")
