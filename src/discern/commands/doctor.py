"""``discern doctor``: what discern finds on this machine, to be pasted into a bug report."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

from discern.commands import words
from discern.config.user_config import FOLDER, user_conf_dir
from discern.console import say
from discern.data.published.publication import FASHION_MNIST, MNIST
from discern.data.published.wanted import CATDOG_COURSE, FLOWERS, PETS
from discern.files.cache import cache_dir
from discern.files.places import expanded, hub_dir, hugging_face_dir, is_file, is_folder, is_there
from discern.files.walk import file_sizes
from discern.redaction import redacted
from discern.runs.folder import OUTPUTS
from discern.runs.summary import cpu_name, memory_bytes
from discern.tables import line_width
from discern.text import printable
from discern.version import __version__

HELP = """\
What discern finds on this machine: versions, devices, folders, free disk, extras. Nothing is
imported, changed or sent; secrets are left out and the home folder is ~, so that it can be pasted
into a bug report.

Usage: discern doctor [--json]

Options:
  --json    the same, for programs
"""

PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "pydantic",
    "numpy", "onnxruntime", "tensorboard",
)  # fmt: skip
"""Packages that a result or an error depends on."""

FOR_DEVELOPERS = ("dev", "docs")
"""Extras that no experiment needs."""

DATA_FOLDERS = {
    "mnist": MNIST.folder,
    "fashion_mnist": FASHION_MNIST.folder,
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "flowers102": FLOWERS.folder,
    "oxford_pets": PETS.folder,
    "catdog": CATDOG_COURSE,
    "imagenet_folder": "imagenet",
}
"""Choice of ``data`` -> its folder in ``data.dir``."""

VARIABLES = (
    "DISCERN_DATA_DIR", "DISCERN_CACHE_DIR", "DISCERN_MAX_PICTURE_MB", "TORCH_HOME", "HF_HOME",
    "XDG_CACHE_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG", "HYDRA_FULL_ERROR", "PYTHONPATH", "NO_COLOR", "COLUMNS", "LANG",
)  # fmt: skip
"""Environment variables that change what discern does."""

MAX_FILES = 10_000
"""Files of a folder whose sizes are added up."""

PATIENCE = 10
"""Seconds that a driver may take to name its GPUs."""

GB = 1e9

AS_JSON = "--json"

SYSTEM_DATA = {"fashion_mnist": FASHION_MNIST.system_folders[0]}
"""Choice of ``data`` -> where a package of the system puts its files."""

Facts = dict[str, dict[str, str]]
"""Heading -> name -> what was found."""


def run(arguments: list[str]) -> int:
    """Run ``discern doctor`` with these arguments; the exit status.

    Raises:
        DiscernError: an argument is not known.
    """
    for word in arguments:
        if word != AS_JSON:
            raise words.unknown(word, "discern doctor", [AS_JSON])
    facts = examine()
    if arguments:
        say(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        say("\n".join(_lines(facts, min(line_width(), 100))))
    return 0


def completions(typed: str) -> list[str]:
    """Words that may follow what was typed after ``discern doctor``."""
    return words.starting(typed.rpartition(" ")[2], (), AS_JSON)


def examine() -> Facts:
    """All that is found, without secrets and with ``~`` for the home folder."""
    facts = {
        "Versions": versions(),
        "Devices": devices(),
        "Folders": folders(),
        "Free disk": free_disk(),
        "Extras": extras(),
        "Environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return {
        title: {name: _without_home(str(value)) for name, value in redacted(part).items()}
        for title, part in facts.items()
    }


def _lines(facts: Facts, width: int) -> Iterator[str]:
    indent = 2 + max(len(name) for part in facts.values() for name in part) + 2
    if indent > width // 2:
        indent = 4
    for number, (title, part) in enumerate(facts.items()):
        yield from ([""] if number else [])
        yield title
        for name, value in part.items() or {"none": ""}.items():
            start = f"  {name}".ljust(indent - 1)
            yield from textwrap.wrap(
                f"{start} {value}".rstrip(),
                max(width, indent + 10),
                subsequent_indent=" " * indent,
                break_on_hyphens=False,
            )


def _without_home(text: str) -> str:
    home = str(Path.home())
    if len(home) < 2:
        return text
    return re.sub(rf"(?<![\w.~-]){re.escape(home)}(?![\w.-])", "~", text)


# Versions


def versions() -> dict[str, str]:
    """Package -> version, and the system."""
    found = {
        "discern": f"{__version__}, in {Path(__file__).resolve().parents[1]}",
        "python": f"{platform.python_version()}, {sys.executable}",
        "system": platform.platform(),
    }
    for package in PACKAGES:
        build = f" ({_torch_build()})" if package == "torch" else ""
        found[package] = f"{_version(package)}{build}"
    return found


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_build() -> str:
    """What PyTorch was built for, read in its file: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    file = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    if file is None or not is_file(file):
        return "build unknown"
    text = file.read_text(encoding="utf-8", errors="replace")
    for kind, title in (("cuda", "CUDA"), ("hip", "ROCm"), ("xpu", "XPU")):
        match = re.search(rf"^{kind}\b[^=\n]*= *['\"]([\w.]+)['\"]", text, re.MULTILINE)
        if match:
            return f"built for {title} {match[1]}"
    return "built for CPU and MPS" if sys.platform == "darwin" else "built for the CPU alone"


# Devices


