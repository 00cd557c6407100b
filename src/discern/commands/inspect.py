"""``discern inspect``: the contents of a data set, without training on it."""

import json
import logging
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig, open_dict

from discern.config.check import check
from discern.data.images import Images, labels_of
from discern.data.module import ImageDataModule
from discern.files.csv_cells import write_csv
from discern.files.writing import write_whole
from discern.tables import table
from discern.text import counted
from discern.training.build import build_data
from discern.training.job import quiet_libraries, relative

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

MAX_CLASSES_PRINTED = 40
"""The most classes for which the terminal shows the images of each."""


class Inspection(TypedDict):
    """The contents of inspection.json.

    Attributes:
        images: split -> number of images.
        classes: class -> split -> number of images.
        sizes: width and height -> minimum, median and maximum in pixels.
        bad_files: the number of files that could not be read.
        remarks: sentences on the data set's layout.
        repeated: place -> number of images with the same content.
    """

    title: str
    fingerprint: str
    images: dict[str, int]
    classes: dict[str, dict[str, int]]
    sizes: dict[str, list[int]]
    bad_files: int
    remarks: list[str]
    repeated: dict[str, int]


def inspect(cfg: DictConfig) -> Inspection:
    """Count the images of a data set; write inspection.json, and repeated.csv if any repeat.

    Args:
        cfg: conf/inspect.yaml, composed; ``folder`` is set.

    Returns:
        The contents of inspection.json.

    Raises:
        DiscernError: a setting is wrong, or the data set cannot be used.
    """
    check(cfg, "inspect")
    quiet_libraries()
    folder = Path(cfg.folder)
    if "max_bad" in cfg.data:
        with open_dict(cfg):  # bad files are reported here, not an error
            cfg.data.max_bad = 1.0
    data: ImageDataModule = build_data(cfg)
    repeats = list(repeated(data))
    bad = getattr(data, "bad_files", [])
    facts: Inspection = {
        "title": data.title,
        "fingerprint": data.fingerprint,
        "images": data.num_images,
        "classes": count_classes(data),
        "sizes": sizes(data),
        "bad_files": len(bad),
        "remarks": list(getattr(data, "remarks", [])),
        "repeated": count_repeats(repeats),
    }
    with write_whole(folder / "inspection.json") as file:
        json.dump(facts, file, indent=2, ensure_ascii=False)
        file.write("\n")
    if repeats:
        write_repeats(repeats, folder / "repeated.csv")
    conclude(facts, folder)
    return facts


def count_classes(data: ImageDataModule) -> dict[str, dict[str, int]]:
    """Class -> split -> number of images."""
    counts = {
        split: np.bincount(labels_of(dataset).numpy(), minlength=data.num_classes)
        for split, dataset in datasets(data)
    }
    return {
        name: {split: int(counts[split][number]) for split in counts}
        for number, name in enumerate(data.class_names)
    }


def datasets(data: ImageDataModule) -> Iterator[tuple[str, Images]]:
    """Each split with its images."""
    return ((split, getattr(data, f"{split}_dataset")) for split in SPLITS)


def sizes(data: ImageDataModule) -> dict[str, list[int]]:
    """Minimum, median and maximum of width and height in pixels, of the files if there are any."""
    photos = [photo for part in getattr(data, "parts", {}).values() for photo in part]
    if not photos:
        _, height, width = data.input_shape
        return {"width": [width] * 3, "height": [height] * 3}
    return {
        side: [int(np.quantile([getattr(p.facts, side) for p in photos], q)) for q in (0, 0.5, 1)]
        for side in ("width", "height")
    }


Place = tuple[str, int, str]
"""Split, index of the image in it, and its file, or "" for none."""


def repeated(data: ImageDataModule) -> Iterator[list[Place]]:
    """The places of images that have the same content, a list per content."""
    places: list[tuple[str, int]] = []
    keys: list[NDArray[np.int64]] = []
    names: list[str] = []
    for split, dataset in datasets(data):
        places += [(split, number) for number in range(len(dataset))]
        keys.append(dataset.content_keys())
        names += dataset.names() or [""] * len(dataset)
    order = np.argsort(everything := np.concatenate(keys), kind="stable")
    starts = np.flatnonzero(np.diff(everything[order], prepend=everything[order][:1] - 1))
    for group in np.split(order, starts[1:]):
        if len(group) > 1:
            yield [(*places[index], names[index]) for index in group.tolist()]


def count_repeats(repeats: list[list[Place]]) -> dict[str, int]:
    """The number of contents that repeat within a split or in two splits."""
    within = sum(len({split for split, *_ in group}) < len(group) for group in repeats)
    counts = {"within a split": within}
    for one, other in combinations(SPLITS, 2):
        both = sum({one, other} <= {split for split, *_ in group} for group in repeats)
        counts[f"{one} and {other}"] = both
    return counts


def write_repeats(repeats: list[list[Place]], path: Path) -> None:
    """Write a row per image: the number of its group of equal images, split, index and file."""
    with write_whole(path) as file:
        write_csv(file, [["group", "split", "index", "file"]])
        for number, group in enumerate(repeats):
            write_csv(file, ([number, *place] for place in group))


def conclude(facts: Inspection, folder: Path) -> None:
    """Log the results and their folder."""
    rows = [
        [name, *(f"{counts[split]:,}" for split in SPLITS)]
        for name, counts in facts["classes"].items()
    ]
    total = ["all", *(f"{facts['images'][split]:,}" for split in SPLITS)]
    shown = rows if len(rows) <= MAX_CLASSES_PRINTED else []
    log.info("\n%s\n", table([facts["title"], *SPLITS], [*shown, total]))
    if not shown:
        log.info("%s classes; inspection.json counts each.", f"{len(rows):,}")
    for side, (least, median, greatest) in facts["sizes"].items():
        log.info("%-7s %d to %d pixels, median %d", side, least, greatest, median)
    repeated = {where: n for where, n in facts["repeated"].items() if n}
    for where, count in repeated.items():
        if where == "within a split":
            log.info("%s repeated within a split.", counted(count, "image is", "images are"))
        else:
            log.warning(
                "%s in both %s: metrics on the one are partly remembered from the other.",
                counted(count, "image is", "images are"),
                where,
            )
    if repeated:
        log.info("repeated.csv lists the repeated images.")
    log.info("Results: %s", relative(folder))
