"""Engines: the same features as PyTorch's, faster; and PyTorch where there is nothing faster."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.vision_transformer import VisionTransformer

from discern.data.preprocessing import Preprocessing
from discern.errors import DiscernError
from discern.features import engine as engines
from discern.features import engine_choice as engines_choice
from discern.features import engine_export as engines_export
from discern.features.engine import ENGINES, Engine, engine_for, version_class
from discern.files.cache import cache_dir
from discern.models.libraries import LIBRARIES, Stripped
from discern.models.transfer import TransferClassifier

SHAPE = (3, 64, 64)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Where what the engines keep is."""
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))
    return cache_dir() / "engines"


def needs(name: str) -> None:
    # Not imported here: see the test of what importing openvino tells.
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def classifier(
    backbone: str = "tiny",
    library: str = "torchvision",
    shape: tuple[int, int, int] = SHAPE,
    **settings: Any,
) -> TransferClassifier:
    torch.manual_seed(0)
    network = TransferClassifier(
        shape, 2, library=library, backbone=backbone, **{"weights": None, **settings}
    )
    return scattered(network).train()


def scattered(network: TransferClassifier) -> TransferClassifier:
    """With statistics that batch normalisation does not begin with."""
    if network.backbone.provenance.weights is None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 2)
    return network


def expected(network: TransferClassifier, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network.backbone(network.prepared(images))


def assert_agree(engine: Engine, network: TransferClassifier, images: Tensor) -> None:
    found, right = engine(images), expected(network, images)
    assert found.shape == right.shape
    assert found.dtype == torch.float32
    assert right.std() > 0
    assert float((found - right).abs().max()) <= 1e-4 * float(right.abs().max())


# A library of networks made here

NETWORKS: dict[str, Any] = {}


def made_here(network: type[nn.Module]) -> type[nn.Module]:
    NETWORKS[network.__name__.lower()] = network
    return network


@made_here
class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, stride=4)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.convolution(images)).relu().mean((2, 3))


@made_here
class Counting(Tiny):
    """Gives other features whenever it is called."""

    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        Counting.calls += 1
        return super().forward(images) * Counting.calls


@made_here
class Rare(Tiny):
    """Computes what ONNX has no operator for."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(super().forward(images))


@made_here
class Nothing(Tiny):
    """All features are zero, as those of a network of dead units."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).clamp(max=0)


@made_here
class Attention(VisionTransformer):
    """A vision transformer, whose attention PyTorch fuses in evaluation."""

    def __init__(self) -> None:
        super().__init__(64, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
        self.heads = nn.Identity()


class MadeHere:
    def names(self) -> list[str]:
        return list(NETWORKS)

    def preprocessing(self, name: str) -> Preprocessing:
        return Preprocessing(64, 64, "bilinear", (0.5,) * 3, (0.5,) * 3)

    def random(self, name: str) -> Stripped:
        return Stripped(NETWORKS[name](), ())


@pytest.fixture(autouse=True)
def networks_made_here(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "here", MadeHere)


def tiny(backbone: str = "tiny", **settings: Any) -> TransferClassifier:
    return classifier(backbone, library="here", **settings)


# The features


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("library", "backbone"),
    [
        ("torchvision", "densenet121"),
        ("torchvision", "resnet18"),
        ("torchvision", "mobilenet_v3_small"),
        ("torchvision", "efficientnet_b0"),
        ("torchvision", "squeezenet1_1"),
        ("torchvision", "shufflenet_v2_x0_5"),
        ("torchvision", "convnext_tiny"),
        ("torchvision", "swin_t"),
        ("timm", "test_resnet"),
        ("timm", "test_convnext"),
        ("timm", "test_efficientnet"),
        ("here", "attention"),
    ],
)
def test_features_are_torch_s_whatever_the_size_of_the_batch(name, library, backbone):
    needs(name)
    network = classifier(backbone, library)
    engine = engine_for(network, SHAPE, name, threads=1)
    assert engine.name == name
    for count in (1, 3, 8, 2):
        assert_agree(engine, network, torch.randn(count, *SHAPE))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("library", "backbone", "side"),
    [("efficientnet_lite", "efficientnet_lite0", 224), ("timm", "test_vit", 160)],
)
def test_features_of_trained_weights_and_of_a_size_that_must_be(name, library, backbone, side):
    needs(name)
    shape = (3, side, side)
    weights = "default" if library == "efficientnet_lite" else None
    network = classifier(backbone, library, shape, weights=weights)
    engine = engine_for(network, shape, name, threads=1)
    for count in (1, 3, 8):
        assert_agree(engine, network, torch.randn(count, *shape))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 64, 96), (3, 65, 70)])
