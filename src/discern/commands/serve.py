"""``discern serve``: a saved model behind HTTP."""

from __future__ import annotations

import errno
import importlib.util
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, get_args

from discern.commands import words
from discern.commands.hosts import address_of, is_loopback
from discern.config.schema import Engine
from discern.console import for_terminal, loading, say
from discern.data.costs import SETTING, max_bytes
from discern.errors import DiscernError, not_installed
from discern.files.places import is_there, placed
from discern.runs.folder import find_checkpoint, is_sweep

if TYPE_CHECKING:
    from discern.commands.service.model import ServedModel

HELP = """\
A saved model behind HTTP, until Ctrl-C: POST /predict takes pictures, /docs says how.

Usage: discern serve ckpt_path=FILE [SETTING=VALUE] …

Settings:
  ckpt_path           the model: a checkpoint's path, a run's folder, last for the newest run, best
                      for the best one, or model.onnx of discern export
  host=127.0.0.1      who may use it: only this machine; 0.0.0.0 for anyone who can reach it
  port=8000           the port; 0 for a free one
  engine=auto         the engine that computes a backbone's features, as of discern predict
  invert=auto         auto, true or false: swap dark and light, as of discern predict
  batch=auto          pictures that are classified at a time, at most; auto: the smallest number
                      that is about as fast as more, measured at the start
  wait_ms=4           milliseconds that a picture waits for others, at most
  max_body_mb=32      megabytes of a request, at most
  max_files=64        pictures of a request, at most
  max_picture_mb=128  megabytes of a picture once decoded, at most: 33 megapixels of colour
  max_requests=2048   requests at once, at most
  timeout=30          seconds that a client may take to send a request, and to receive the answer

Try:
  discern serve ckpt_path=best
  curl -F file=@photo.jpg http://127.0.0.1:8000/predict
"""

WARNING = """\
WARNING: host={host} answers anyone who can reach this machine, without a password and in plain \
text; host=127.0.0.1 answers this machine only."""

TOP = 5
"""Classes that an answer lists unless the request says how many."""

PACKAGES = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
"""Modules of the extra ``serve``, and the packages that they are in."""

SWITCH_SECONDS = 0.0005
"""How long a thread that decodes or classifies may keep the one that answers waiting: a tenth of
Python's default, which gives 1.3 to 2 times as many requests a second of small images."""

OPEN_FILES = 8192
"""Connections and files that the process may have open, where the system allows it."""


def _one_of(*choices: str) -> Callable[[str, str], str]:
    def read(name: str, value: str) -> str:
        if value not in choices:
            raise DiscernError(
                f"{name}={for_terminal(value)} must be {', '.join(choices[:-1])} or {choices[-1]}."
            )
        return value

    return read


def _batch(name: str, value: str) -> int | None:
    return None if value == "auto" else words.between(1, 1024)(name, value)


def _inversion(name: str, value: str) -> bool | str:
    return value if value == "auto" else _one_of("auto", "true", "false")(name, value) == "true"


@dataclass(frozen=True)
class Settings:
    """Settings of ``discern serve``."""

    ckpt_path: Annotated[str, words.text] = ""
    host: Annotated[str, words.text] = "127.0.0.1"
    port: Annotated[int, words.between(0, 65_535)] = 8000
    engine: Annotated[str, _one_of(*get_args(Engine))] = "auto"
    invert: Annotated[bool | str, _inversion] = "auto"
    batch: Annotated[int | None, _batch] = None
    wait_ms: Annotated[int, words.between(0, 1000)] = 4
    max_body_mb: Annotated[int, words.between(1, 1024)] = 32
    max_files: Annotated[int, words.between(1, 1024)] = 64
    max_picture_mb: Annotated[int, words.between(1, 2**20)] = 128
    max_requests: Annotated[int, words.between(1, 65_536)] = 2048
    timeout: Annotated[int, words.between(1, 3600)] = 30


