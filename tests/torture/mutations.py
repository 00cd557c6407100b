"""Removes each sync, lock and check of a digest in turn, and sees whether a short test fails.

    python tests/torture/mutations.py [WORD]

With a word: only the mutations with it in their name. It ends with 1 if one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]


class Mutation(NamedTuple):
    """A change of the source that must be found.

    Attributes:
        file: below ``src/discern``.
        text: what is there, once.
        instead: what is put there.
        tests: the tests that are to fail.
    """

    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


POWER, KILL = ("tests/torture/test_torture_power_loss.py",), ("tests/torture/test_torture_kill.py",)
CHECKPOINTS = ("tests/training/test_checkpointing.py",)
WRITING, CHECKPOINT = "files/writing.py", "models/checkpoint.py"
LOCKS, LOCKING = "files/locks.py", ("tests/files/test_locks.py",)
STORE, LEDGER = "features/store.py", "sweeps/ledger.py"

MUTATIONS = {
    "sync of the file": Mutation(WRITING, "            os.fsync(file.fileno())\n", "", POWER),
    "sync of the folder": Mutation(
        WRITING, "            sync_folder(path.parent)\n", "", POWER
    ),
    "sync of new folders": Mutation(
        WRITING, "            sync_folder(parent)\n", "            pass\n", POWER
    ),
    "flush before the sync": Mutation(WRITING, "            file.flush()\n", "", POWER),
    "a name of its own until it is whole": Mutation(
        WRITING,
        'name = f".{path.name[:_NAME_SHOWN]}.{secrets.token_hex(8)}{UNFINISHED}"\n'
        "        temporary",
        'path.unlink(missing_ok=True)\n        name = path.name\n        temporary',
        KILL,
    ),
    "removal of what is unfinished": Mutation(
        WRITING, "        remove_abandoned(path.parent)\n", "", KILL
    ),
    "lock of what is unfinished": Mutation(
        WRITING, "if _lock(descriptor) is not False and", "if", ("tests/files/test_files.py",)
    ),
    "check of the lock": Mutation(
        WRITING, "if alone and _is_at(", "if _is_at(", ("tests/files/test_files.py",)
    ),
    "the checkpoint before": Mutation(
        WRITING, "                _keep(path, keep)\n", "                pass\n", CHECKPOINTS
    ),
    "proof of a checkpoint": Mutation(WRITING, "prove(temporary)", "pass", CHECKPOINTS),
    "digest of a proof": Mutation(
        CHECKPOINT, "if _digest_of(_hashed(chunks, pool)) != header[place:end]:",
        "if _digest_of(_hashed(chunks, pool)) is None:", CHECKPOINTS,
    ),
    "digest when reading": Mutation(
        CHECKPOINT, "if _fill(file, blank, tensors) != header[place:end]:",
        "if _fill(file, blank, tensors) is None:", ("tests/models/test_checkpoint.py",),
    ),
    "worth of the one before": Mutation(
        CHECKPOINT, "keep is not None and not _is_worth_keeping(path)", "False", CHECKPOINTS
    ),
    "lock": Mutation(
        LOCKS, "        try:\n            lock.acquire(timeout=patience)\n        except",
        "        try:\n            pass\n        except", LOCKING,
    ),
    "stand-in of a lock": Mutation(
        LOCKS, "            lock.acquire(timeout=patience)\n            return lock\n",
        "            return lock\n", LOCKING,
    ),
    "lock of features that are computed": Mutation(
        STORE, 'with locked_in_turn(lock, "is computing these features"):', "if lock:",
        ("tests/features/test_source.py",),
    ),
    "mark of features in use": Mutation(
        STORE, "            self._use = hold(self.folder)\n", "",
        ("tests/commands/test_cache_command.py",),
    ),
    "lock of a download": Mutation(
        "data/published/fetch.py",
        'with locked_in_turn(path.with_name(f".{path.name}.lock"), f"is making {path}"):',
        "if path:", ("tests/data/published/test_fetch.py",),
    ),
    "lock of a sweep": Mutation(
        LEDGER, "            lock = acquire(self.folder / LOCK)\n",
        "            lock = acquire(self.folder / f'{LOCK}{id(self)}')\n",
        ("tests/sweeps/test_ledger.py",),
    ),
    "lock of a job that goes on": Mutation(
        LEDGER, "            with held(folder, PATIENCE):", "            if folder:",
        ("tests/sweeps/test_ledger.py",),
    ),
    "lock of a folder that a command takes": Mutation(
        "runs/claim.py", '    hold(folder, named_by or "folder")\n', "",
        ("tests/runs/test_holding.py",),
    ),
    "lock of a run's folder": Mutation(
        "run.py", "        held(Path(cfg.folder)),\n", "",
        ("tests/runs/test_holding.py",),
    ),
    "lock that keeps a sweep": Mutation(
        "commands/prune.py", "    if is_held(unit.folder / LOCK):\n", "    if False:\n",
        ("tests/commands/test_runs.py",),
    ),
    "lock that keeps a run": Mutation(
        "commands/prune.py", "    if any(is_in_use(run.folder) for run in unit.runs):\n",
        "    if False:\n", ("tests/commands/test_runs.py",),
    ),
}  # fmt: skip


def main() -> int:
    """Try the mutations; 1 if one survives, or if a test fails without any."""
    word = " ".join(sys.argv[1:])
    chosen = {name: mutation for name, mutation in MUTATIONS.items() if word in name}
    survived = []
    for tests in sorted({mutation.tests for mutation in chosen.values()}):
        text = next(iter(MUTATIONS.values())).text
        if is_found(Mutation(WRITING, text, text, tests)):
            print(f"{tests[0]} fails as it is", flush=True)
            survived.append(tests[0])
    for name, mutation in chosen.items():
        found = is_found(mutation)
        print(f"{name:40} {'found' if found else 'SURVIVED'} ({mutation.file})", flush=True)
        survived += [] if found else [name]
    return 1 if survived else 0


def is_found(mutation: Mutation) -> bool:
    """Whether a test fails where the source is changed."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        for part in ("src", "tests", "conf"):
            shutil.copytree(REPOSITORY / part, Path(folder, part))
        shutil.copy(REPOSITORY / "pyproject.toml", folder)
        path = Path(folder, "src", "discern", mutation.file)
        source = path.read_text(encoding="utf-8")
        assert source.count(mutation.text) == 1, f"not once in {mutation.file}: {mutation.text}"
        path.write_text(source.replace(mutation.text, mutation.instead), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-o", "addopts=", *mutation.tests],
            cwd=folder,
            env={
                **os.environ,
                **{"PYTHONPATH": str(Path(folder, "src")), "CI": "true", "OMP_NUM_THREADS": "1"},
            },
            capture_output=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout.decode()[-2000:]
        return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main())
