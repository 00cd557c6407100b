"""``discern inspect``: what is in a data set, without training on it."""

import json
import logging
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from discern.config.check import check
from discern.console import table
from discern.data.images import labels_of
from discern.data.module import ImageDataModule
from discern.files.csv_cells import write_csv
from discern.files.writing import write_whole
from discern.training.build import build_data
from discern.training.job import as_job, quiet_libraries, relative

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

CLASSES_PRINTED = 40
"""Classes up to which the terminal shows the images of each."""


def job(cfg: DictConfig) -> None:
    """Hydra's task: one inspection in the folder that Hydra made."""
    cfg.folder = HydraConfig.get().runtime.output_dir
    with as_job():
        inspect(cfg)


def inspect(cfg: DictConfig) -> dict[str, Any]:
    """Count what a data set holds; write inspection.json, and CSV files of what is amiss.

    Args:
        cfg: conf/inspect.yaml, composed; ``folder`` is set.

    Returns:
        What inspection.json holds.

    Raises:
        DiscernError: a setting is wrong, or the data set cannot be used.
    """
    check(cfg, "inspect")
    quiet_libraries()
    folder = Path(cfg.folder)
    if "max_bad" in cfg.data:
        with open_dict(cfg):  # to be told of, not to be stopped by
            cfg.data.max_bad = 1.0
    data: ImageDataModule = build_data(cfg)
    repeats = list(repeated(data))
    bad = getattr(data, "bad_files", [])
    facts: dict[str, Any] = {
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


def datasets(data: ImageDataModule) -> Iterator[tuple[str, Any]]:
    """Split and its images."""
    return ((split, getattr(data, f"{split}_dataset")) for split in SPLITS)


def sizes(data: ImageDataModule) -> dict[str, list[int]]:
    """Least, median and greatest width and height in pixels, of the files where there are any."""
    photos = [photo for part in getattr(data, "parts", {}).values() for photo in part]
    if not photos:
        _, height, width = data.input_shape
        return {"width": [width] * 3, "height": [height] * 3}
    return {
        side: [int(np.quantile([getattr(p.facts, side) for p in photos], q)) for q in (0, 0.5, 1)]
        for side in ("width", "height")
    }


Place = tuple[str, int, str]
"""Split, number of the image in it, and its file, which may be empty."""


def repeated(data: ImageDataModule) -> Iterator[list[Place]]:
    """The places of each content that more than one image has."""
    places: list[tuple[str, int]] = []
    keys: list[np.ndarray[Any, Any]] = []
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
    """Contents that are in the same split or in two splits more than once."""
    within = sum(len({split for split, *_ in group}) < len(group) for group in repeats)
    counts = {"within a split": within}
    for one, other in combinations(SPLITS, 2):
        both = sum({one, other} <= {split for split, *_ in group} for group in repeats)
        counts[f"{one} and {other}"] = both
    return counts


def write_repeats(repeats: list[list[Place]], path: Path) -> None:
    """Write a row an image: the group of equal ones that it is in, split, index and file."""
    with write_whole(path) as file:
        write_csv(file, [["group", "split", "index", "file"]])
        for number, group in enumerate(repeats):
            write_csv(file, ([number, *place] for place in group))


def conclude(facts: dict[str, Any], folder: Path) -> None:
    """Say what was found, and where it is."""
    rows = [
        [name, *(f"{counts[split]:,}" for split in SPLITS)]
        for name, counts in facts["classes"].items()
    ]
    total = ["all", *(f"{facts['images'][split]:,}" for split in SPLITS)]
    shown = rows if len(rows) <= CLASSES_PRINTED else []
    log.info("\n%s\n", table([facts["title"], *SPLITS], [*shown, total]))
    if not shown:
        log.info("%s classes; inspection.json counts each.", f"{len(rows):,}")
    for side, (least, median, greatest) in facts["sizes"].items():
        log.info("%-7s %d to %d pixels, median %d", side, least, greatest, median)
    leaks = {where: n for where, n in facts["repeated"].items() if n}
    for where, count in leaks.items():
        if where == "within a split":
            log.info("%s contents are there more than once within a split.", f"{count:,}")
        else:
            log.warning(
                "%s images are in %s alike: what is measured on the one is in part remembered "
                "from the other.",
                f"{count:,}",
                where,
            )
    if leaks:
        log.info("repeated.csv lists the images that are there more than once.")
    log.info("Results: %s", relative(folder))
