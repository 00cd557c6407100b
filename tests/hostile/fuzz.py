"""Fuzz a reader of files, guided by what lines its inputs reach; needs ``pip install atheris``.

    python tests/hostile/fuzz.py TARGET -max_total_time=600

Any exception but discern's own is a finding, as is an input that takes more than five seconds or
1 GB. The inputs that a search begins with are made anew; what it finds interesting stays in
``.fuzz/TARGET``, and an input that is a finding in the working directory.
"""

from __future__ import annotations

import copy
import io
import json
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import atheris
import torch

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))

with atheris.instrument_imports(include=["discern"]):
    from discern.data.published.idx import parse_idx
    from discern.data.tables import Files, read_table
    from discern.errors import DiscernError
    from discern.models import checkpoint
    from discern.models.saved import rebuilt
    from discern.runs.folder import read_run
    from discern.sweeps.ledger import Ledger

from hostile.checkpoints import ODD, TREES, with_digest  # noqa: E402


def codec(data: bytes) -> None:
    """A checkpoint's header and body; its digest is right."""
    length, rest = int.from_bytes(data[:2], "little"), data[2:]
    path = FOLDER / "x.safetensors"
    path.write_bytes(with_digest(rest[:length], rest[length:]))
    checkpoint.read(path)


def codec_seeds() -> Iterable[bytes]:
    """Honest files with each of the odd descriptions."""
    path = FOLDER / "seed.safetensors"
    checkpoint.write({"state_dict": {"w": torch.ones(2, 3)}, "epoch": 1, "a": [{"b": (1,)}]}, path)
    good = path.read_bytes()
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    digest = header["__metadata__"]["sha256"]
    for tree in (header["__metadata__"]["discern"], *TREES):
        header["__metadata__"]["discern"] = tree[:2000]
        text = json.dumps(header, separators=(",", ":")).replace(digest, "0" * 64).encode()
        yield len(text).to_bytes(2, "little") + text + good[8 + length :]


WEIGHTS = {
    "hidden.0.weight": torch.zeros(8, 784), "hidden.0.bias": torch.zeros(8),
    "output.weight": torch.zeros(2, 8), "output.bias": torch.zeros(2),
}  # fmt: skip


def card(data: bytes) -> None:
    """What a checkpoint says of its model, as JSON."""
    try:
        said = json.loads(data)
        json.dumps(said, ensure_ascii=False).encode()  # what the codec lets through
    except (ValueError, RecursionError):
        return
    rebuilt(Path("x.safetensors"), {"discern": said, "state_dict": dict(WEIGHTS)})


def card_seeds() -> Iterable[bytes]:
    """An honest card, and others with one part that is odd."""
    good: dict[str, Any] = {
        "format": 1, "model": {"name": "mlp", "settings": {"hidden": [8], "dropout": 0.0}},
        "class_names": ["a", "b"], "input_shape": [1, 28, 28],
        "preprocessing": {"mean": 0.5, "std": 0.5}, "data": {"title": "MNIST"},
        "metrics": {"val/loss": 0.5}, "versions": {"torch": "2"}, "config": {"seed": 3},
    }  # fmt: skip
    yield json.dumps(good).encode()
    for key in good:
        for odd in ODD:
            yield json.dumps({**good, key: odd}).encode()


def idx(data: bytes) -> None:
    """A file of digits."""
    for dimensions in (1, 3):
        try:
            parse_idx(io.BytesIO(data), len(data), "x", dimensions)  # type: ignore[arg-type]
        except DiscernError:
            continue


def idx_seeds() -> Iterable[bytes]:
    """Honest files, also compressed."""
    import gzip

    images = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 3) + bytes(18)
    labels = struct.pack(">HBBI", 0, 8, 1, 2) + bytes(2)
    yield from (images, labels, gzip.compress(images), gzip.compress(labels))


def csv(data: bytes) -> None:
    """A table of files and labels."""
    path = FOLDER / "x.csv"
    path.write_bytes(data)
    read_table(path, Files(path, FOLDER, {".png"}))


