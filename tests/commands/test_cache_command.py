from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from discern.commands import cache as cache_command
from discern.config.user_config import conf_dir
from discern.features.store import FeatureStore
from discern.features.stores import MARK, hold, name_of
from discern.models import torch_file, torch_file_folder
from run_files import command, in_process
from starter import invoke

Run = Callable[..., subprocess.CompletedProcess[str]]


def store(folder: Path, number: int, images: int = 5, days: float = 0) -> Path:
    """A store of some 4 kB an image, which was last used so many days ago."""
    about = {
        "backbone": {"name": f"net{number}"},
        "shape": [3, 64, 96],
        "precision": "float32",
        "engine": "torch-2.0-1",
    }
    path = folder / name_of(about)
    ids = np.arange(2 * images, dtype=np.uint64).reshape(-1, 2)
    FeatureStore(path, 1000, "float32", about).add(ids, torch.ones(images, 1000))
    used = time.time() - 86_400 * days
    os.utime(path / MARK, (used, used))
    return path


@pytest.fixture
def kept(tmp_path: Path) -> list[Path]:
    """Three stores of 20 kB in the cache folder, last used today, five and ten days ago."""
    return [store(tmp_path / "kept" / "features", n, days=5 * n) for n in range(3)]


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        """As ``discern cache``, in this process."""
        return in_process("cache", arguments, capfd)

    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def chunk(store: Path) -> Path:
    return next(store.glob("*.safetensors"))


# list


def test_list_shows_each_store_and_what_else_there_is(run, kept, tmp_path):
    (tmp_path / "kept" / "pictures-1.sqlite").write_bytes(b"\0" * 200_000)
    (tmp_path / "kept" / "engines").mkdir()
    (tmp_path / "kept" / "engines" / "net.onnx").write_bytes(b"\0" * 3_000_000)
    mark = hold(kept[1])
    done = run("list")
    assert mark is not None
    assert done.returncode == 0
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.strip()}
    day = time.strftime("%Y-%m-%d", time.localtime(time.time() - 10 * 86_400))
    assert rows[kept[2].name[:8]][1:] == [
        "net2", "64x96", "float32", "torch-2.0-1", "5", "20.4", "kB", day, "no"
    ]  # fmt: skip
    assert rows[kept[1].name[:8]][-1] == "yes"
    assert "3 sets of features, 61.2 kB" in done.stdout
    assert rows["pictures-1.sqlite"][1:3] == ["200.0", "kB"]
    assert rows["engines"][1:3] == ["3.0", "MB"]


def test_converted_files_are_listed_and_go_with_the_rest(run, kept, tmp_path):
    torch.save({"w": torch.ones(500_000)}, tmp_path / "given.pth")
    torch_file.read(tmp_path / "given.pth")
    assert "weights  2.0 MB  files of torch.save, converted once" in run("list").stdout
    (converted,) = torch_file_folder.converted()
    assert "Now: 3 sets of features, 61.2 kB; 1 converted file, 2.0 MB." in run("prune").stdout
    os.utime(converted, (0, 0))
    told = f"removed {converted.name[:8]}  a converted file of weights"
    assert told in run("prune", "unused_days=20").stdout
    torch_file.read(tmp_path / "given.pth")
    assert told in run("clear").stdout
    assert not torch_file_folder.converted()


