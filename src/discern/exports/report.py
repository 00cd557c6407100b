"""export.json and export.html: what an export wrote, and what it was measured to be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from discern.exports.proof import MAX_LISTED, Difference, Proof
from discern.exports.speed import BATCHES, Speeds
from discern.files.writing import as_json_values, write_whole
from discern.reports.page import Tile, percent, size, tile, write_page

FACTS, PAGE = "export.json", "export.html"

WEIGHTS_BESIDE = ".bin"
"""The suffix of OpenVINO's weights, which stand beside its model."""

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


@dataclass(frozen=True)
class Measured:
    """A file and how it compares with the checkpoint.

    Attributes:
        file: its name.
        proof: None without images.
        verdict: whether it is kept, and why; empty for the export itself.
    """

    file: str
    proof: Proof | None
    verdict: str = ""


@dataclass(frozen=True)
class Report:
    """An export.

    Attributes:
        title: model, data and split.
        format: of the first file.
        files: the export, then the file of 8 bits if there is one.
        about: the facts in the files, without long ones.
        checkpoint: its path.
        machine: processor, threads and versions.
        speeds: empty if they were not measured.
        sizes: file name -> bytes.
    """

    title: str
    format: str
    files: list[Measured]
    about: dict[str, str]
    checkpoint: Path
    machine: dict[str, str]
    speeds: Speeds = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def size_of(self, file: str) -> int | None:
        """Bytes of a file with its weights beside it; None where it is not kept."""
        if file not in self.sizes:
            return None
        return self.sizes[file] + self.sizes.get(str(Path(file).with_suffix(WEIGHTS_BESIDE)), 0)


def write(report: Report, folder: Path) -> None:
    """Write export.json and export.html."""
    with write_whole(folder / FACTS) as file:
        json.dump(as_json_values(_facts(report)), file, indent=2, ensure_ascii=False)
        file.write("\n")
    first = report.files[0].proof
    write_page(
        "export.html.j2",
        folder / PAGE,
        title=report.title,
        kind="An exported model",
        data={"charts": {}},
        tiles=[] if first is None else _tiles(first),
        verdicts=[each.verdict for each in report.files if each.verdict],
        proof=proof_table(report),
        speed=speed_table(report.speeds),
        differences=[
            (each.file, difference_table(each.proof.differences))
            for each in report.files
            if each.proof is not None and each.proof.differences
        ],
        most=MAX_LISTED,
        sizes=[[name, size(count)] for name, count in report.sizes.items()],
        about=[*report.about.items(), *report.machine.items()],
    )


def _facts(report: Report) -> dict[str, object]:
    return {
        "title": report.title,
        "format": report.format,
        "checkpoint": report.checkpoint,
        "about": report.about,
        "machine": report.machine,
        "files": [
            {
                "file": each.file,
                "bytes": report.size_of(each.file),
                "verdict": each.verdict or None,
                "proof": None if each.proof is None else asdict(each.proof),
            }
            for each in report.files
        ],
        "speeds": {
            name: {str(batch): asdict(speed) for batch, speed in each.items()}
            for name, each in report.speeds.items()
        },
    }


def _tiles(proof: Proof) -> list[Tile]:
    images = f"of {proof.images:,} images"
    return [
        tile("Labels that differ", f"{proof.flipped:,}", images),
        tile("Largest difference", _small(proof.difference), "in a probability"),
        tile("Accuracy", percent(proof.accuracy_after), "of the file"),
    ]


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def proof_table(report: Report) -> Table:
    """A column for the checkpoint and one for each file."""
    proofs = [each.proof for each in report.files]
    names = [each.file for each in report.files]
    known = [proof for proof in proofs if proof is not None]
    rows = [["size", "", *(size(report.size_of(name) or 0) for name in names)]]
    if known:
        before = percent(known[0].accuracy_before)
        rows += [
            ["images", f"{known[0].images:,}", *(f"{p.images:,}" for p in known)],
            ["labels that differ", "", *(f"{p.flipped:,}" for p in known)],
            ["largest difference in probability", "", *(_small(p.difference) for p in known)],
            ["accuracy", before, *(percent(p.accuracy_after) for p in known)],
            [
                "right in the checkpoint alone : in the file alone",
                "",
                *(f"{p.only_before:,} : {p.only_after:,}" for p in known),
            ],
            ["p of McNemar's test", "", *(f"{p.p:.3g}" for p in known)],
        ]
    return ["", "checkpoint", *names], rows


def speed_table(speeds: Speeds) -> Table:
    """A row for each way of running the model."""
    header = ["images/s, from pixels to probabilities"]
    for batch in BATCHES:
        header += [f"batch {batch}", f"p50 ms, batch {batch}", f"p99 ms, batch {batch}"]
    rows = []
    for name, of in speeds.items():
        row = [name]
        for batch in BATCHES:
            speed = of[batch]
            row += [f"{speed.images_per_second:,.0f}", f"{speed.p50:.2f}", f"{speed.p99:.2f}"]
        rows.append(row)
    return header, rows


def difference_table(differences: Sequence[Difference]) -> Table:
    """A row for each image whose label differs."""
    header = ["image", "file", "label", "checkpoint", "", "exported", ""]
    rows = [
        [
            str(each.index), each.file or "", each.label, each.before,
            percent(each.probability_before, 1), each.after, percent(each.probability_after, 1),
        ]
        for each in differences
    ]  # fmt: skip
    return header, rows
