"""``discern export``: a saved model in a format of others, and the proof that nothing was lost."""

from __future__ import annotations

import logging
import platform
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, open_dict
from torch import nn

from discern.commands.evaluate import check_fit, data_settings
from discern.commands.members import known_to_any, members_of, name_of
from discern.commands.predict import as_shown
from discern.config.check import check
from discern.data.images import Images
from discern.data.known import KnownImages
from discern.data.module import ImageDataModule
from discern.errors import DiscernError
from discern.exports import int8, onnx_file, openvino_file
from discern.exports.export import Exported
from discern.exports.export import export as export_model
from discern.exports.files import is_exported
from discern.exports.proof import MAX_FLIPPED, prove
from discern.exports.report import (
    PAGE,
    Measured,
    Report,
    difference_table,
    proof_table,
    speed_table,
    write,
)
from discern.exports.running import Pixels, Run, runs_in_torch
from discern.exports.speed import BATCHES, Speeds, faster, measure
from discern.models.card import Card
from discern.models.threads import use_threads
from discern.models.torch_file import sha256_of
from discern.runs.all_or_none import all_or_none
from discern.runs.summary import versions
from discern.tables import table
from discern.training.build import build_data
from discern.training.job import quiet_libraries, relative
from discern.training.meeting import say_what_is_measured

log = logging.getLogger(__name__)

TORCH, FLOAT32, INT8, OPENVINO = "PyTorch", "ONNX Runtime float32", "ONNX Runtime int8", "OpenVINO"
"""Ways of running a model."""

PREPARATION = "preprocessing alone, of both"
"""What float32 and int8 have in common, which is measured beside them."""

SPREAD = ["p99 ms, batch 32", "p50 ms, batch 32", "p99 ms, batch 1", "p50 ms, batch 1"]
"""Columns of the table of speeds that a narrow terminal leaves out."""

SHOWN = 10
"""Images whose labels differ that the terminal shows."""

RUN_BY = {"onnx": FLOAT32, "web": FLOAT32, "torch_export": "torch.export", "openvino": OPENVINO}
"""Format -> what runs its file; the others are weights for PyTorch."""

LONG_FACTS = ("class_names", "card", "known_images")
"""Facts in the file that are too long to be shown."""


def export(cfg: DictConfig) -> Report:
    """Export the model in ``cfg.ckpt_path``; prove that the file gives the same labels.

    Args:
        cfg: conf/export.yaml, composed; the folder ``cfg.out`` is new.

    Raises:
        DiscernError: a setting, the checkpoint or the data are wrong, the format cannot hold the
            model, or the file gives other labels.
    """
    check(cfg, "export")
    quiet_libraries()
    members, folder = members_of(cfg.ckpt_path, cfg.ensemble), Path(cfg.out)
    checkpoint = members[0].path
    if is_exported(checkpoint):
        raise DiscernError(
            f"ckpt_path={cfg.ckpt_path} is an exported model; give the checkpoint that it was "
            "exported from."
        )
    model = as_shown(members, cfg)
    network, card = model.network, model.card
    network.card = card  # type: ignore[assignment]
    use_threads(network, card.input_shape)
    known = known_to_any(members)
    needed = cfg.proof or cfg.quantize != "none"
    data = _data(cfg, card, checkpoint, known) if needed else None
    calibration = _calibration(data, cfg.quantize)
    with all_or_none(folder) as begun:
        exported = export_model(
            network,
            begun,
            format=cfg.format,
            temperature=card.temperature or 1.0,
            sha256=_digest([member.path for member in members]),
            known=known,
        )
        name = name_of(members, cfg.ensemble, cfg.tta)
        report = _measured(cfg, name, network, exported, data, calibration, checkpoint)
        write(report, folder)
        _show(report)
        proof = report.files[0].proof
        if proof is not None and not proof.holds:
            raise DiscernError(
                f"{proof.flipped:,} of {proof.images:,} labels differ from the checkpoint's, more "
                f"than {100 * MAX_FLIPPED:g} %, so nothing was exported; {relative(folder / PAGE)} "
                "shows the images."
            )
    log.info("Exported: %s", relative(folder / exported.path.name))
    log.info("Report: %s", relative(folder / PAGE))
    return report


def _digest(checkpoints: Sequence[Path]) -> str:
    """The SHA-256 of a checkpoint; of several, that of theirs in hexadecimal digits, in order."""
    digests = [sha256_of(path) for path in checkpoints]
    return digests[0] if len(digests) == 1 else sha256("".join(digests).encode()).hexdigest()


def _data(cfg: DictConfig, card: Card, checkpoint: Path, known: KnownImages) -> ImageDataModule:
    """The data set of the proof, set up."""
    try:
        with open_dict(cfg):
            cfg.data = data_settings(cfg, card, checkpoint, known.rule)
    except DiscernError as error:
        raise DiscernError(
            f"{str(error).removesuffix('.')}; proof=false exports without images."
        ) from error
    check(cfg, "export")
    with open_dict(cfg):
        cfg.folder = cfg.out  # where files that cannot be read are listed
    data = build_data(cfg, known, measured=cfg.split)
    check_fit(card, data, checkpoint)
    if not data.num_images[cfg.split]:
        raise DiscernError(f"split={cfg.split} has no images; proof=false exports without them.")
    say_what_is_measured(data, cfg.split)
    return data