def test_images_are_prepared_as_the_network_does(name, shape):
    needs(name)
    network = tiny(shape=shape)
    engine = engine_for(network, shape, name)
    assert_agree(engine, network, torch.randn(3, *shape))
    layouts = torch.randn(3, *shape).contiguous(memory_format=torch.channels_last)
    assert_agree(engine, network, layouts)
    assert_agree(engine, network, torch.randn(3, shape[0], shape[2], shape[1]).transpose(2, 3))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_features_of_an_image_do_not_depend_on_its_batch(name):
    needs(name)
    network = classifier("mobilenet_v3_small")
    images = torch.randn(5, *SHAPE)
    together = engine_for(network, SHAPE, name, threads=2)(images)
    alone = engine_for(network, SHAPE, name, threads=1)
    for image, features in zip(images, together, strict=True):
        assert torch.equal(alone(image[None])[0], features)


@pytest.mark.parametrize("name", ENGINES)
def test_no_image_has_no_features(name):
    needs(name)
    assert engine_for(tiny(), SHAPE, name)(torch.empty(0, *SHAPE)).shape == (0, 8)


@pytest.mark.parametrize("name", ENGINES)
def test_features_are_ordinary_whatever_is_in_force_around(name):
    needs(name)
    network = tiny()
    images = torch.randn(4, *SHAPE)
    right = expected(network, images)
    with torch.inference_mode():
        inside = engine_for(network, SHAPE, name)(images.clone())
    given = engine_for(network, SHAPE, name)(images.clone().requires_grad_())
    for features in (inside, given):
        assert not features.is_inference()
        assert not features.requires_grad
        torch.testing.assert_close(features, right, rtol=1e-4, atol=1e-5)
        features.add_(0)
        cross_entropy(network.head(features), torch.tensor([0, 1, 0, 1])).backward()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_autocast_does_not_reach_the_engine(name):
    needs(name)
    network = tiny()
    engine = engine_for(network, SHAPE, name)
    images = torch.randn(4, *SHAPE)
    with torch.autocast("cpu", torch.bfloat16):
        features = engine(images)
    torch.testing.assert_close(features, expected(network, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_engine_follows_the_weights(name):
    needs(name)
    network = tiny()
    engine = engine_for(network, SHAPE, name)
    images = torch.randn(2, *SHAPE)
    before = engine(images)
    network.backbone.load_state_dict(tiny().backbone.state_dict())
    with torch.no_grad():
        network.backbone.network.norm.running_mean.add_(1)
    assert_agree(engine, network, images)
    assert not torch.equal(engine(images), before)


def test_starting_an_engine_leaves_all_else_as_it_was():
    network = tiny("attention")
    digest, modes = network.backbone.digest(), [m.training for m in network.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    engine_for(network, SHAPE, "onnxruntime")(torch.zeros(1, *SHAPE))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.backends.mha.get_fastpath_enabled() == fused
    assert network.backbone.digest() == digest
    assert [m.training for m in network.modules()] == modes
    assert not any(p.requires_grad for p in network.backbone.parameters())


def test_a_copy_of_a_network_shares_its_engine():
    network = tiny()
    network.engine = engine_for(network, SHAPE, "onnxruntime")
    images = torch.randn(2, *SHAPE)
    network.engine(images)
    again = copy.deepcopy(network)
    assert again.engine is network.engine
    assert torch.equal(again.engine(images), network.engine(images))


def test_importing_openvino_tells_nobody():
    needs("openvino")
    engine_for(tiny(), SHAPE, "openvino")(torch.zeros(1, *SHAPE))
    assert "openvino_telemetry" not in sys.modules
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__.endswith("stub")


OPENVINO = """
import sys, threading
import onnxruntime

telemetry = sys.modules.get("openvino_telemetry", "may be imported")
compiled, requests = [], []

class Request:
    def __init__(self, session):
        self.session, self.thread = session, threading.current_thread()
        requests.append(self)

    def infer(self, inputs):
        assert self.thread is threading.current_thread(), "a request serves one thread"
        names = [each.name for each in self.session.get_inputs()]
        return self.session.run(None, dict(zip(names, inputs)))

class Compiled:
    def __init__(self, model, device, settings):
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        compiled.append((device, settings))

    def create_infer_request(self):
        return Request(self.session)

class Core:
    def read_model(self, file):
        return file.read()

    def compile_model(self, *arguments):
        return Compiled(*arguments)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package ``openvino`` with what discern asks of it, which has ONNX Runtime compute."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "openvino.py").write_text(OPENVINO)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    del sys.modules["openvino"]


def test_openvino_computes_float32_with_a_request_for_each_thread_and_tells_nobody(stand_in):
    network = tiny()
    engine = engine_for(network, SHAPE, "openvino", threads=2)
    for count in (1, 8):
        assert_agree(engine, network, torch.randn(count, *SHAPE))
    openvino = sys.modules["openvino"]
    ((device, settings),) = openvino.compiled
    assert device == "CPU"
    assert settings["INFERENCE_PRECISION_HINT"] == "f32"
    assert settings["INFERENCE_NUM_THREADS"] == settings["NUM_STREAMS"] == 2
    assert 1 <= len(openvino.requests) <= 2
    assert openvino.telemetry is None
    assert "openvino_telemetry" not in sys.modules


# What is kept


def kept(folder: Path) -> Path:
    (path,) = folder.glob("*.onnx")
    return path


def forbid_export(monkeypatch) -> None:
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("exported again"))


def test_an_exported_backbone_is_used_again(folder, monkeypatch):
    engine_for(tiny(), SHAPE, "onnxruntime").start()
    forbid_export(monkeypatch)
    assert_agree(engine_for(tiny(), SHAPE, "onnxruntime"), tiny(), torch.randn(2, *SHAPE))


def test_another_size_or_other_weights_are_another_file(folder):
    network = tiny()
    engine_for(network, SHAPE, "onnxruntime").start()
    engine_for(network, (3, 80, 80), "onnxruntime").start()
    nn.init.normal_(network.backbone.network.convolution.weight)
    engine_for(network, SHAPE, "onnxruntime").start()
    assert len(list(folder.glob("*.onnx"))) == 3


def test_backbones_not_used_for_the_longest_go(folder, monkeypatch):
    for number, side in enumerate((64, 72, 80)):
        engine_for(tiny(), (3, side, side), "onnxruntime").start()
        os.utime(exported(folder, side), (1e9 + number, 1e9 + number))
    engine_for(tiny(), (3, 64, 64), "onnxruntime").start()  # which is now used last
    monkeypatch.setattr(engines_export, "MAX_BYTES", 2.5 * exported(folder, 64).stat().st_size)
    engine_for(tiny(), (3, 88, 88), "onnxruntime").start()
    sides = [side for side in (64, 72, 80, 88) if exported(folder, side).exists()]
    assert sides == [64, 88]
    assert len(list(folder.glob("*.sha256"))) == 2
    monkeypatch.setattr(engines_export, "MAX_BYTES", 0)
    engine_for(tiny(), (3, 96, 96), "onnxruntime").start()
    assert list(folder.glob("*.onnx")) == [exported(folder, 96)], "the one in use is kept"


def exported(folder: Path, side: int) -> Path:
    """The file of the backbone for images of that size."""
    found = [*folder.glob(f"*-{side}x{side}-*.onnx"), folder / "none"]
    return found[0]


def with_a_bit_flipped_in_a_weight(content: bytes) -> bytes:
    """Which changes it by too little to be seen in the features."""
    values = onnx.load_model_from_string(content).graph.initializer[0].raw_data
    start = content.index(values)
    return content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :]


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
        lambda path: path.write_bytes(with_a_bit_flipped_in_a_weight(path.read_bytes())),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_name(path.name + ".sha256").unlink(),
        lambda path: path.with_name(path.name + ".sha256").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_file_is_made_anew(folder, harm):
    network = tiny()
    engine_for(network, SHAPE, "onnxruntime").start()
    path = kept(folder)
    content = path.read_bytes()
    harm(path)
    assert_agree(engine_for(network, SHAPE, "onnxruntime"), network, torch.randn(2, *SHAPE))
    assert path.read_bytes() == content


def seal(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(digest)


def with_file_beside(model: onnx.ModelProto, secret: Path) -> None:
    """A model that has its bias read from another file."""
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [8])
    secret.write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=secret.name)


def with_file_in_a_branch(model: onnx.ModelProto, secret: Path) -> None:
    """The same in a constant of an operator's own graph."""
    secret.write_bytes(b"\0" * 4)
    tensor = onnx.TensorProto(data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=secret.name)
    constant = onnx.helper.make_node("Constant", [], ["inner"], value=tensor)
    inner = onnx.helper.make_tensor_value_info("inner", 1, [1])
    branch = onnx.helper.make_graph([constant], "branch", [], [inner])
    truth = onnx.helper.make_tensor("truth", onnx.TensorProto.BOOL, [], [True])
    model.graph.initializer.append(truth)
    node = onnx.helper.make_node(
        "If", ["truth"], ["unused"], then_branch=branch, else_branch=branch
    )
    model.graph.node.append(node)


def with_an_operator_of_others(model: onnx.ModelProto, secret: Path) -> None:
    model.opset_import.add(domain="ai.onnx.contrib", version=1)


@pytest.mark.parametrize(
    "change", [with_file_beside, with_file_in_a_branch, with_an_operator_of_others]
)
def test_a_kept_model_makes_no_engine_read_other_files(folder, change, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # from where an engine reads what a model in memory names
    network = tiny()
    engine_for(network, SHAPE, "onnxruntime").start()
    path = kept(folder)
    content = path.read_bytes()
    model = onnx.load_model_from_string(content)
    change(model, tmp_path / "secret")
    seal(path, model.SerializeToString())
    assert_agree(engine_for(network, SHAPE, "onnxruntime"), network, torch.randn(2, *SHAPE))
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"nothing of the kind", b"", b"\x08\x01"])
def test_what_is_no_model_but_has_its_checksum(folder, content):
    network = tiny()
    engine_for(network, SHAPE, "onnxruntime").start()
    seal(kept(folder), content)
    assert_agree(engine_for(network, SHAPE, "onnxruntime"), network, torch.randn(2, *SHAPE))


def test_features_of_another_model_in_the_file_are_found_out(folder):
    network = tiny()
    engine_for(network, SHAPE, "onnxruntime").start()
    path = kept(folder)
    content = path.read_bytes()
    model = onnx.load_model_from_string(content)
    tensor = next(t for t in model.graph.initializer if list(t.dims) == [8])
    tensor.raw_data = torch.ones(8).numpy().tobytes()
    seal(path, model.SerializeToString())
    assert_agree(engine_for(network, SHAPE, "onnxruntime"), network, torch.randn(2, *SHAPE))
    assert path.read_bytes() == content


@pytest.mark.parametrize("setting", ["onnxruntime", "auto"])
def test_without_a_cache_folder_it_works(setting, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "file"))
    network = tiny()
    assert_agree(engine_for(network, SHAPE, setting), network, torch.randn(2, *SHAPE))


# The choice


def the_fastest_is(monkeypatch, name: str) -> list[str]:
    """Have the measurement find so; what was measured."""
    measured: list[str] = []

    def fastest(engines, images):
        assert images.shape[1:] == SHAPE
        measured.extend(engines)
        for engine in engines.values():
            engine(images)
        return name, dict.fromkeys(engines, 1.0)

    monkeypatch.setattr(engines, "fastest", fastest)
    return measured


@pytest.mark.parametrize("name", engines.AUTOMATIC)
def test_auto_measures_once_and_remembers(name, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    network = tiny()
    measured = the_fastest_is(monkeypatch, name)
    engine = engine_for(network, SHAPE)
    assert engine.name == name
    assert engine.version_class == version_class(name)
    assert measured == list(engines.AUTOMATIC)
    assert len(caplog.messages) == 1
    measured.clear()
    again = engine_for(network, SHAPE)
    assert (again.name, measured) == (name, [])
    assert_agree(again, network, torch.randn(2, *SHAPE))
    assert len(caplog.messages) == 1
    engine_for(network, SHAPE, threads=7)
    assert measured, "another number of threads was not measured"


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"engine": 3}', '{"engine": "tensorrt"}', '{"engine": ["torch"]}', "[" * 9**6],
)
def test_a_memory_that_makes_no_sense_is_made_anew(content, folder, monkeypatch):
    network = tiny()
    measured = the_fastest_is(monkeypatch, "torch")
    engine_for(network, SHAPE)
    (path,) = folder.glob("choice-*.json")
    path.write_text(content)
    measured.clear()
    assert engine_for(network, SHAPE).name == "torch"
    assert measured
    assert '"torch"' in path.read_text()


