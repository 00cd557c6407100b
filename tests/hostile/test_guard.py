"""A few of the cases of ``make hostile``, and that what they must not do would be seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hostile.many import KINDS, TINY
from starter import invoke

PROGRAM = """
import dataclasses, json, sys, tempfile
from itertools import islice
from pathlib import Path
from discern.commands.cli import COMMANDS
from hostile.guard import Case, allow, outcomes
from hostile.many import Honest, cases

folder, kinds, command = Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]
run = folder / "sweep" / "optimizer.lr=0.001"
honest = Honest(run, folder / "sweep", folder / "digit.png")
for name in ("cases", "tmp", "cache"):
    (folder / name).mkdir(exist_ok=True)
allow(folder / "tmp", folder / "cache")
tempfile.tempdir = str(folder / "tmp")
if not command:
    tried = islice(cases(honest, 7, kinds), 8)
else:
    COMMANDS["report"] = lambda words: exec(words[0])
    tried = [Case("code", lambda given: None, tuple(command))]
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
    ("code", "seen"),
    [
        ("import os; os.system('true')", "os.system"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "socket.connect"),
        ("import pickle; pickle.loads(pickle.dumps(print))", "pickle.find_class"),
        ("open('../bait/secret').read()", "bait/secret"),
        ("open('../../made', 'w')", "made"),
        ("import os; os.mkdir('../bait/made')", "os.mkdir"),
        ("print(chr(27))", "a control character"),
        ("1 / 0", "a traceback"),
        ("raise SystemExit(3)", "exit status 3"),
        ("import os; os._exit(0)", "the process ended"),
    ],
)
def test_what_must_not_be_is_seen(honest, code, seen):
    (outcome,) = tried(honest, "", "report", code)
    assert any(seen in wrong for wrong in outcome["wrong"]), outcome
