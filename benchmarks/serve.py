"""`discern serve` under load, beside the same images classified in process.

    python benchmarks/serve.py [--data-dir DIR] [--only lite mlp] [--clients 1 8 64] [--repeats 3]

lite  a head on a frozen EfficientNet-Lite0, on 100 of DIR's photographs of cats and dogs
mlp   the default MLP, on 1,000 test images of Fashion-MNIST as PNG files

The model is trained for a moment and served in a process of its own. `engine` is one loop in this
process that reads the same files from memory, decodes them in a thread a core and classifies them,
at the best of several batch sizes: no service can exceed it by much. Its time of one image is that
at batch size 1. The clients are connections of this process, which send the next image once the
answer to the last one is there; they compete with the service for the cores. Engine and clients are
measured in turn, so that a slow moment of the machine hits them all; figures are medians of the
turns.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from discern.commands import words
from discern.commands.serve import Settings, model_of
from discern.commands.service.model import ServedModel
from discern.data.published.idx import read_idx
from discern.data.published.publication import TEST_IMAGES

PHOTOGRAPHS, CLOTHES = 100, 1_000
BATCHES = (1, 8, 32, 128)

TRAINED = {
    "lite": ["model=efficientnet_lite_transfer", "data=catdog", "trainer.limit_train_batches=2",
             "trainer.limit_val_batches=1"],
    "mlp": ["data=fashion_mnist"],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path(os.environ.get("DISCERN_DATA_DIR", "data"))
    )
    parser.add_argument("--only", nargs="+", choices=TRAINED, default=list(TRAINED))
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of a turn of the clients")
    parser.add_argument("--run", type=Path, help="a run that is there, in the place of training")
    parser.add_argument("--settings", nargs="*", default=[], help="of discern serve")
    options = parser.parse_args()
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            run = options.run or train(name, Path(folder), options.data_dir)
            files = photographs(options.data_dir) if name == "lite" else clothes(options.data_dir)
            measure(name, run, files, options)


def train(name: str, folder: Path, data: Path) -> Path:
    """Train for a moment; the run's folder."""
    command = [*TRAINED[name], f"data.dir='{data.resolve()}'", "trainer.max_epochs=1"]
    command += [
        "trainer.accelerator=cpu",
        "test=false",
        "report=false",
        f"hydra.run.dir={folder}/run",
    ]
    subprocess.run(
        [sys.executable, "-m", "discern", "train", *command], check=True, capture_output=True
    )
    return folder / "run"


def photographs(data: Path) -> list[bytes]:
    """The content of photographs."""
    paths = sorted((data / "Cat_Dog_data" / "test").rglob("*.jpg"))
    return [path.read_bytes() for path in paths[:: max(1, len(paths) // PHOTOGRAPHS)]]


def clothes(data: Path) -> list[bytes]:
    """Images of clothes as PNG files."""
    found = []
    for image in read_idx(data / "FashionMNIST" / "raw" / TEST_IMAGES, 3)[:CLOTHES]:
        file = BytesIO()
        Image.fromarray(image).save(file, "png")
        found.append(file.getvalue())
    return found


def measure(name: str, run: Path, files: list[bytes], options: argparse.Namespace) -> None:
    """Print what engine and service reach."""
    asked = words.read_all(Settings, [f"ckpt_path={run}", *options.settings], "discern serve")
    model = model_of(asked)
    engine: dict[int, list[float]] = {size: [] for size in BATCHES}
    served: dict[int, list[list[float]]] = {count: [] for count in options.clients}
    with serving(run, options.settings) as port:
        for repeat in range(options.repeats + 1):
            for size in BATCHES:
                speed = in_process(model, files, size, options.seconds / 2)
                engine[size] += [speed] if repeat else []  # the first turn warms up
            for count in options.clients:
                seconds = options.seconds if repeat else 1
                found = asyncio.run(load(port, files, count, seconds))
                served[count] += [found] if repeat else []
    speeds = {size: statistics.median(found) for size, found in engine.items()}
    best = max(speeds, key=speeds.__getitem__)
    one = 1000 / speeds[1]
    print(
        f"{name}: engine {speeds[best]:,.1f} images/s in batches of {best}, one image {one:.1f} ms"
    )
    for count, turns in served.items():
        speed = statistics.median(len(each) / options.seconds for each in turns)
        p50, p99 = (
            1000 * statistics.median(float(np.percentile(each, part)) for each in turns)
            for part in (50, 99)
        )
        print(
            f"{name}: {count:3} clients {speed:8,.1f} requests/s, {speed / speeds[best]:.2f} of "
            f"the engine; p50 {p50:.1f} ms, p99 {p99:.1f} ms, {p99 / one:.1f} times one image"
        )


def in_process(model: ServedModel, files: list[bytes], size: int, seconds: float) -> float:
    """Images a second of one loop that decodes a batch in threads, and then classifies it."""
    batches = itertools.cycle(files[start : start + size] for start in range(0, len(files), size))
    count, begun = 0, time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while time.perf_counter() - begun < seconds:
            batch = next(batches)
            read = pool.map(model.read, map(BytesIO, batch))
            model.classify(np.stack([pixels for pixels in read if isinstance(pixels, np.ndarray)]))
            count += len(batch)
    return count / (time.perf_counter() - begun)


@contextmanager
def serving(run: Path, settings: Sequence[str]) -> Iterator[int]:
    """`discern serve` in a process of its own; its port."""
    command = [sys.executable, "-m", "discern", "serve", f"ckpt_path={run}", "port=0", *settings]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match is not None, "the service has not started"
        try:
            yield int(match[1])
        finally:
            process.send_signal(signal.SIGTERM)


async def load(port: int, files: list[bytes], clients: int, seconds: float) -> list[float]:
    """The seconds that each request took of so many clients at once."""
    requests = [
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%s" % (len(f), f)
        for f in files
    ]
    order = itertools.cycle(requests)
    end = time.perf_counter() + seconds
    loop = asyncio.get_running_loop()
    all_clients = [
        (await loop.create_connection(lambda: Client(order, end), "127.0.0.1", port))[1]
        for _ in range(clients)
    ]
    return [took for client in all_clients for took in await client.done]


class Client(asyncio.Protocol):
    """A connection that sends a request after another until a time."""

    def __init__(self, requests: Iterator[bytes], end: float) -> None:
        self._requests = requests
        self._end = end
        self._took: list[float] = []
        self._got = b""
        self.done: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._begun = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Send the next request once the answer is complete."""
        self._got += data
        head, separator, body = self._got.partition(b"\r\n\r\n")
        match = re.search(rb"content-length: (\d+)", head)
        if not separator or match is None or len(body) < int(match[1]):
            return
        assert head.startswith(b"HTTP/1.1 200"), self._got
        self._got = b""
        now = time.perf_counter()
        if now > self._end:  # in flight at the end, and so not counted
            self._transport.close()
            self.done.set_result(self._took)
            return
        self._took.append(now - self._begun)
        self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail, unless it is this end that has closed the connection."""
        if not self.done.done():
            self.done.set_exception(ConnectionError("the service has closed a connection"))


if __name__ == "__main__":
    main()
