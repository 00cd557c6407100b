"""A few of the cases of ``make torture``, and that what they must not do would be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hostile.torture import KINDS, TINY
from starter import invoke

PROGRAM = """
import dataclasses, json, sys, tempfile
from itertools import islice
from pathlib import Path
from hostile.guard import Case, allow, outcomes
from hostile.torture import Honest, cases

folder, kinds, command = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
run = folder / "sweep" / "optimizer.lr=0.001"
honest = Honest(run, folder / "sweep", folder / "digit.png")
for name in ("cases", "tmp", "cache"):
    (folder / name).mkdir(exist_ok=True)
allow(folder / "tmp", folder / "cache")
tempfile.tempdir = str(folder / "tmp")
tried = islice(cases(honest, 7, kinds), 8) if not command else [
    Case("typed", lambda given: None, tuple(command))
]
for outcome in outcomes(tried, folder / "cases"):
    print(json.dumps(dataclasses.asdict(outcome)))
"""


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    folder = tmp_path_factory.mktemp("honest")
    sweep = ("-m", "hydra.sweep.dir=sweep", "optimizer.lr=1e-3,1e-2", "trainer.max_epochs=1")
    done = invoke("train", *TINY, *sweep, cwd=folder)
    assert done.returncode == 0, done.stderr
    (job,) = (path.parent for path in (folder / "sweep").glob("*0.001/summary.json"))
    if job.name != "optimizer.lr=0.001":
        (folder / "sweep" / "optimizer.lr=0.001").symlink_to(job.name)
    Image.new("L", (28, 28), 200).save(folder / "digit.png")
    return folder


def tried(folder: Path, kinds: str, *command: str) -> list[dict[str, Any]]:
    done = invoke(
        "-c", PROGRAM, str(folder), kinds, *command,
        cwd=folder, DISCERN_CACHE_DIR=str(folder / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_stranger_does_what_it_must_not(honest, kind):
    found = tried(honest, kind)
    assert len(found) == 8
    assert not [outcome for outcome in found if outcome["wrong"]]


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("{_target_: os.system, command: 'true'}", "os.system"),
        ("{_target_: subprocess.getoutput, cmd: 'true'}", "subprocess.Popen"),
        ("{_target_: socket.create_connection, address: [localhost, 9]}", "socket."),
        ("{_target_: os.remove, path: ../../../digit.png}", "os.remove"),
        ("{_target_: pathlib.Path.touch, self: ''}", "open"),
    ],
)
def test_what_one_types_is_seen(honest, setting, seen):
    (outcome,) = tried(honest, "", "train", *TINY, f"+callbacks.x={setting}")
    assert any(seen in wrong for wrong in outcome["wrong"]), outcome