def _calibration(data: ImageDataModule | None, quantize: str) -> list[Pixels]:
    """Pictures of the training split, evenly spread over it, for the ranges of the activations."""
    if quantize == "none" or data is None:
        return []
    count = len(data.train_dataset)
    if not count:
        raise DiscernError(
            f"quantize={quantize} needs training images to calibrate with, and {data.title} has "
            "none here."
        )
    rows = np.unique(np.linspace(0, count - 1, int8.IMAGES).astype(np.int64))
    return data.train_dataset.pictures(rows)


def _measured(
    cfg: DictConfig,
    title: str,
    network: nn.Module,
    exported: Exported,
    data: ImageDataModule | None,
    calibration: list[Pixels],
    checkpoint: Path,
) -> Report:
    """The report of an export; where 8 bits are asked for, their file is written here."""
    card: Card = network.card  # type: ignore[assignment]
    path, speeds, files = exported.path, Speeds(), [Measured(exported.path.name, None)]
    if data is not None:
        images: Images = getattr(data, f"{cfg.split}_dataset")
        title = f"{title} on {data.title}, {cfg.split}"
        if cfg.proof:
            proof = prove(network, exported.temperature, exported.run, images, cfg.images)
            files = [Measured(path.name, proof)]
        ways: dict[str, Run] = {}
        if calibration:
            small = int8.write(path, calibration, exported.about)
            ways[INT8] = onnx_file.run(small, exported.bundle)
            ways[PREPARATION] = onnx_file.run_preparation(exported.bundle, card)
            proof = prove(network, exported.temperature, ways[INT8], images, cfg.images)
            files.append(Measured(small.name, proof))
        if cfg.seconds or cfg.quantize == "auto":
            ways = _ways(network, exported) | ways
            speeds = measure(ways, images.pictures(np.array([0]))[0], cfg.seconds)
        if calibration:
            files[-1] = _decided(files[-1], small, cfg.quantize, speeds)
    return Report(
        title=title,
        format=exported.format,
        files=files,
        about={key: value for key, value in exported.about.items() if key not in LONG_FACTS},
        checkpoint=checkpoint,
        machine=_machine(),
        speeds=speeds,
        sizes={each.name: each.stat().st_size for each in sorted(path.parent.glob("model.*"))},
    )


def _ways(network: nn.Module, exported: Exported) -> dict[str, Run]:
    """What is measured: torch, the exported file, and OpenVINO where it is installed."""
    ways = {TORCH: runs_in_torch(network, exported.temperature)}
    name = RUN_BY.get(exported.format)
    if name is not None:
        ways[name] = exported.run
    if exported.format == "onnx" and openvino_file.is_installed():
        try:
            ways[OPENVINO] = openvino_file.run_onnx(exported.path.read_bytes())
        except DiscernError as error:
            log.warning("%s It is not measured.", error)
    return ways


def _decided(made: Measured, path: Path, quantize: str, speeds: Speeds) -> Measured:
    """The file of 8 bits with the reason why it is kept; it is removed where it is not."""
    proof = made.proof
    assert proof is not None
    change = 100 * (proof.accuracy_after - proof.accuracy_before)
    ratios = [
        f"{speeds[INT8][batch].images_per_second / speeds[FLOAT32][batch].images_per_second:.2f} × "
        f"as fast with a batch of {batch}"
        for batch in BATCHES
        if speeds
    ]
    if speeds:
        ratios.append(f"the same preprocessing being {_shares(speeds)} of float32's time")
    numbers = ", ".join([*ratios, f"accuracy {change:+.2f} points (McNemar p = {proof.p:.3g})"])
    name = made.file
    if quantize == "int8":
        return replace(made, verdict=f"{name}, 8 bits as asked for: {numbers}.")
    slower, loses = not faster(speeds, INT8, FLOAT32), proof.loses
    if not slower and not loses:
        return replace(made, verdict=f"{name}, 8 bits, is kept: {numbers}.")
    why = " and ".join(
        reason for reason, holds in (("not faster here", slower), ("less accurate", loses)) if holds
    )
    path.unlink()
    return replace(made, verdict=f"{name}, 8 bits, is not kept, for it is {why}: {numbers}.")


def _shares(speeds: Speeds) -> str:
    """What share preprocessing has of the time of float32 with each batch size."""
    return " and ".join(
        f"{100 * speeds[PREPARATION][batch].p50 / speeds[FLOAT32][batch].p50:.0f} %"
        for batch in BATCHES
    )


def _machine() -> dict[str, str]:
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        **versions(),
    }


# What the terminal shows


def _show(report: Report) -> None:
    header, rows = proof_table(report)
    log.info("\n%s\n", table([report.title, *header[1:]], rows))
    if report.speeds:
        log.info("%s\n", table(*speed_table(report.speeds), dispensable=SPREAD))
    for each in report.files:
        if each.verdict:
            log.info("%s", each.verdict)
        if each.proof is not None and each.proof.differences:
            shown = difference_table(each.proof.differences[:SHOWN])
            log.info("Labels that differ in %s:\n%s\n", each.file, table(*shown))