def run(arguments: list[str]) -> None:
    """Run ``discern serve`` with these arguments.

    Raises:
        DiscernError: a word is not known, a setting or the checkpoint is wrong, the extra is not
            installed, or the port cannot be served on.
    """
    asked = words.read_all(Settings, arguments, "discern serve")
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise not_installed("discern serve", package, "serve")
    if not asked.ckpt_path:
        raise DiscernError(
            "ckpt_path is missing; it must be a checkpoint's path or a run's folder."
        )
    _check_is_one_model(asked.ckpt_path)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _listening(asked.host, asked.port) as listener:
            _serve(asked, listener)
    except KeyboardInterrupt:  # which uvicorn raises once it has answered what it had begun
        say()


def completions(typed: str) -> list[str]:
    """Words that may follow what was typed after ``discern serve``."""
    return words.starting(typed.rpartition(" ")[2], words.settings_of(Settings))


def _check_is_one_model(ckpt_path: str) -> None:
    """Raise a DiscernError where there is no such model, or several."""
    place = placed(ckpt_path)
    if is_sweep(place) or (ckpt_path.startswith("[") and not is_there(place)):
        raise DiscernError(
            f"ckpt_path={for_terminal(ckpt_path)} is of several models, and discern serve takes "
            "one: a run of them, or the file that discern export makes of all."
        )
    find_checkpoint(ckpt_path)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the host's first address.

    Raises:
        DiscernError: it is in use, or none of this machine's.
    """
    try:
        family, _, _, address = address_of(host, port)
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DiscernError(f"port={port} is in use; port=0 takes a free one.") from error
        raise DiscernError(
            f"host={for_terminal(host)} port={port} cannot be served on: {error.strerror}."
        ) from error


def _serve(asked: Settings, listener: socket.socket) -> None:
    """Answer requests until a signal; raises KeyboardInterrupt then."""
    os.environ[SETTING] = str(asked.max_picture_mb)
    max_bytes()
    with loading("torch"):
        import torch
        import uvicorn

        from discern.commands.service.application import Service
        from discern.commands.service.batches import AT_ONCE
        from discern.commands.service.connection import connection_class
        from discern.commands.service.limits import MB, Limits

    model = model_of(asked)
    # Batches that are classified at once share the cores, and do not wait for each other's threads.
    torch.set_num_threads(max(1, torch.get_num_threads() // AT_ONCE))
    sys.setswitchinterval(SWITCH_SECONDS)
    _allow_open_files()
    limits = Limits(
        body=asked.max_body_mb * MB,
        files=asked.max_files,
        seconds=asked.timeout,
        requests=asked.max_requests,
        top=TOP,
    )

    def started() -> None:
        name = f"[{asked.host}]" if ":" in asked.host else asked.host
        url = f"http://{name}:{listener.getsockname()[1]}"
        if not is_loopback(asked.host):
            print(WARNING.format(host=for_terminal(asked.host)), file=sys.stderr)
        say(f"{model.name} answers at {url}/predict; {url}/docs says how.   (Ctrl-C ends it)")

    batch = asked.batch or model.fast_batch()
    service = Service(model, limits, batch, asked.wait_ms / 1000, asked.host, started)
    config = uvicorn.Config(
        service.application(),
        http=connection_class(asked.timeout),
        ws="none",
        loop="asyncio",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


def model_of(asked: Settings) -> ServedModel:
    """The model as it is served.

    Raises:
        DiscernError: there is none, or it cannot be served with these settings.
    """
    from discern.commands.predict import check_channels, load_model
    from discern.commands.service.model import ServedModel
    from discern.models.card import Card
    from discern.models.saved import undamaged_checkpoint
    from discern.models.threads import use_threads

    checkpoint = undamaged_checkpoint(asked.ckpt_path)
    network = load_model(checkpoint)
    card: Card = network.card  # type: ignore[assignment]
    check_channels(card, checkpoint)
    use_threads(network, card.input_shape)
    if hasattr(network, "backbone") or asked.engine != "auto":
        # torchvision takes half a second to import; other models do not need it.
        from discern.features.engine import MIN_IMAGES, use_engine

        use_engine(network, card.input_shape, asked.engine, MIN_IMAGES)
    return ServedModel(network, card, asked.invert)


def _allow_open_files() -> None:
    """Allow more open files than the 1,024 of many systems, as each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