def test_the_one_with_the_most_images_a_second_is_the_fastest(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(engines_choice.time, "perf_counter", lambda: now[0])

    def taking(*seconds: float):
        batches = iter(seconds)

        def engine(images: Tensor) -> Tensor:
            now[0] += next(batches)
            return images

        return engine

    # The first batch, in which an engine makes its preparations, does not count.
    contestants = {"one": taking(0.1, 0.5, 0.5, 0.5), "two": taking(9.0, 0.2, 0.9, 0.3)}
    name, speeds = engines_choice.fastest(contestants, torch.zeros(6, 1, 2, 2))
    assert name == "two"
    assert speeds["one"] == pytest.approx(12)


@pytest.mark.parametrize(
    ("backbone", "why"),
    [("rare", "bessel"), ("counting", "differ from PyTorch")],
)
def test_a_backbone_that_an_engine_cannot_run_is_torch_s(backbone, why, caplog, capfd):
    network = tiny(backbone)
    caplog.set_level(logging.WARNING)
    engine = engine_for(network, SHAPE)
    assert engine.name == "torch"
    assert engine(torch.randn(2, *SHAPE)).shape == (2, 8)
    lines = [m for m in caplog.messages if "onnxruntime" in m]
    assert len(lines) == 1
    assert why in lines[0]
    assert backbone in lines[0]
    assert "\n" not in lines[0]
    assert capfd.readouterr().out == ""
    caplog.clear()
    assert engine_for(network, SHAPE).name == "torch"
    assert not caplog.messages
    with pytest.raises(DiscernError, match=f"engine=onnxruntime cannot run {backbone}: .*{why}"):
        engine_for(network, SHAPE, "onnxruntime")(torch.randn(2, *SHAPE))


def test_an_engine_that_was_chosen_and_now_fails_leaves_it_to_torch(monkeypatch, caplog):
    network = tiny()
    the_fastest_is(monkeypatch, "onnxruntime")
    engine_for(network, SHAPE)
    engine = engine_for(network, SHAPE)
    caplog.clear()
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: 1 / 0)
    for _ in range(2):
        assert_agree(engine, network, torch.randn(2, *SHAPE))
    assert caplog.messages == [
        "engine=onnxruntime cannot run tiny: division by zero. PyTorch runs it."
    ]


