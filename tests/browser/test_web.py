"""The page of `format=web`: its answers are those of `discern predict`, and what else it does."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import CLIPPED, HOSTILE
from PIL import Image

from discern.commands.predict import classify_files
from discern.data.published import onnxruntime_web
from discern.exports.export import export
from discern.models.card import written
from discern.models.combined import Model
from discern.models.mlp import MLP
from photos import ORIENTATION
from run_files import Convolution

PHONE = {"viewport": {"width": 390, "height": 844}}
WIDE = {"viewport": {"width": 1280, "height": 900}}
CLASSES = ["cat", HOSTILE, "قطة صغيرة", *(f"a rather long name of class {n}" for n in range(9))]
ANSWERED, REFUSED = (f"#answer[data-state={state}]" for state in ("answered", "refused"))
LARGE = "large.jpg"
DONE = f":is({ANSWERED}, {REFUSED})"


# The pages


def model(kind: str) -> Any:
    import torch

    torch.manual_seed(0)
    channels = 1 if kind == "grey" else 3
    shape = (channels, 28, 28) if kind == "grey" else (3, 32, 32)
    network = MLP(shape, 12, (16,)) if kind != "photos" else Convolution(shape, 12, 4)
    photos = {"resize": 40, "interpolation": "bicubic"} if kind == "photos" else {}
    # Sharper than random weights are, so that a wrong pixel shows.
    with torch.no_grad():
        for weights in network.parameters():
            weights *= 3
    network.card = written(
        model={"name": "mlp" if kind != "photos" else "", "settings": {}},
        class_names=CLASSES,
        input_shape=shape,
        preprocessing={"mean": [0.4] * channels, "std": [0.3] * channels, **photos},
        data={"title": "MNIST" if kind == "grey" else HOSTILE},
    )
    return network.eval()


@pytest.fixture(scope="module")
def kept() -> Iterator[None]:
    """A cache with onnxruntime-web, as this machine's user has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISCERN_CACHE_DIR", os.environ["DISCERN_TESTS_KEPT"])
        if not onnxruntime_web.is_kept():
            pytest.skip(
                f"onnxruntime-web {onnxruntime_web.VERSION} is not in the user's cache, and no "
                "test fetches it; `discern export format=web` does"
            )
        yield