def test_list_of_nothing(run, tmp_path):
    done = run("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"Features in {tmp_path}/kept/features: none\n"
    assert not (tmp_path / "kept").exists()


def test_list_of_a_folder_that_is_named(run, kept, tmp_path):
    store(tmp_path / "mine", 7)
    done = run("list", f"dir={tmp_path / 'mine'}")
    assert "net7" in done.stdout
    assert "1 set of features" in done.stdout
    assert "net1" not in done.stdout
    assert "Besides" not in done.stdout


@pytest.mark.parametrize(
    "about",
    [b"", b"[]", b"3", b"{}", b'{"backbone": 3, "shape": 3, "precision": [], "engine": {}}',
     b'{"backbone": {"name": []}, "shape": [[], {}, 3]}', b"\xff", b"[" * 100_000,
     b'{"backbone": {"name": "[red]\\u001b[31mred"}, "shape": []}'],
)  # fmt: skip
def test_list_of_a_damaged_store_is_no_crash(run, kept, about):
    (kept[0] / "about.json").write_bytes(about)
    chunk(kept[1]).write_bytes(b"cut")
    os.mkfifo(kept[2] / "0.safetensors")
    done = run("list")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "[red]" in done.stdout or b"red" not in about
    assert done.stdout.count("(1 files damaged)") == 2


def test_looking_at_the_cache_is_no_use_of_it(run, kept):
    def state() -> dict[Path, float]:
        return {path: path.stat().st_mtime for store in kept for path in store.iterdir()}

    before = state()
    run("list")
    run("verify")
    run("prune", "max_gb=1")
    assert state() == before


# verify


def test_verify_removes_what_is_damaged_and_says_so(run, kept):
    done = run("verify")
    assert (done.returncode, done.stdout) == (0, "3 sets of features, 6 files: 0 damaged.\n")
    damaged = chunk(kept[1])
    flip(damaged)
    (kept[0] / "0.safetensors").mkdir()
    about = json.loads((kept[2] / "about.json").read_text())
    (kept[2] / "about.json").write_text(json.dumps(about | {"precision": "float33"}))
    done = run("verify")
    assert done.returncode == 1
    assert f"{damaged} is damaged (its checksum is wrong) and was removed." in done.stdout
    assert (
        "0.safetensors is damaged (it is not a regular file) and cannot be removed" in done.stdout
    )
    assert "about.json is damaged (it is not about these features) and was removed" in done.stdout
    assert "3 sets of features, 7 files: 3 damaged." in done.stdout
    assert not damaged.exists()
    assert chunk(kept[2]).exists()
    assert len(list(kept[0].glob("*.safetensors"))) == 2
    (kept[0] / "0.safetensors").rmdir()
    assert run("verify").returncode == 0


# prune and clear


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_prune_goes_down_to_a_size(run, kept):
    done = run("prune", "max_gb=0.00005")
    assert done.returncode == 0
    assert names(kept[0].parent) == {kept[0].name, kept[1].name}
    assert f"removed {kept[2].name[:8]}  net2" in done.stdout
    assert "Before: 3 sets of features, 61.2 kB. Now: 2 sets of features, 40.8 kB." in done.stdout
    run("prune", "max_gb=0")
    assert names(kept[0].parent) == set()


def test_prune_removes_what_was_not_used_for_long(run, kept):
    run("prune", "unused_days=7")
    assert names(kept[0].parent) == {kept[0].name, kept[1].name}
    run("prune", "unused_days=30", "max_gb=0.00003")
    assert names(kept[0].parent) == {kept[0].name}


def test_prune_by_itself_goes_down_to_what_a_run_may_keep(run, kept, monkeypatch):
    assert "  max_gb: 50.0\n" in (conf_dir() / "train.yaml").read_text()
    assert cache_command.MAX_GB == 50
    run("prune")
    assert run("prune", "max_gb=1e300").returncode == 0
    assert len(names(kept[0].parent)) == 3
    monkeypatch.setattr(cache_command, "MAX_GB", 0.00003)
    run("prune")
    assert names(kept[0].parent) == {kept[0].name}


def test_clear_removes_all_but_what_is_in_use_or_something_else(run, kept, tmp_path):
    cache = kept[0].parent
    (cache / "notes").mkdir()
    (cache / "notes" / "about.json").write_text("{}")
    (cache / ("f" * 32)).symlink_to(cache / "notes")
    mark = hold(kept[2])
    done = run("clear")
    assert done.returncode == 0
    assert names(cache) == {kept[2].name, "notes", "f" * 32}
    assert names(cache / "notes") == {"about.json"}
    assert f"in use  {kept[2].name[:8]}  net2" in done.stdout
    assert done.stdout.count("removed") == 2
    assert mark is not None
    mark.close()
    run("clear")
    assert names(cache) == {"notes", "f" * 32}


def test_nothing_in_use_is_pruned(run, kept):
    mark = hold(kept[2])
    assert mark is not None
    run("prune", "max_gb=0.00003", "unused_days=1")
    assert names(kept[0].parent) == {kept[2].name}


def backbone(folder: Path, number: int, days: float) -> Path:
    """A backbone of 20 kB as an engine runs it, which was last used so many days ago."""
    path = folder / "engines" / f"timm-1.0-net{number}.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\0" * 20_000)
    path.with_name(f"{path.name}.sha256").write_text("digest")
    used = time.time() - 86_400 * days
    os.utime(path, (used, used))
    return path