def csv_seeds() -> Iterable[bytes]:
    """Tables in several dialects."""
    for name in ("a.png", "b.png"):
        (FOLDER / name).touch()
    yield b"file,label\na.png,cat\nb.png,dog\n"
    yield b"sep=;\nfile;label;split\na.png;cat;train\nb.png;dog;test\n"
    yield "\ufefffile\tcat\tdog\na\t1\t0\nb\t0\t1\n".encode("utf-16")
    yield b'"file","label"\n"a.png","x ""y"""\n'


def sweep(data: bytes) -> None:
    """The list of a sweep's jobs, and the facts of one of them."""
    (FOLDER / "sweep.json").write_bytes(data)
    (FOLDER / "summary.json").write_bytes(data)
    read_run(FOLDER)
    Ledger.load(FOLDER)


def sweep_seeds() -> Iterable[bytes]:
    """An honest list, and others with one part that is odd."""
    job = {"number": 0, "name": "lr=0.1", "overrides": {"optimizer.lr": "0.1"}}
    good: dict[str, Any] = {
        "format": 1, "arguments": ["optimizer.lr=0.1,0.2"], "search": None,
        "objectives": [{"metric": "val/loss", "direction": "minimize"}], "jobs": [job],
    }  # fmt: skip
    yield json.dumps(good).encode()
    for odd in (*ODD, "..", "/etc", "a/b"):
        yield json.dumps({**good, "jobs": [{**job, "name": odd}]}).encode()


def other_json(data: bytes, size: int, seed: int) -> bytes:
    """A document with one part that is another; a change of bytes alone would seldom be JSON."""
    random = Random(seed)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict | list):
        document = {"": document}
    holders = [document]
    for holder in holders:
        parts = holder.values() if isinstance(holder, dict) else holder
        holders += [part for part in parts if isinstance(part, dict | list)]
    holder = random.choice(holders)
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    if keys and random.random() < 0.2:
        del holder[random.choice(keys)]
    elif keys:
        key = random.choice(keys)
        kinds = (random.choice(ODD), random.choice(holders), [holder[key]], str(holder[key]))
        holder[key] = copy.deepcopy(random.choice(kinds))
    made = json.dumps(document).encode()
    return made if len(made) <= size else data


def other_bytes(data: bytes, size: int, seed: int) -> bytes:
    """As libFuzzer changes them."""
    return atheris.Mutate(data, size)  # type: ignore[no-any-return]


def other_checkpoint(data: bytes, size: int, seed: int) -> bytes:
    """A checkpoint's header changed as a document, or its bytes."""
    length = int.from_bytes(data[:2], "little")
    header, body = data[2 : 2 + length], data[2 + length :]
    if seed % 4 == 0:
        return other_bytes(data, size, seed)
    if seed % 4 == 1:
        header = other_json(header, size - len(body) - 2, seed)
    else:
        try:
            whole = json.loads(header)
            tree = whole["__metadata__"]["discern"].encode()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return other_bytes(data, size, seed)
        whole["__metadata__"]["discern"] = other_json(tree, size // 2, seed).decode()
        header = json.dumps(whole, separators=(",", ":")).encode()
    return len(header).to_bytes(2, "little") + header + body if len(header) < 2**16 else data


Maker = Callable[[], Iterable[bytes]]
Mutator = Callable[[bytes, int, int], bytes]
TARGETS: dict[str, tuple[Callable[[bytes], None], Maker, Mutator]] = {
    "codec": (codec, codec_seeds, other_checkpoint),
    "card": (card, card_seeds, other_json),
    "sweep": (sweep, sweep_seeds, other_json),
    "idx": (idx, idx_seeds, other_bytes),
    "csv": (csv, csv_seeds, other_bytes),
}


def main() -> None:
    """Write the seeds and search."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        raise SystemExit(f"{__doc__}\nTARGET is one of {', '.join(TARGETS)}.")
    name = sys.argv.pop(1)
    target, seeds, mutator = TARGETS[name]
    corpus = Path(".fuzz") / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (corpus / f"seed{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        try:
            target(data)
        except DiscernError as error:
            if "\n" in str(error):
                raise ValueError(f"not one line: {error}") from error

    limits = ["-timeout=5", "-rss_limit_mb=3000", "-max_len=8000"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(corpus)], once, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
