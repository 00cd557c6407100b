"""The sections of a run's page on its pictures, model, files, time and machine."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping
from pathlib import Path

from discern.files.csv_cells import csv_text
from discern.files.reading import read_bytes
from discern.redaction import redacted_text
from discern.reports.page import cell, data_url, size
from discern.reports.run_facts import RunFacts, Section
from discern.reports.speed import counted_in
from discern.runs.folder import MAX_PICTURE, finite, home, mapping, numbers, table
from discern.runs.thumbnails import open_picture
from discern.text import printable

MAX_BAD_FILES, MAX_COLUMNS, MAX_CELL = 200, 8, 5000
"""Rows and columns in the list of skipped files, and characters of a cell."""

MAX_LAYERS = 200
"""Rows in the table of layers."""

SAMPLES_BYTES, SAMPLES_WIDTH = 250_000, 1000
"""A picture of samples with more bytes than this becomes a JPEG of this width in pixels."""


PICTURES = {
    "samples.png": "Training images as the network sees them",
    "augmented.png": "Augmentation: some training images as they are, then in successive epochs",
    "lr_find.png": "Learning rate finder",
}


def samples(facts: RunFacts) -> Section | None:
    """The pictures of training images and of the learning rate finder."""
    folder = facts.run.folder
    found = {caption: _picture(folder / name) for name, caption in PICTURES.items()}
    pictures = {caption: picture for caption, picture in found.items() if picture}
    return {"pictures": pictures} if pictures else None


def _picture(path: Path) -> str | None:
    """A picture's file as a data URL, made smaller if it is large; None if there is none."""
    try:
        content = read_bytes(path, MAX_PICTURE, home(path.parent))
        with open_picture(content) as image:
            if len(content) > SAMPLES_BYTES:
                image.thumbnail((SAMPLES_WIDTH, 2 * SAMPLES_WIDTH))
                smaller = io.BytesIO()
                image.convert("RGB").save(smaller, "JPEG", quality=80)
                content = smaller.getvalue()
    except (OSError, ValueError, SyntaxError):
        return None
    return data_url(content)


def bad_files(facts: RunFacts) -> Section | None:
    """The files that were skipped, and why."""
    try:
        read = itertools.islice(table(facts.run.folder, "bad_files.csv"), MAX_BAD_FILES + 2)
        header, *rows = [[cell[:MAX_CELL] for cell in row[:MAX_COLUMNS]] for row in read]
    except (OSError, ValueError):
        return None
    shown = [list(map(csv_text, row)) for row in rows[:MAX_BAD_FILES]]
    more = "the first " * (len(rows) > MAX_BAD_FILES)
    return {"header": header, "rows": shown, "more": more} if rows else None


PHASES = {
    "import": "importing torch and Lightning",
    "data": "finding and reading data",
    "find": "finding settings",
    "features": "features of the frozen backbone",
    "fit": "training",
    "validation": "validation",
    "calibration": "calibration",
    "test": "test",
    "figures": "pictures",
}


def time(facts: RunFacts) -> Section | None:
    """Where the run's time went."""
    run = facts.run
    seconds = numbers(run.part("seconds"))
    total = seconds.pop("total", 0.0)
    if not seconds or not total:
        return None
    parts = {PHASES.get(name, name): value for name, value in seconds.items()}
    parts["everything else"] = max(0.0, total - sum(parts.values()))
    return {
        "parts": parts,
        "longest": max(parts.values()) or 1.0,
        "total": total,
        "speed": finite(run.facts.get("images_per_second")),
        "counted": counted_in(run),
        "features": numbers(run.part("features")),
    }


_BYTES = {
    "memory_bytes": "memory",
    "gpu_memory_bytes": "GPU memory",
    "gpu_memory_used_bytes": "GPU memory used at most",
}
"""Facts on the machine that are counts of bytes: name -> title."""


def _bytes(value: object) -> str:
    count = finite(value)
    return "" if count is None else size(count)


def environment(facts: RunFacts) -> Section:
    """The data, code and machine of the run."""
    run = facts.run
    machine = run.part("machine")
    data, commit = run.part("data"), str(run.part("git").get("commit", ""))
    images, counts = numbers(data.get("images")), numbers(run.part("parameters"))
    changes = ", with uncommitted changes" if run.part("git").get("dirty") else ""
    rows = {
        "data": f"{data.get('title', '')} ({data.get('source', '')})" if data else "",
        "images": ", ".join(f"{count:,.0f} {split}" for split, count in images.items()),
        "data fingerprint": str(data.get("fingerprint", "")),
        "parameters": ", ".join(f"{count:,.0f} {kind}" for kind, count in counts.items()),
        "seed": str(run.facts.get("seed", "")),
        "commit": commit and commit + changes,
        **{str(name): str(value) for name, value in machine.items() if name not in _BYTES},
        **{title: _bytes(machine.get(name)) for name, title in _BYTES.items()},
        "versions": ", ".join(f"{name} {of}" for name, of in run.part("versions").items()),
        "folder": printable(run.folder.resolve()),
    }
    return {"facts": {name: text for name, text in rows.items() if text}}


def layers(facts: RunFacts) -> Section | None:
    """The network's layers with the shapes of their outputs and the sizes of their parameters."""
    found = facts.run.facts.get("layers")
    rows = [_layer(mapping(each)) for each in found[:MAX_LAYERS]] if isinstance(found, list) else []
    if not rows:
        return None
    header = ["layer", "type", "output shape", "trainable", "frozen"]
    return {"header": header, "rows": rows}


def _layer(layer: Mapping[str, object]) -> list[object]:
    shape = layer.get("shape")
    return [
        str(layer.get("name", "")),
        str(layer.get("kind", "")),
        " × ".join(map(str, shape)) if isinstance(shape, list) else "–",
        *(_count(layer.get(name)) for name in ("trainable", "frozen")),
    ]


def _count(value: object) -> dict[str, str]:
    count = finite(value)
    return cell(count, "–" if count is None else f"{count:,.0f}")


def failure(facts: RunFacts) -> Section | None:
    """The traceback of a failed run."""
    found = facts.run.facts.get("traceback")
    return {"text": redacted_text(found)} if isinstance(found, str) and found else None


FILES = {
    "config.yaml": "all settings",
    "overrides.yaml": "the settings that were typed",
    "summary.json": "the facts on this page",
    "metrics.csv": "metrics by epoch",
    "train.log": "the log",
    "curves.png": "training curves",
    "test_predictions.safetensors": "predictions for the test images",
    "checkpoints/best.safetensors": "the best checkpoint",
    "checkpoints/last.safetensors": "the last checkpoint",
    "checkpoints/previous.safetensors": "the checkpoint before the last",
}
"""Files in a run's folder, and what they hold."""


def files(facts: RunFacts) -> Section | None:
    """Links to the files beside the page."""
    rows = []
    for name, content in FILES.items():
        path = facts.run.folder / name
        if path.is_file():
            rows.append((name, content, size(path.stat().st_size)))
    return {"rows": rows} if rows else None