@pytest.fixture
def backbones(kept, tmp_path: Path) -> list[Path]:
    return [backbone(tmp_path / "kept", n, days=n) for n in range(3)]


def test_backbones_go_before_features(run, kept, backbones):
    done = run("prune", "max_gb=0.0001")  # the features alone take 60 kB and something
    assert [path.exists() for path in backbones] == [True, False, False]
    assert "removed timm-1.0-net2  as other engines run it" in done.stdout
    assert "Before: 3 sets of features, 61.2 kB; 3 backbones, 60.0 kB. Now: " in done.stdout
    assert "3 sets of features, 61.2 kB; 1 backbone, 20.0 kB." in done.stdout
    run("prune", "max_gb=0.00005")
    assert names(kept[0].parent) == {kept[0].name, kept[1].name}
    assert not names(backbones[0].parent)


def test_backbones_that_were_not_used_for_long_go(run, kept, backbones):
    run("prune", "unused_days=1.5")
    assert [path.exists() for path in backbones] == [True, True, False]


def test_clear_removes_backbones_and_what_is_known_of_engines(run, kept, backbones):
    folder = backbones[0].parent
    (folder / "choice-0.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    run("clear", f"dir={kept[0].parent}")
    assert all(path.exists() for path in backbones), "they are not in the folder that is named"
    assert run("clear").stdout.count("removed timm") == 3
    assert names(folder) == {"notes.txt"}


# Words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "lst is not a command of discern cache; did you mean list"),
        (["lst", "--dir"], "lst is not a command"),
        (["list", "dri=x"], "dri=x is not a setting of discern cache list; did you mean dir?"),
        (["list", "max_gb=3"], "max_gb=3 is not a setting of discern cache list"),
        (["prune", "max_gb"], "max_gb is not a setting"),
        (["prune", "all"], "all is not a setting of discern cache prune"),
        (["prune", "max_gb="], "max_gb= must be a number, 0 or above."),
        (["prune", "max_gb=nan"], "max_gb=nan must be a number, 0 or above."),
        (["prune", "max_gb=inf"], "max_gb=inf must be a number, 0 or above."),
        (["prune", "unused_days=-1"], "unused_days=-1 must be a number, 0 or above."),
        (["list", "dir="], "dir= must be a folder that exists."),
        (["clear", "dir=/no/where"], "dir=/no/where must be a folder that exists."),
        (["clear", f"dir={__file__}"], "must be a folder that exists."),
    ],
)
def test_a_wrong_word_is_one_sentence_and_removes_nothing(run, kept, words, said):
    done = run(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"Error: {said}") or said in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(names(kept[0].parent)) == 3


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["clear", "--help"], ["help"]])
def test_help_does_nothing_else(run, kept, words):
    done = run(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"\n  {name} " in done.stdout for name in cache_command.COMMANDS)
    assert len(names(kept[0].parent)) == 3


def test_a_folder_that_cannot_be_read_is_one_sentence(run, kept, monkeypatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    done = run("list")
    assert done.returncode == 1
    assert done.stderr == f"Error: {kept[0].parent} cannot be used: Permission denied.\n"


def test_the_command_imports_nothing_heavy(kept, tmp_path):
    program = (
        "import sys\nfrom discern.commands.cli import main\nmain()\n"
        "heavy = 'torch', 'lightning', 'numpy', 'hydra', 'pydantic', 'safetensors'\n"
        "print('IMPORTED', [name for name in heavy if name in sys.modules])\n"
    )
    kept_in = {"DISCERN_CACHE_DIR": str(tmp_path / "kept")}
    for word in cache_command.COMMANDS:
        done = command([sys.executable, "-c", program], "cache", word, cwd=tmp_path, **kept_in)
        assert done.stdout.endswith("IMPORTED []\n"), done
        assert done.stderr == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("discern ca", {"cache", "card"}),
        ("discern cache ", {"list", "verify", "prune", "clear"}),
        ("discern cache pr", {"prune"}),
        ("discern cache list ", {"dir="}),
        ("discern cache prune max", {"max_gb="}),
        ("discern cache prune max_gb=3 un", {"unused_days="}),
    ],
)
def test_completion(tmp_path, line, words):
    done = invoke("-sc", "query=bash", cwd=tmp_path, COMP_LINE=line)
    assert (done.returncode, set(done.stdout.split())) == (0, words)