def devices() -> dict[str, str]:
    """The processor with its cores and memory, GPUs, and threads."""
    cores = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    usable = "" if allowed == cores else f", {allowed} of them for this process"
    threads = os.environ.get("OMP_NUM_THREADS")
    memory = memory_bytes()
    variable = f"OMP_NUM_THREADS={threads}" if threads else "OMP_NUM_THREADS is not set"
    return {
        "CPU": f"{cpu_name()}, {_count(cores, 'core')}{usable}",
        **({"memory": f"{memory / GB:.1f} GB"} if memory else {}),
        **_gpus(),
        "threads": f"{variable}; threads=auto takes 1 for a small network, else one a core",
    }


def _gpus() -> dict[str, str]:
    if sys.platform == "darwin":
        apple = platform.machine() == "arm64"
        return {"GPU": "Apple's, as accelerator=mps" if apple else "none that PyTorch can use"}
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"GPU": "none found (there is no nvidia-smi)"}
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=PATIENCE, check=False, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return {"GPU": "unknown: nvidia-smi does not answer"}
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not lines:
        return {"GPU": "none found by nvidia-smi"}
    return {f"GPU {number}": _about_gpu(line) for number, line in enumerate(lines)}


def _about_gpu(line: str) -> str:
    cells = [cell.strip() for cell in line.split(",")]
    return f"{cells[0]}, {cells[1]}, driver {cells[2]}" if len(cells) == 3 else line


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


# Folders


def folders() -> dict[str, str]:
    """Where data, weights, the cache and results are looked for, and what is there."""
    return {
        "data": _place(data_dir(), _data_sets(data_dir())),
        **{
            f"data={choice}": printable(folder)
            for choice, folder in SYSTEM_DATA.items()
            if is_folder(folder)
        },
        "weights": _place(hub_dir(), _files_in(hub_dir())),
        "timm's weights": _place(hugging_face_dir(), _models_in(hugging_face_dir())),
        "cache": _place(cache_dir(make=False), _files_in(cache_dir(make=False))),
        "outputs": _place(OUTPUTS, _days_in(OUTPUTS)),
        "own choices": _own_choices(),
    }


def _own_choices() -> str:
    own = user_conf_dir()
    if own is None:
        return f"{printable(Path.cwd() / FOLDER)}: none"
    return f"{printable(own)}: {_count(len(list(own.glob('*/*.yaml'))), 'choice')}"


def data_dir() -> Path:
    """The folder that ``data.dir`` is unless it is set."""
    return expanded(os.environ.get("DISCERN_DATA_DIR", "data"))


def _place(folder: Path, found: str) -> str:
    where = printable(folder if folder.is_absolute() else Path.cwd() / folder)
    return f"{where}: {found}" if is_folder(folder) else f"{where}: not there"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _data_sets(folder: Path) -> str:
    names = _names(folder)
    found = [choice for choice, name in DATA_FOLDERS.items() if name in names]
    if folder.name in DATA_FOLDERS.values():
        found.append(next(c for c, name in DATA_FOLDERS.items() if name == folder.name))
    others = [name for name in names if name not in DATA_FOLDERS.values()]
    also = [f"{len(others):,} other"] if others else []
    return ", ".join([*found, *also]) or "empty"


def _models_in(folder: Path) -> str:
    models = [name for name in _names(folder) if name.startswith("models--")]
    return _count(len(models), "model")


def _days_in(folder: Path) -> str:
    return _count(len([name for name in _names(folder) if not name.startswith(".")]), "folder")


def _files_in(folder: Path) -> str:
    sizes = list(islice(file_sizes(folder), MAX_FILES))
    at_least = "at least " if len(sizes) == MAX_FILES else ""
    return f"{at_least}{_count(len(sizes), 'file')}, {sum(sizes) / GB:.2f} GB"


def free_disk() -> dict[str, str]:
    """What is free where runs, data, the cache and temporary files are written."""
    places = {
        "outputs": OUTPUTS,
        "data": data_dir(),
        "cache": cache_dir(make=False),
        "weights": hub_dir(),
        "temporary files": Path(tempfile.gettempdir()),
    }
    return {name: _free(folder) for name, folder in places.items()}


def _free(folder: Path) -> str:
    folder = Path.cwd() / folder
    there = next(path for path in (folder, *folder.parents) if is_there(path))
    try:
        usage = shutil.disk_usage(there)
    except OSError as error:
        return f"unknown ({error.strerror})"
    return f"{usage.free / GB:.1f} of {usage.total / GB:.1f} GB"


# Extras


def extras() -> dict[str, str]:
    """Extra -> what is installed of it, or the command that installs it."""
    needed = _needed()
    if needed is None:
        return {"unknown": "discern runs from a checkout that is not installed; pip install . does"}
    missing = [extra for extra, packages in needed.items() if not _all_installed(packages)]
    there = [extra for extra in needed if extra not in missing]
    found = {"installed": ", ".join(there) or "none", "missing": ", ".join(missing) or "none"}
    if missing:
        found["to install"] = f"pip install 'discern[{','.join(missing)}]'"
    return found


def _needed() -> Mapping[str, list[str]] | None:
    """Extra -> the packages that it brings, as discern's own metadata has them; None without."""
    found: dict[str, list[str]] = {}
    try:
        requirements = importlib.metadata.requires("discern") or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+).*;.*\bextra == ['\"]([\w.-]+)['\"].*", requirement)
        if match and match[2] not in FOR_DEVELOPERS:
            found.setdefault(match[2], []).append(match[1])
    return found


def _all_installed(packages: Iterable[str]) -> bool:
    return all(_version(package) != "not installed" for package in packages)
