"""Try discern's commands on many hostile and damaged files, and say what went wrong.

    python tests/hostile/many.py [--cases 10500] [--seed 0] [--only checkpoints …]

What went wrong is printed, and its files are kept in the folder that the last line names.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from random import Random

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))

from hostile import cards, folders, pickles, pictures  # noqa: E402
from hostile.checkpoints import damaged  # noqa: E402
from hostile.guard import Case, Outcome, allow, outcomes  # noqa: E402

TINY = ("data.source=sample", "model.hidden=[8]", "trainer.limit_train_batches=2",
        "trainer.limit_val_batches=2", "trainer.limit_test_batches=2", "trainer.accelerator=cpu",
        "logger=csv", "data.num_workers=0")  # fmt: skip


@dataclass
class Honest:
    """What an honest user has, of which hostile files are made.

    Attributes:
        run: the folder of a run of an MLP on MNIST's sample.
        sweep: of a sweep of two such.
        picture: a file that can be classified.
    """

    run: Path
    sweep: Path
    picture: Path


def make_honest(folder: Path) -> Honest:
    """Train a tiny network, in a process of its own."""
    from PIL import Image

    for arguments in (
        [f"hydra.run.dir={folder}/run"],
        ["-m", f"hydra.sweep.dir={folder}/sweep", "optimizer.lr=1e-3,1e-2"],
    ):
        subprocess.run(
            [sys.executable, "-m", "discern", "train", *TINY, "trainer.max_epochs=1", *arguments],
            check=True, stdout=subprocess.DEVNULL, cwd=folder,
        )  # fmt: skip
    Image.new("L", (28, 28), 200).save(folder / "digit.png")
    return Honest(folder / "run", folder / "sweep", folder / "digit.png")


def checkpoints(honest: Honest, random: Random) -> Iterator[Case]:
    """Files that are no whole checkpoints."""
    good = (honest.run / "checkpoints" / "best.safetensors").read_bytes()
    for name, content in damaged(good, random):
        command = random.choice(of_a_checkpoint(honest))
        yield Case(name, writes("x.safetensors", content), command)


def of_a_checkpoint(honest: Honest) -> tuple[tuple[str, ...], ...]:
    """The commands that read one."""
    return (
        ("evaluate", "ckpt_path={}/x.safetensors"),
        ("predict", "ckpt_path={}/x.safetensors", f"input={honest.picture}"),
        ("train", "ckpt_path={}/x.safetensors", *TINY, "trainer.max_epochs=2"),
        ("train", "model.init_from={}/x.safetensors", *TINY, "trainer.max_epochs=1"),
    )


def strange_cards(honest: Honest, random: Random) -> Iterator[Case]:
    """Whole checkpoints that say what no run would."""
    from discern.models.checkpoint import write
    from discern.models.saved import read

    good = read(honest.run / "checkpoints" / "best.safetensors")

    def made(seed: int) -> Callable[[Path], None]:
        return lambda folder: write(cards.changed(good, seed)[1], folder / "x.safetensors")

    # discern's own writer needs weights: what lacks them is among the damaged files.
    seeds = count(random.randrange(10**9))
    for number in (seed for seed in seeds if "state_dict" in cards.changed(good, seed)[1]):
        yield Case(f"card {number}", made(number), random.choice(of_a_checkpoint(honest)))


def of_folders(honest: Honest) -> tuple[tuple[str, ...], ...]:
    """The commands that read folders of runs and sweeps."""
    return (
        ("report", "{}/run"),
        ("report", "{}/sweep"),
        ("runs", "dir={}"),
        ("runs", "dir={}", "--json"),
        ("runs", "prune", "keep=0", "yes=true", "dir={}"),
        ("compare", "{}/run", str(honest.run), "out=compared"),
        ("compare", "{}/sweep", "out=compared"),
        ("evaluate", "ckpt_path={}/run"),
        ("predict", "ckpt_path={}/run", f"input={honest.picture}"),
        ("train", "ckpt_path={}/run", *TINY, "trainer.max_epochs=2"),
        ("train", "-m", "sweep.resume={}/sweep"),
        ("train", "experiment={}/sweep/best.yaml", *TINY, "trainer.max_epochs=1"),
    )


def folders_of_runs(honest: Honest, random: Random) -> Iterator[Case]:
    """Runs and sweeps of strangers, looked at with every command."""

    def made(seed: int) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            luck = Random(seed)
            for source in (honest.run, honest.sweep):
                number = luck.randrange(1000)
                folders.variant(source, folder / source.name, folder.parent / "bait", luck, number)

        return make

    for number in count(random.randrange(10**9)):
        yield Case(f"folder {number}", made(number), random.choice(of_folders(honest)))


def of_pictures(honest: Honest) -> tuple[tuple[str, ...], ...]:
    """The commands that read pictures."""
    return (
        ("predict", f"ckpt_path={honest.run}", "input={}"),
        ("inspect", "data=image_folder", "data.dir={}"),
        ("train", "data=image_folder", "data.dir={}", "data.image_size=28", *TINY[1:],
         "trainer.max_epochs=1"),
    )  # fmt: skip


def odd_pictures(honest: Honest, random: Random) -> Iterator[Case]:
    """Damaged pictures, many at a time, and small ones that ask for gigabytes, one at a time."""
    commands = of_pictures(honest)
    damaged_ones, bombs = pictures.damaged(random.randrange(10**9)), list(pictures.bombs())
    while True:
        several = list(islice(damaged_ones, 40))
        command = random.choice(commands)
        yield Case("damaged pictures", in_classes(several), command, len(several))
        bomb = random.choice(bombs)
        yield Case(bomb[0], in_classes([bomb]), random.choice(commands[:2]))


def in_classes(files: list[tuple[str, bytes]]) -> Callable[[Path], None]:
    """Makes a folder of two classes with these files among good ones."""

    def make(folder: Path) -> None:
        from PIL import Image

        for label in ("cat", "dog"):
            (folder / label).mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (9, 9), (number, 0, 0)).save(folder / label / f"{number}.png")
        for number, (name, content) in enumerate(files):
            suffix = "" if "." in name else ".png"
            (folder / ("cat", "dog")[number % 2] / f"{name}{suffix}").write_bytes(content)

    return make


def foreign_pickles(honest: Honest, random: Random) -> Iterator[Case]:
    """Files of ``torch.save`` that nobody's torch has written."""
    commands = (
        ("predict", "ckpt_path={}/x.pth", f"input={honest.picture}"),
        ("evaluate", "ckpt_path={}/x.pth"),
        ("train", "model.init_from={}/x.pth", *TINY, "trainer.max_epochs=1"),
        ("train", "model=densenet_transfer", "model.weights={}/x.pth", *TINY[0:1], *TINY[2:]),
    )
    for name, content in pickles.endless(random):
        yield Case(name, writes("x.pth", content), random.choice(commands))
        if random.random() < 0.2:
            number = random.randrange(20)
            yield Case(f"payload {number}", has_payload(number), random.choice(commands))


