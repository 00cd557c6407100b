"""The folder of `format=web` and what is refused; tests/browser/test_web.py opens the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from models_to_export import inverse, mlp, own, with_card

from discern.data.published import onnxruntime_web
from discern.errors import DiscernError
from discern.exports import web_page
from discern.exports.export import export
from discern.exports.onnx_model import load_exported
from discern.models.mlp import MLP

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch) -> Path:
    """A cache with files in the place of onnxruntime-web's, and no npm."""
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "cache" / "onnxruntime-web" / onnxruntime_web.VERSION
    folder.mkdir(parents=True)
    for name in onnxruntime_web.FILES:
        (folder / name).write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in onnxruntime_web.FILES}
    monkeypatch.setattr(onnxruntime_web, "FILES", digests)
    return folder


def data_of(page: str) -> dict[str, object]:
    found = re.search('<script type="application/json" id="data">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_the_folder_has_the_page_the_models_and_the_runtime_with_its_licence(tmp_path):
    out = tmp_path / "out"
    exported = export(mlp(), out, format="web")
    assert exported.path == out / "model.onnx"
    assert load_exported(exported.path).card.class_names == mlp().card.class_names
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "index.html", "model.onnx", "onnxruntime/LICENSE.txt", "onnxruntime/ort.js",
        "onnxruntime/ort.wasm", "prepare.onnx", "service-worker.js",
    ]  # fmt: skip
    assert "MIT License" in (out / "onnxruntime/LICENSE.txt").read_text()
    files = data_of((out / "index.html").read_text("utf-8"))["files"]
    for file in files.values():
        assert (out / file["name"]).stat().st_size == file["bytes"]


def test_the_policy_allows_this_script_and_this_host_alone(tmp_path):
    export(own(), tmp_path / "out", format="web")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    policy = re.search('Content-Security-Policy" content="(.*?)"', page)[1].replace("&#39;", "'")
    (script,) = re.findall('<script type="module">(.*?)</script>', page, re.DOTALL)
    styles = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    for text in (script, *styles):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; script-src 'self' 'wasm-unsafe-eval' 'sha256-")
    assert not re.search("https?:|unsafe-inline|'unsafe-eval'", policy)
    assert not re.findall(r"https?://(?!localhost)\w", page)


def test_names_are_data_and_no_markup(tmp_path):
    network = mlp()
    network.card.class_names[0] = HOSTILE
    network.card.data["title"] = HOSTILE
    export(network, tmp_path / "out", format="web")
    page = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert HOSTILE not in page
    assert data_of(page)["classes"][0] == HOSTILE


@pytest.mark.parametrize(
    ("network", "title", "box"),
    [
        (mlp, "MNIST", pytest.approx(20 / 28)),
        (mlp, "MNIST sample", pytest.approx(20 / 28)),
        (mlp, "Fashion-MNIST", 0),
        (own, "MNIST", None),
    ],
)
def test_grey_models_are_drawn_for_and_digits_as_mnist_has_them(tmp_path, network, title, box):
    made = network()
    made.card.data["title"] = title
    export(made, tmp_path / "out", format="web")
    drawing = data_of((tmp_path / "out" / "index.html").read_text("utf-8"))["drawing"]
    assert (drawing and drawing["box"]) == box


def test_the_kept_copy_of_another_model_has_another_name(tmp_path):
    names = set()
    for number, network in enumerate((mlp(), own(), mlp())):
        export(network, tmp_path / f"{number}", format="web")
        text = (tmp_path / f"{number}" / "service-worker.js").read_text()
        names.add(re.search("const CACHE = (.*);", text)[1])
    assert len(names) == 2


def test_a_model_that_a_browser_has_no_room_or_no_pictures_for_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(web_page, "MAX_WEIGHTS", 1000)
        with pytest.raises(DiscernError, match=r"^format=web is not possible: the weights take"):
            export(mlp(), tmp_path / "out", format="web")
    two = with_card(MLP((2, 8, 8), 4, (4,)), (2, 8, 8), "mlp")
    with pytest.raises(DiscernError, match="takes images of 2 channels"):
        export(two, tmp_path / "out", format="web")
    assert not list((tmp_path / "out").glob("*.html"))


def test_a_network_that_onnx_has_no_operators_for_is_refused_before_a_page_is_made(tmp_path):
    with pytest.raises(DiscernError, match="linalg_inv"):
        export(inverse(), tmp_path / "out", format="web")
    assert not (tmp_path / "out" / "index.html").exists()
