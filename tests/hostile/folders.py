"""Hostile variants of the folder of a run or a sweep, and hostile files of settings.

All are made from a seed, each in a folder of its own, and touch nothing beside it. What a command
must not do is marked: a file ``RAN`` in ``bait`` would be written by code, and what stands in
``bait`` must stay as it is, whatever is read, written or removed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECRET = "SECRET-THAT-NO-FILE-MAY-SHOW"
"""What stands in the file that links lead to, and in the environment variable ``BAIT``."""


@dataclass(frozen=True)
class Case:
    """A hostile folder.

    Attributes:
        name: of what is wrong with it.
        folder: the run's or the sweep's.
        bait: a folder beside it, which nothing may touch.
    """

    name: str
    folder: Path
    bait: Path

    def is_intact(self) -> bool:
        """Whether nothing was done to the bait."""
        inside = sorted(path.name for path in self.bait.iterdir())
        return inside == ["secret"] and (self.bait / "secret").read_text() == SECRET


def hostile(source: Path, target: Path, seed: int, count: int) -> Iterator[Case]:
    """So many hostile variants of a real run's or sweep's folder, one at a time.

    Args:
        source: the real folder.
        target: an empty folder, in which each variant is made and then removed.
        seed: variants are the same for the same seed.
        count: how many; the first ones are one of each kind.
    """
    luck = random.Random(seed)
    for number in range(count):
        place = target / str(number)
        bait, folder = place / "bait", place / source.name
        bait.mkdir(parents=True)
        (bait / "secret").write_text(SECRET)
        name = variant(source, folder, bait, luck, number)
        yield Case(f"{seed}:{number} {name}", folder, bait)
        remove(place)


def variant(source: Path, folder: Path, bait: Path, luck: random.Random, number: int) -> str:
    """Make a hostile variant of a folder, of a kind that follows from a number; its name."""
    shutil.copytree(source, folder, symlinks=True)
    if number % 4 == 3:
        name, spoil = luck.choice(list(FOR_A_FOLDER.items()))
        spoil(folder, bait, luck)
        return name
    files = sorted(
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file() and not path.is_symlink()
    )
    preferred = [path for path in files if path.suffix in (".json", ".yaml", ".csv", ".png")]
    name, change = list(FOR_A_FILE.items())[number % len(FOR_A_FILE)]
    file = luck.choice(preferred if luck.random() < 0.8 else files)
    change(folder / file, bait, luck)
    return f"{name} in {file}"


def remove(place: Path) -> None:
    """Remove a variant, however deep."""
    from discern.files.removing import remove_tree

    remove_tree(place)


# One file


def _bytes(content: bytes) -> Callable[[Path, Path, random.Random], None]:
    def change(path: Path, bait: Path, luck: random.Random) -> None:
        _gone(path)
        path.write_bytes(content)

    return change


def _gone(path: Path) -> None:
    path.unlink()


def _flip(path: Path, bait: Path, luck: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(luck.randint(1, 20)):
        if content:
            content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, bait: Path, luck: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: luck.randrange(len(content) + 1)])


def _link(path: Path, bait: Path, luck: random.Random) -> None:
    _gone(path)
    path.symlink_to(bait / "secret")


def _loop(path: Path, bait: Path, luck: random.Random) -> None:
    _gone(path)
    path.symlink_to(path.name)


def _pipe(path: Path, bait: Path, luck: random.Random) -> None:
    _gone(path)
    os.mkfifo(path)


def _device(path: Path, bait: Path, luck: random.Random) -> None:
    _gone(path)
    path.symlink_to(luck.choice(["/dev/zero", "/dev/random", "/dev/stdin", "/proc/self/mem"]))


def _socket(path: Path, bait: Path, luck: random.Random) -> None:
    _gone(path)
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        try:  # a path of more than 108 bytes is none for a socket
            made.bind(f"/proc/self/fd/{here}/{path.name[:40]}")
        finally:
            os.close(here)


def _folder(path: Path, bait: Path, luck: random.Random) -> None:
    _gone(path)
    path.mkdir()


def _large(path: Path, bait: Path, luck: random.Random) -> None:
    with path.open("r+b") as file:
        file.truncate(5 * 10**9)


def _unreadable(path: Path, bait: Path, luck: random.Random) -> None:
    path.chmod(0)


VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**18, 10**400, float("nan"), float("inf"), "", "x" * 10_000,
    "\x1b]0;x\x07", "a\nb", "\x00", "=1+1", "../../..", "/etc/passwd", "${oc.env:BAIT}",
    "<script>", "\ud800", "١", [], {}, [[]], {"_target_": "os.system"}, {"": {"": None}},
    [None] * 1000,
)  # fmt: skip
"""What stands in the place of other values."""


def _values(path: Path, bait: Path, luck: random.Random) -> None:
    """Another value, or another kind of value, somewhere in JSON or YAML."""
    import yaml

    is_json = path.suffix == ".json"
    if path.suffix not in (".json", ".yaml"):
        _flip(path, bait, luck)
        return
    content = yaml.safe_load(path.read_text())
    for _ in range(luck.randint(1, 5)):
        places = list(_places(content))
        if not places:
            break
        part, key = luck.choice(places)
        part[key] = luck.choice(VALUES)
    with path.open("w", encoding="utf-8", errors="surrogatepass") as file:
        if is_json:
            json.dump(content, file, ensure_ascii=luck.random() < 0.5)
        else:
            yaml.safe_dump(content, file)


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        yield content, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _cells(path: Path, bait: Path, luck: random.Random) -> None:
    """Other cells, or other columns, in a table."""
    if path.suffix != ".csv":
        _values(path, bait, luck)
        return
    rows = [line.split(",") for line in path.read_text(errors="replace").splitlines()]
    for _ in range(luck.randint(1, 10)):
        row = luck.choice(rows or [[""]])
        value = luck.choice(
            ("", "nan", "inf", "-1e999", "1" * 400, "\x00", '"', "x" * 200_000, "-5")
        )
        row[luck.randrange(len(row))] = value
    path.write_text("\n".join(map(",".join, rows)))


def _laughs(open_: str, close: str, joint: str) -> bytes:
    lines = [f"a: &a {open_}{joint.join('x' * 9)}{close}"] if open_ == "[" else ["a: &a {x: 1}"]
    for before, name in zip("abcdefghijkl", "bcdefghijklm", strict=True):
        inside = ",".join([f"*{before}"] * 9)
        lines.append(
            f"{name}: &{name} " + (f"[{inside}]" if open_ == "[" else f"{{<<: [{inside}]}}")
        )
    return "\n".join(lines).encode()


FOR_A_FILE: dict[str, Callable[[Path, Path, random.Random], None]] = {
    "another value": _values,
    "other cells": _cells,
    "bits": _flip,
    "cut": _cut,
    "a link to outside": _link,
    "a link to itself": _loop,
    "a pipe": _pipe,
    "a device": _device,
    "a socket": _socket,
    "a folder": _folder,
    "5 GB": _large,
    "unreadable": _unreadable,
    "gone": lambda path, bait, luck: _gone(path),
    "empty": _bytes(b""),
    "nested JSON": _bytes(b"[" * 100_000),
    "nested mappings": _bytes(b'{"a":' * 100_000),
    "nested YAML": _bytes(b"- " * 100_000 + b"x"),
    "nested keys": _bytes(b"? " * 100_000 + b"x"),
    "laughs": _bytes(_laughs("[", "]", ",")),
    "merges": _bytes(_laughs("{", "}", ",")),
    "a YAML of Python": _bytes(b"!!python/object/apply:os.system ['touch RAN']"),
    "many empty lists": _bytes(b"[" + b"[]," * 2_000_000 + b"[]]"),
    "a long number": _bytes(b'{"epochs": 1' + b"0" * 100_000 + b"}"),
    "a base of sixty": _bytes(b"a: 1" + b":59" * 100_000),
    "another encoding": _bytes('{"state": "x"}'.encode("utf-16")),
    "a mark of order": _bytes(b'\xef\xbb\xbf{"state": "x"}'),
    "zeros": _bytes(bytes(10_000)),
    "an EPS": _bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(RAN) (w) file\n"),
    "many columns": _bytes(b",".join(b"c%d" % n for n in range(30_000)) + b"\n" + b"1\n" * 100_000),
    "a pickle": _bytes(b"\x80\x04cos\nsystem\n(S'touch RAN'\ntR."),
}  # fmt: skip
"""Kind -> what makes a file of a folder hostile."""


# The whole folder


def _other_job(luck: random.Random, **job: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name, value in job.items():
            luck.choice(content["jobs"])[name] = value

    return change


def _job(folder: Path, bait: Path, luck: random.Random) -> None:
    """A job of another name, of which the folder is somewhere else."""
    name = luck.choice((
        "..", ".", "", "../bait", str(bait), "../../bait", "a/../../bait", "x\x00", "x\ny",
        "\x1b[2J", "best", ".hidden", "\\..\\bait", "a" * 300, "/", "~", "/etc",
        "checkpoints/..", "\ud800",
    ))  # fmt: skip
    _in_sweep(folder, _other_job(luck, name=name))


def _override(folder: Path, bait: Path, luck: random.Random) -> None:
    """A job, or the sweep, with an override that runs something."""
    key, value = luck.choice(tuple(overrides(bait)))
    _in_sweep(folder, _other_job(luck, overrides={key: value}))
    if luck.random() < 0.3:
        _in_sweep(folder, lambda content: content.update(arguments=[f"{key}={value}"], jobs=[]))


def overrides(bait: Path) -> Iterator[tuple[str, str]]:
    """Settings with values of which none may have an effect."""
    run = f"touch {bait}/RAN"
    yield "+callbacks.x._target_", "os.system"
    yield "+callbacks.x", f"{{_target_: os.system, command: '{run}'}}"
    yield "+callbacks.x", f"{{_target_: discern.files.removing.shutil.rmtree, path: '{bait}'}}"
    yield "+callbacks.x._target_", "torch.hub.load"
    yield "++model._target_", "torch.os.system"
    yield "+logger.x", f"{{_target_: subprocess.Popen, args: '{run}', shell: true}}"
    yield "hydra.run.dir", str(bait)
    yield "hydra.sweep.dir", str(bait)
    yield "hydra.launcher._target_", "os.system"
    yield "hydra.searchpath", f"[file://{bait}]"
    yield "hydra/launcher", "joblib"
    yield "+hydra.callbacks.x._target_", "os.system"
    yield "allow_targets", "[os]"
    yield "tags", "['${oc.env:BAIT}']"
    yield "tags", "['${oc.decode:x}']"
    yield "callbacks.best_checkpoint.dirpath", str(bait)
    yield "callbacks.best_checkpoint.dirpath", "conf"
    yield "logger.tensorboard.name", "../x"
    yield "folder", str(bait)
    yield "model", f"../../../../../../../../..{bait}/secret"
    yield "callbacks@hydra.callbacks", "default"
    yield "hydra.job.env_set.DISCERN_SWEEP_TRIAL", f'["sqlite:///{bait}/secret","sweep",0]'
    yield "hydra.mode", "MULTIRUN"


def _in_sweep(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "sweep.json"
    if not path.is_file():
        return
    content = json.loads(path.read_text())
    change(content)
    text = json.dumps(content)
    path.write_text(text)


def _job_is_a_link(folder: Path, bait: Path, luck: random.Random) -> None:
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    if inside:
        path = luck.choice(inside)
        shutil.rmtree(path)
        path.symlink_to(luck.choice([bait, Path(), Path(".."), Path("/")]))


def _deep(folder: Path, bait: Path, luck: random.Random) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(luck.choice((50, 1500))):
        os.mkdir("d", dir_fd=here)
        there = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    os.close(here)


def _many(folder: Path, bait: Path, luck: random.Random) -> None:
    for number in range(2000):
        (folder / f"{number}").touch()


def _odd_names(folder: Path, bait: Path, luck: random.Random) -> None:
    for name in (b"a\nb", b"\x1b[2J", b"\xff\xfe", b"=1+1", b"'", b"$(touch RAN)", b"-rf", b"~"):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        luck.choice([path.mkdir, path.touch])()


def _outer_links(folder: Path, bait: Path, luck: random.Random) -> None:
    """Links where a command writes."""
    for name in ("report.html", "multirun.yaml", ".sweep.lock", "results.csv", "best", "train.log"):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(bait if name == "best" else bait / "secret")


FOR_A_FOLDER: dict[str, Callable[[Path, Path, random.Random], None]] = {
    "a job elsewhere": _job,
    "an override": _override,
    "a job that is a link": _job_is_a_link,
    "deep folders": _deep,
    "many files": _many,
    "odd names": _odd_names,
    "links where something is written": _outer_links,
}
"""Kind -> what makes a folder hostile."""


# Files of settings


def settings(bait: Path) -> Iterator[str]:
    """Files of settings of which each must be refused."""
    ran = bait / "RAN"
    for target in TARGETS:
        yield f"callbacks:\n  x:\n    _target_: {target}\n    path: {ran}\n"
    yield f"model:\n  _target_: builtins.open\n  file: {ran}\n  mode: w\n"
    yield "tags: ['${oc.env:BAIT}']\n"
    yield "e: env\ntags: ['${oc.${e}:BAIT}']\n"
    yield "tags: ['${oc.decode:\"${x}\"}']\nx: 1\n"
    yield "callbacks: {x: '${oc.create:\"{_target_: os.system}\"}'}\n"
    yield "t: os.system\ncallbacks: {x: {_target_: '${t}'}}\n"
    yield "callbacks: {early_stopping: {hook: {_target_: os.system, _partial_: true}}}\n"
    yield "callbacks: {x: {_target_: torch.nn.Identity, _args_: [{_target_: os.system}]}}\n"
    yield f"hydra: {{run: {{dir: {bait}}}}}\n"
    yield "hydra: {launcher: {_target_: os.system}}\n"
    yield "hydra: {job_logging: {handlers: {x: {(): os.system}}}}\n"
    yield f"hydra: {{searchpath: ['file://{bait}']}}\n"
    yield "# @package hydra.callbacks.x\n_target_: os.system\n"
    yield "# @package _global_.hydra.job\nname: x\n"
    yield "defaults: [{override /hydra/launcher: joblib}]\n"
    yield "defaults: [{/callbacks@hydra.callbacks: default}]\n"
    yield f"defaults: [{{override /model: '../../../../../../../../..{bait}/secret'}}]\n"
    yield f"defaults: [{{override /model: '{bait}/secret'}}]\n"
    yield "allow_targets: [os]\n"
    yield f"sweep: {{study: 'sqlite:///{bait}/x', name: x, trial: 0}}\n"
    yield f"folder: {bait}\n"
    yield f"callbacks: {{best_checkpoint: {{dirpath: {bait}}}}}\n"
    yield "callbacks: {best_checkpoint: {dirpath: '${folder}/../../x'}}\n"
    yield "callbacks: {best_checkpoint: {dirpath: conf/model}}\n"
    yield "logger: {csv: {path: conf/model/x.yaml}}\n"
    for name in ("name", "version", "sub_dir"):
        for path in (bait, "../x", "simplecache::x", "${tags.0}"):
            yield f"logger: {{tensorboard: {{{name}: '{path}'}}}}\n"
    table = "discern.training.history.MetricsCSV"
    yield f"logger: {{x: {{_target_: {table}, _args_: ['{bait}/x']}}}}\n"
    yield f"logger: {{x: {{_target_: {table}, path: '{bait}/x'}}}}\n"
    profiler = "lightning.pytorch.profilers.SimpleProfiler"
    yield f"trainer: {{profiler: {{_target_: {profiler}, _args_: ['{bait}', x]}}}}\n"
    yield "tags: [!!binary aGVsbG8=]\n"
    yield 'tags: ["\\uD800"]\n'
    yield 'model: {class_weights: {"\\uD800": 1}}\n'
    yield _laughs("[", "]", ",").decode()
    yield _laughs("{", "}", ",").decode()
    yield "[" * 100_000
    yield "- " * 100_000 + "x"
    yield "tags: ['" + "${x:" * 5000 + "']\n"
    yield "!!python/object/apply:os.system ['true']\n"


TARGETS = (
    "os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec",
    "shutil.rmtree", "sympy.sympify", "numpy.load", "pickle.loads", "importlib.import_module",
    "runpy.run_path", "hydra.utils.instantiate", "hydra.utils.get_method",
    "hydra._internal.utils._locate", "torch.load", "torch.hub.load",
    "torch.hub.download_url_to_file", "torch.jit.load", "torch.save", "torch.os.system",
    "torch.utils.cpp_extension.load", "torch.utils.data.datapipes.iter.FileOpener",
    "torch.serialization.load", "torch.package.PackageImporter",
    "torch.distributed.nn.RemoteModule", "torch.jit.ScriptModule", "torch.fx.GraphModule",
    "torch.multiprocessing.spawn", "torch.ops.load_library", "torch.classes.load_library",
    "torchvision.datasets.ImageNet", "torchvision.datasets.utils.download_url",
    "torchvision.io.read_file", "torchvision.io.write_file",
    "nowhere_at_all.Net", "timm_.models.Net",
    "lightning.pytorch.serve.ServableModuleValidator", "lightning.pytorch.cli.LightningCLI",
    "lightning.pytorch.LightningModule.load_from_checkpoint",
    "lightning.pytorch.utilities.rank_zero.os.system",
    "lightning.pytorch.plugins.io.TorchCheckpointIO", "lightning.fabric.utilities.cloud_io._load",
    "torchmetrics.text.BERTScore", "torchmetrics.multimodal.CLIPScore", "timm.create_model",
    "timm.models.load_checkpoint", "timm.data.ImageDataset",
    "timm.models.helpers.load_state_dict", "optuna.load_study",
    "optuna.storages.RDBStorage", "discern.load", "discern.commands.cli.main",
    "discern.files.removing.remove_tree",
    "discern.__main__.main", "discern.models.saved.read", "setup.Anything", "logging.FileHandler",
    "logging.config.dictConfig", "pathlib.Path", "os", "..os.system", "os.system()",
)  # fmt: skip
"""What a file given by path may not have built."""