def has_payload(number: int) -> Callable[[Path], None]:
    """Makes a file whose pickle would make a folder among private files."""

    def make(folder: Path) -> None:
        every = [content for _, content in pickles.payloads(str(folder.parent / "bait" / "made"))]
        (folder / "x.pth").write_bytes(every[number % len(every)])

    return make


def writes(name: str, content: bytes) -> Callable[[Path], None]:
    """Makes a folder's only file."""
    return lambda folder: void((folder / name).write_bytes(content))


def void(_: object) -> None:
    """Nothing, of something."""


KINDS: dict[str, Callable[[Honest, Random], Iterator[Case]]] = {
    "checkpoints": checkpoints,
    "cards": strange_cards,
    "pickles": foreign_pickles,
    "folders": folders_of_runs,
    "pictures": odd_pictures,
}


def cases(honest: Honest, seed: int, only: list[str]) -> Iterator[Case]:
    """Of each kind in turn, without end where the kind has none."""
    streams = [KINDS[kind](honest, Random(f"{seed} {kind}")) for kind in only]
    return chain.from_iterable(zip(*streams, strict=False))


def warm_up(honest: Honest, folder: Path) -> None:
    """Run each command on an honest user's files, so that the forks have nothing left to import.

    Raises:
        SystemExit: one failed; what it would say of hostile files would mean nothing.
    """
    from discern.commands.cli import main as run_command

    given = folder / "given"
    in_classes([])(given)
    shutil.copytree(honest.run, given / "run")
    shutil.copytree(honest.sweep, given / "sweep")
    shutil.copy(honest.run / "checkpoints" / "best.safetensors", given / "x.safetensors")
    pruned = shutil.copytree(honest.run, folder / "pruned" / "run").parent
    with chdir(folder):
        for words in (*of_a_checkpoint(honest), *of_folders(honest), *of_pictures(honest)):
            inside = pruned if "prune" in words else given
            command = [word.replace("{}", str(inside)) for word in words]
            printed = io.StringIO()
            try:
                with redirect_stdout(printed), redirect_stderr(printed):
                    run_command(command)
            except SystemExit as end:
                if end.code:
                    sys.exit(f"{command} failed: {printed.getvalue()[-500:]}{end.code}")


def share(
    honest: Honest,
    mine: Iterator[Case],
    folder: Path,
    told: multiprocessing.Queue[Outcome | None],
) -> None:
    """Run the cases of one process."""
    from starter import _import_everything

    _import_everything()
    folder.mkdir()
    try:
        warm_up(honest, folder / "honest")
        for outcome in outcomes(mine, folder):
            told.put(outcome)
    finally:
        told.put(None)


def main() -> int:
    """Run, print what was wrong, and say how many cases of each kind there were."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    cache = folder / "cache"
    os.environ |= {"DISCERN_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1", "HOME": str(folder)}
    honest = make_honest(folder)
    allow(cache, folder / "tmp")
    (folder / "tmp").mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
    context = multiprocessing.get_context("fork")
    told: multiprocessing.Queue[Outcome | None] = context.Queue()
    for number in range(options.processes):
        every = cases(honest, options.seed, options.only)
        mine = islice(every, number, options.cases, options.processes)
        context.Process(target=share, args=(honest, mine, folder / str(number), told)).start()
    return summarize(told, options.processes, folder)


def summarize(told: multiprocessing.Queue[Outcome | None], processes: int, folder: Path) -> int:
    """Print as outcomes come; the exit status."""
    began, count, files, wrong = time.monotonic(), 0, 0, 0
    statuses: Counter[int] = Counter()
    slowest = largest = 0.0
    while processes:
        outcome = told.get()
        if outcome is None:
            processes -= 1
            continue
        count, files = count + 1, files + outcome.files
        statuses[outcome.status] += 1
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.megabytes)
        if outcome.wrong:
            wrong += 1
            print(
                f"{outcome.name}: {outcome.command}\n  {outcome.wrong}\n  {outcome.printed[-300:]}"
            )
        if count % 1000 == 0:
            print(
                f"{count} cases, {files} files, {wrong} wrong, {time.monotonic() - began:.0f} s",
                flush=True,
            )
    print(
        f"{count} cases, {files} files: {wrong} wrong; exit statuses {dict(statuses)}; "
        f"at most {slowest:.1f} s and {largest:.0f} MB; in {folder}"
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