def test_features_that_are_all_zero_are_right():
    network = tiny("nothing")
    assert not engine_for(network, SHAPE, "onnxruntime")(torch.randn(2, *SHAPE)).any()


# What is refused


def test_a_setting_that_does_not_exist():
    with pytest.raises(DiscernError, match=r"engine=tensorrt is not allowed; it must be auto, "):
        engine_for(tiny(), SHAPE, "tensorrt")


@pytest.mark.parametrize(
    ("name", "package", "remedy"),
    [
        ("onnxruntime", "onnxruntime", "pip install onnxruntime onnx"),
        ("onnxruntime", "onnx", "pip install onnxruntime onnx"),
        ("openvino", "openvino", r"pip install 'discern\[openvino\]'"),
    ],
)
def test_an_engine_that_is_not_installed(name, package, remedy, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, package, None)
    message = f"engine={name} needs the package {package}, which is not installed; {remedy}"
    with pytest.raises(DiscernError, match=message):
        engine_for(tiny(), SHAPE, name)
    measured = the_fastest_is(monkeypatch, "torch")
    assert engine_for(tiny(), SHAPE).name == "torch"
    assert name not in measured
    assert not caplog.messages


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda n: n.unfreeze("last_block"), "model.unfreeze=last_block trains the backbone"),
        (lambda n: n.to("meta"), "the backbone is on meta"),
        (lambda n: n.double(), "weights are float64"),
    ],
)
def test_what_torch_alone_can_run(change, why):
    network = tiny()
    change(network)
    assert engine_for(network, SHAPE).name == "torch"
    with pytest.raises(DiscernError, match=f"engine=onnxruntime is not possible, for .*{why}"):
        engine_for(network, SHAPE, "onnxruntime")


def test_a_backbone_too_large_for_onnx(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(engines, "MAX_WEIGHT_BYTES", 100)
    assert engine_for(tiny(), SHAPE).name == "torch"
    assert len(caplog.messages) == 1
    assert "2 GB" in caplog.messages[0]
    with pytest.raises(DiscernError, match="2 GB"):
        engine_for(tiny(), SHAPE, "onnxruntime")


def test_version_classes_name_what_can_change_the_numbers():
    import onnxruntime

    major, minor = onnxruntime.__version__.split(".")[:2]
    assert version_class("onnxruntime").startswith(f"onnxruntime-{major}.{minor}-")
    assert len({version_class(name) for name in ENGINES}) == len(ENGINES)
