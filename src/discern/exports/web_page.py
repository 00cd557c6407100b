"""``format=web``: a page that runs the model in a browser, to be put on any static host.

The folder has the ONNX model, a second one that gives the pixels that the network sees, and
onnxruntime-web. The page asks no other server for anything.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from torch import Tensor, nn

from discern.data.published import onnxruntime_web
from discern.errors import DiscernError
from discern.exports import onnx_file
from discern.exports.bundle import Bundle
from discern.exports.pixels import Prepare
from discern.exports.running import Run
from discern.features.engine_export import weight_bytes
from discern.files.writing import write_whole
from discern.models.card import Card
from discern.models.saved import model_name
from discern.reports.page import PAGES, as_json, asset, render, source_of
from discern.version import __version__

PAGE, PREPARE, SERVICE_WORKER = "index.html", "prepare.onnx", "service-worker.js"

RUNTIME = "onnxruntime"
"""The folder of onnxruntime-web."""

# Named as what every host knows the type of: some take .mjs for a download.
SCRIPT, BINARY, LICENCE = f"{RUNTIME}/ort.js", f"{RUNTIME}/ort.wasm", f"{RUNTIME}/LICENSE.txt"

MAX_WEIGHTS = 2**30
"""Bytes of the weights. WebAssembly has room for 4 GB, which hold the file, the weights as they are
used, and what is computed."""

SEEN = "seen"
"""The output of prepare.onnx."""


@dataclass(frozen=True)
class Drawing:
    """How a drawing, white on black, is handled before the model is given it.

    Attributes:
        title: what there is to draw.
        box: the share of a side that it is scaled to; 0: it stays as it is drawn.
        centred: whether its centre of mass is moved to the middle.
        description: the same for people.
    """

    title: str
    box: float
    centred: bool
    description: str


DIGIT = Drawing(
    "Draw a digit",
    20 / 28,
    True,
    "drawn white on black, scaled to a box of 20 × 20 and centred by its mass, as MNIST’s are",
)

PLAIN = Drawing("Draw", 0, False, "drawn white on black, and used as it is drawn")


class _Seen(nn.Module):
    """Pixels, uint8 (N, H, W, C), of any size, to what the network sees, uint8 (N, S, S, C)."""

    def __init__(self, prepare: Prepare) -> None:
        super().__init__()
        self.prepare = prepare

    def forward(self, pixels: Tensor) -> Tensor:
        return self.prepare.resized(pixels).permute(0, 2, 3, 1)


def write(bundle: Bundle, card: Card, about: Mapping[str, str], folder: Path) -> Path:
    """Write the page, its models and onnxruntime-web.

    Returns:
        The file of the model.

    Raises:
        DiscernError: the model cannot be exported, is too large for a browser, takes pictures that
            are neither grey nor in colour, or onnxruntime-web cannot be fetched.
    """
    _check(bundle, card)
    kept = onnxruntime_web.kept()
    path = onnx_file.write(bundle, card, about, folder)
    prepare = onnx.load_model_from_string(onnx_file.traced(_Seen(bundle.prepare), card, SEEN))
    onnx_file.describe(prepare, {"discern_version": about["discern_version"]})
    with write_whole(folder / PREPARE, "wb") as file:
        file.write(prepare.SerializeToString())
    (folder / RUNTIME).mkdir(exist_ok=True)
    shutil.copyfile(kept / onnxruntime_web.SCRIPT, folder / SCRIPT)
    shutil.copyfile(kept / onnxruntime_web.BINARY, folder / BINARY)
    shutil.copyfile(PAGES / "web" / "ONNXRUNTIME-LICENSE", folder / LICENCE)
    write_page(path, model_name(card), card)
    return path


def run(path: Path, bundle: Bundle) -> Run:
    """The model that was just written to ``path``, in ONNX Runtime outside of a browser."""
    return onnx_file.run(path, bundle)


def _check(bundle: Bundle, card: Card) -> None:
    if card.input_shape[0] not in (1, 3):
        raise DiscernError(
            f"format=web is not possible: the model takes images of {card.input_shape[0]} "
            "channels, and browsers read pictures in grey (1) or colour (3)."
        )
    count = weight_bytes(bundle)
    if count > MAX_WEIGHTS:
        raise DiscernError(
            f"format=web is not possible: the weights take {count:,} bytes, more than the "
            f"{MAX_WEIGHTS:,} that a page has room for; format=onnx takes twice as many."
        )


def write_page(model: Path, name: str, card: Card) -> None:
    """Write index.html and service-worker.js beside a model.

    Args:
        model: the file that the page uses; its folder has all others.
        name: of the model, for people.
        card: of the model.
    """
    folder = model.parent
    files = {"model": model.name, "prepare": PREPARE, "script": SCRIPT, "binary": BINARY}
    drawing = _drawing(card)
    data = {
        "card": {
            "shape": card.input_shape,
            "resize": card.preprocessing.resize,
            "fitted": card.preprocessing.resize is None,
        },
        "classes": card.class_names,
        "drawing": None if drawing is None else asdict(drawing),
        "files": {
            key: {"name": file, "bytes": (folder / file).stat().st_size}
            for key, file in files.items()
        },
    }
    style, web_style, worker = asset("style.css"), asset("web/page.css"), asset("web/worker.js")
    script = asset("web/drawing.js") + asset("web/page.js")
    title = card.data.get("title", "")
    page = render(
        "web.html.j2",
        title=f"{name} on {title}" if title else name,
        lead=f"{len(card.class_names):,} classes.",
        version=__version__,
        runtime=onnxruntime_web.VERSION,
        policy=_policy(script, style, web_style),
        style=style,
        web_style=web_style,
        script=script,
        worker=worker,
        data=as_json(data),
        drawing=drawing,
    )
    with write_whole(folder / PAGE, "wb") as file:
        # A name that is not UTF-8 has lone surrogates.
        file.write(page.encode("utf-8", "backslashreplace"))
    digest = hashlib.sha256(page.encode("utf-8", "backslashreplace"))
    for each in files.values():
        digest.update((folder / each).read_bytes())
    with write_whole(folder / SERVICE_WORKER) as file:
        listed = as_json([*files.values(), LICENCE])
        file.write(
            render("web/service-worker.js.j2", version=digest.hexdigest()[:16], files=listed)
        )


def _drawing(card: Card) -> Drawing | None:
    if card.input_shape[0] != 1:
        return None
    # The images of all published sets of small grey ones are light on dark, Fashion-MNIST's too.
    return DIGIT if card.data.get("title") in ("MNIST", "MNIST sample") else PLAIN


def _policy(script: str, *styles: str) -> str:
    allowed = " ".join(map(source_of, styles))
    return (
        f"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' {source_of(script)}; "
        f"style-src {allowed}; connect-src 'self'; img-src 'self' blob: data:; "
        "media-src blob:; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
    )