@pytest.fixture(scope="module")
def sites(kept, tmp_path_factory) -> Iterator[dict[str, tuple[Any, str]]]:
    """Kind of model -> the model, and the address of its page, in a sub-path of a plain host."""
    root = tmp_path_factory.mktemp("host")
    networks = {kind: model(kind) for kind in ("grey", "colour", "photos")}
    for kind, network in networks.items():
        export(network, root / "some" / kind, format="web")
    with hosted(root) as address:
        yield {kind: (network, f"{address}some/{kind}/") for kind, network in networks.items()}


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def ready(browser: Any, address: str, script: str = "", **context: Any) -> Iterator[Any]:
    """A page that has loaded its model; fails where it logs an error or asks another host."""
    faults: list[str] = []
    around = browser.new_context(**{"service_workers": "block", **context})
    page = around.new_page()
    page.add_init_script(script)
    page.on("console", lambda told: faults.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    origin = address[: address.index("/", 8)]
    page.on("request", lambda asked: faults.append(asked.url) if is_other(asked.url, origin) else 0)
    page.goto(address)
    page.wait_for_selector("#answer[data-state=ready]", timeout=60_000)
    yield page
    around.close()
    assert faults == [], faults


def is_other(url: str, origin: str) -> bool:
    return not url.startswith((f"{origin}/", f"blob:{origin}/", "data:"))


def classified(page: Any, path: Path) -> dict[str, float]:
    """All probabilities that the page shows of a picture."""
    page.set_input_files("#file", path)
    page.wait_for_selector(DONE, timeout=60_000)
    assert page.locator(ANSWERED).count(), page.inner_text("#status")
    if page.get_attribute("#more", "aria-expanded") == "false":
        page.click("#more")
    shares = "(all) => all.map((one) => Number(one.dataset.probability))"
    names = page.locator("#bars .name").all_inner_texts()
    return dict(zip(names, page.locator("#bars li").evaluate_all(shares), strict=True))


# Pictures of every kind


def noise(width: int, height: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(width: int, height: int) -> Image.Image:
    return Image.fromarray(noise(7, 5)).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Pictures of every kind, of which Chromium and discern read the same pixels but for one."""
    folder = tmp_path_factory.mktemp("pictures")
    Image.fromarray(noise(70, 45)).save(folder / "colour.png")
    Image.fromarray(noise(28, 28)[..., 0]).save(folder / "grey.png")
    smooth(300, 40).save(folder / "long.png")
    smooth(1, 1).save(folder / "dot.png")
    light = np.full((60, 50), 250, np.uint8)
    light[20:40, 20:30] = 10
    Image.fromarray(light).save(folder / "dark on light.png")
    smooth(50, 40).quantize(16).save(folder / "palette.png")
    smooth(50, 40).quantize(16).save(folder / "animated.gif")
    Image.fromarray(noise(40, 30)[..., 0] > 127).save(folder / "bits.png")
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    smooth(60, 30).save(folder / "turned.png", exif=turned)
    smooth(31, 17).save(folder / "lossless.webp", lossless=True)
    for orientation in (1, 3, 5, 6, 8):
        turned[ORIENTATION] = orientation
        smooth(96, 64).save(folder / f"{orientation}.jpg", quality=95, exif=turned)
    smooth(64, 64).convert("L").save(folder / "grey.jpg", quality=95)
    half = smooth(60, 60)
    half.putalpha(Image.fromarray(np.tile(np.arange(60, dtype=np.uint8) * 4, (60, 1))))
    half.save(folder / "transparent.png")
    smooth(1600, 800).save(folder / LARGE, quality=95)
    return folder


def predicted(network: Any, folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.iterdir())
    (batch,) = classify_files(files, Model(network, network.card), "auto")
    assert set(batch.reasons.values()) == {None}
    return dict(zip([path.name for path in files], batch.probabilities, strict=True))


@pytest.mark.parametrize("kind", ["grey", "colour", "photos"])
def test_the_answers_are_those_of_discern_predict(browser, sites, pictures, kind):
    network, address = sites[kind]
    with ready(browser, address) as page:
        for name, probabilities in predicted(network, pictures).items():
            found = classified(page, pictures / name)
            gaps = [abs(found[label] - p) for label, p in zip(CLASSES, probabilities, strict=True)]
            # Both reduce it, each in its own way.
            assert max(gaps) < (0.02 if (kind, name) == ("photos", LARGE) else 1e-5), name


# What is not classified


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jpg", b"no picture", "not a picture in a format that this browser reads"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in a format"),
        ("a.png", b"", "not a picture"),
        ("deep.png", np.zeros((9, 9), np.uint16), "16 bits a value"),
        ("wide.png", np.zeros((1, 20_000), np.uint8), "20,000 × 1 pixels, more than"),
        ("many.png", np.zeros((5000, 5000), np.uint8), "more than the 16 million"),
    ],
)
def test_what_is_no_picture_for_the_page_is_refused_in_one_sentence(
    photos_page, tmp_path, name, content, said
):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    photos_page.set_input_files("#file", path)
    photos_page.wait_for_selector(REFUSED, timeout=60_000)
    assert said in photos_page.inner_text("#status")
    assert photos_page.locator("#bars li").count() == 0
    # And it goes on.
    smooth(50, 40).save(tmp_path / "good.png")
    assert sum(classified(photos_page, tmp_path / "good.png").values()) == pytest.approx(
        1, abs=1e-5
    )


@pytest.fixture(scope="module")
def photos_page(browser, sites) -> Iterator[Any]:
    with ready(browser, sites["photos"][1], context_of_camera()) as page:
        yield page


def context_of_camera() -> str:
    """A camera that says of itself what ``window.camera`` is."""
    return """
      window.camera = "NotAllowedError";
      navigator.mediaDevices.getUserMedia = async () => {
        if (typeof window.camera === "string") throw new DOMException("", window.camera);
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [64, 48];
        const context = canvas.getContext("2d");
        setInterval(() => { context.fillStyle = "#c04020"; context.fillRect(0, 0, 64, 48); }, 20);
        return (window.camera = canvas.captureStream());
      };
    """


# Other ways in


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_can_be_dropped_and_pasted(photos_page, event):
    photos_page.evaluate(
        """async (event) => {
          const canvas = new OffscreenCanvas(40, 30);
          canvas.getContext("2d").fillRect(0, 0, 20, 30);
          const data = new DataTransfer();
          data.items.add(new File([await canvas.convertToBlob()], "a.png", { type: "image/png" }));
          const made = event === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(made);
        }""",
        event,
    )
    photos_page.wait_for_selector(ANSWERED, timeout=60_000)
    assert "from 40 × 30" in photos_page.inner_text("#seen-text")
    assert photos_page.locator("#preview").evaluate("(one) => one.decode().then(() => one.width)")


@pytest.mark.parametrize(
    ("event", "said"),
    [("drop", "this page fetches nothing"), ("paste", "no picture in the clipboard")],
)
def test_a_text_that_is_dropped_or_pasted_is_refused(photos_page, event, said):
    photos_page.evaluate(
        """(event) => {
          const data = new DataTransfer();
          data.setData("text/uri-list", "http://127.0.0.1:9/a.png");
          const made = event === "drop"
            ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(made);
        }""",
        event,
    )
    assert said in photos_page.inner_text("#status")
    assert photos_page.locator(REFUSED).count()


def test_a_photo_is_taken_with_the_camera_and_the_camera_is_let_go(photos_page):
    for error, said in (("NotAllowedError", "may not be used"), ("NotFoundError", "No camera")):
        photos_page.evaluate("(error) => { window.camera = error; }", error)
        photos_page.click("#camera")
        photos_page.wait_for_selector(REFUSED)
        assert said in photos_page.inner_text("#status")
    photos_page.evaluate("() => { window.camera = null; }")
    photos_page.click("#camera")
    photos_page.locator("#viewfinder[open]").wait_for()
    photos_page.locator("#video").evaluate(
        "(video) => new Promise((done) => video.videoWidth ? done() : video.onloadeddata = done)"
    )
    photos_page.click("#shoot")
    photos_page.wait_for_selector(ANSWERED, timeout=60_000)
    assert "from 64 × 48" in photos_page.inner_text("#seen-text")
    assert photos_page.locator("#viewfinder[open]").count() == 0
    assert photos_page.evaluate(
        "() => window.camera.getTracks().every((t) => t.readyState === 'ended')"
    )


# Drawing


def ink(page: Any) -> np.ndarray:
    """What the model sees, uint8 (28, 28)."""
    read = "(one) => [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data]"
    return np.array(page.locator("#seen-pixels").evaluate(read), np.uint8)[::4].reshape(28, 28)


def test_a_drawing_is_white_on_black_of_a_digits_size_and_centred_by_its_mass(browser, sites):
    with ready(browser, sites["grey"][1]) as page:
        page.locator("#canvas").scroll_into_view_if_needed()
        box = page.locator("#canvas").bounding_box()
        left, top, side = box["x"], box["y"], box["width"]
        # A small hook in a corner.
        page.mouse.move(left + 0.1 * side, top + 0.1 * side)
        page.mouse.down()
        page.mouse.move(left + 0.1 * side, top + 0.4 * side, steps=5)
        page.mouse.move(left + 0.3 * side, top + 0.4 * side, steps=5)
        page.mouse.up()
        page.wait_for_selector(ANSWERED, timeout=60_000)
        drawn = ink(page).astype(float)
        rows = np.flatnonzero((drawn > 64).any(1))
        assert 19 <= np.ptp(rows) + 1 <= 21
        centre = [(drawn * np.arange(28)[place]).sum() / drawn.sum()
                  for place in (np.s_[:, None], np.s_[None])]  # fmt: skip
        assert centre == pytest.approx([13.5, 13.5], abs=0.5)
        assert "20 × 20 and centred by its mass" in page.inner_text("#seen-text")
        page.click("#undo")
        page.wait_for_selector("#answer[data-state=ready]")
        assert page.locator("#bars li").count() == 0
        assert page.is_disabled("#clear")


def test_a_digit_is_drawn_with_keys_alone(browser, sites):
    with ready(browser, sites["grey"][1]) as page:
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.id") == "canvas"
        assert (
            page.locator("#canvas").evaluate("(one) => getComputedStyle(one).outlineStyle")
            != "none"
        )
        for key in [*8 * ["ArrowUp"], " ", *16 * ["ArrowDown"], " "]:
            page.keyboard.press(key)
        page.wait_for_selector(ANSWERED, timeout=60_000)
        rows, columns = np.nonzero(ink(page) > 64)
        assert np.ptp(rows) >= 18
        assert np.ptp(columns) <= 4
        page.keyboard.press("Delete")
        page.wait_for_selector("#answer[data-state=ready]")


# What a page promises


def test_names_are_shown_and_never_run(browser, sites, pictures):
    with ready(browser, sites["colour"][1]) as page:
        page.set_input_files("#file", pictures / "colour.png")
        page.wait_for_selector(ANSWERED, timeout=60_000)
        assert page.locator("#bars li").count() == 10
        page.click("#more")
        assert set(page.locator("#bars .name").all_inner_texts()) == set(CLASSES)
        assert page.inner_text("h1") == f"mlp on {HOSTILE}"
        assert page.title() == f"mlp on {HOSTILE}"
        assert page.evaluate("() => document.querySelectorAll('script').length") == 3


def test_the_policy_forbids_requests_to_other_hosts_also_to_the_worker(browser, sites):
    _, address = sites["colour"]
    with ready(browser, address) as page:
        policy = page.get_attribute("meta[http-equiv=Content-Security-Policy]", "content")
        assert "default-src 'none'" in policy
        assert "connect-src 'self';" in policy
        assert "unsafe-inline" not in policy
        assert "'unsafe-eval'" not in policy
    around = browser.new_context(service_workers="block")
    page = around.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    other = address.replace("127.0.0.1", "localhost")
    refused = """(url) => new Promise((done) => {
      const tell = (what) => `() => postMessage("${what}")`;
      const code = `fetch("${url}").then(${tell("sent")}, ${tell("refused")})`;
      const blob = new Blob([code], { type: "text/javascript" });
      const worker = new Worker(URL.createObjectURL(blob), { type: "module" });
      worker.onerror = () => done("broken");
      worker.onmessage = ({ data }) => done(data);
    })"""
    assert page.evaluate(refused, other) == "refused"
    assert not any(url.startswith(other) for url in asked)
    around.close()


def test_it_works_without_a_connection_once_it_was_loaded(browser, sites, pictures):
    network, address = sites["grey"]
    expected = predicted(network, pictures)["colour.png"]
    around = browser.new_context()
    page = around.new_page()
    page.goto(address)
    page.wait_for_selector("#answer[data-state=ready]", timeout=60_000)
    page.evaluate("() => navigator.serviceWorker.ready.then(() => true)")
    around.set_offline(True)
    assert classified(page, pictures / "colour.png")[CLASSES[0]] == pytest.approx(
        expected[0], abs=1e-5
    )
    page.reload()
    page.wait_for_selector("#answer[data-state=ready]", timeout=60_000)
    assert classified(page, pictures / "colour.png")[CLASSES[0]] == pytest.approx(
        expected[0], abs=1e-5
    )
    around.close()


@pytest.mark.parametrize("size", [PHONE, {**WIDE, "color_scheme": "dark"}])
@pytest.mark.parametrize("kind", ["grey", "photos"])
def test_nothing_sticks_out_and_keys_reach_everything(browser, sites, pictures, kind, size):
    with ready(browser, sites[kind][1], reduced_motion="reduce", **size) as page:
        page.set_input_files("#file", pictures / LARGE)
        page.wait_for_selector(ANSWERED, timeout=60_000)
        assert page.evaluate(CLIPPED) == []
        width = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(width) <= 0
        reached = set()
        for _ in range(20):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("() => document.activeElement.id"))
        controls = page.locator("button:visible:enabled, select, #canvas").evaluate_all(
            "(all) => all.filter((one) => !one.closest('dialog')).map((one) => one.id)"
        )
        assert set(controls) <= reached
        assert page.get_attribute("#status", "aria-live") == "polite"
        assert page.inner_text("#status").endswith("%")


def test_a_missing_or_incomplete_file_is_named(browser, sites, tmp_path):
    network, _ = sites["grey"]
    export(network, tmp_path / "page", format="web")
    for change, said in (
        (lambda path: path.write_bytes(b"half"), "model.onnx is not the file of this page"),
        (Path.unlink, "model.onnx cannot be loaded: the server answers 404"),
    ):
        change(tmp_path / "page" / "model.onnx")
        with hosted(tmp_path) as address:
            around = browser.new_context(service_workers="block")
            page = around.new_page()
            page.goto(f"{address}page/")
            page.wait_for_selector(REFUSED, timeout=60_000)
            assert said in page.inner_text("#status")
            around.close()


def test_opened_as_a_file_it_says_that_it_needs_a_server(browser, kept, tmp_path):
    export(model("grey"), tmp_path, format="web")
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector(REFUSED)
    assert "python -m http.server" in page.inner_text("#status")
    page.close()
