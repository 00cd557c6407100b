"""Files of weights: what is read, what is refused, and how published ones are fetched."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from discern.data.published import fetch as fetch_module
from discern.errors import DiscernError
from discern.models.weights import load_weights, published_file, read_weights
from disk import visible


class Small(nn.Module):
    """A convolution, its normalisation and a layer for the logits."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc: nn.Module = nn.Linear(4, classes)


def stripped() -> Small:
    network = Small()
    network.fc = nn.Identity()
    return network


@pytest.fixture
def whole() -> Small:
    network = Small()
    network.norm.running_mean.uniform_()
    network.norm.num_batches_tracked.fill_(3)
    return network


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "given.pth"


def same(network: nn.Module, state: dict[str, Tensor]) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[key], state[key]) for key in own)


# What is read

WRAPPINGS = {
    "alone": lambda state: state,
    "a plain dictionary": dict,
    "Lightning's": lambda state: {"state_dict": state, "epoch": 3},
    "PyTorch's tutorials'": lambda state: {"model_state_dict": state, "loss": 0.5},
    "torchvision's and DeiT's": lambda state: {"model": state},
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "compiled, then distributed": lambda state: {
        "state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}
    },
    "distributed, then compiled": lambda state: {
        f"_orig_mod.module.{key}": value for key, value in state.items()
    },
    "a checkpoint of transfer learning": lambda state: {
        "state_dict": {
            **{f"backbone.network.{key}": value for key, value in state.items()},
            "head.output.weight": torch.zeros(2, 4),
        }
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("new_format", [True, False])
def test_weights_are_found_in_every_wrapping(wrapping, new_format, whole, path):
    content = WRAPPINGS[wrapping](whole.state_dict())
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    network = stripped()
    load_weights(network, path, ["fc"])
    assert same(network, whole.state_dict())


def test_safetensors_are_read(whole, tmp_path):
    save_file(whole.state_dict(), tmp_path / "given.safetensors")
    network = stripped()
    load_weights(network, tmp_path / "given.safetensors", ["fc"])
    assert same(network, whole.state_dict())


@pytest.mark.parametrize("classes", [1, 10, 1000])
def test_a_head_of_any_size_is_left_aside(classes, path):
    whole = Small(classes)
    torch.save(whole.state_dict(), path)
    network = stripped()
    load_weights(network, path, ["fc"])
    assert same(network, whole.state_dict())


def test_a_head_of_several_layers_is_left_aside_and_none_is_missed(whole, path):
    state = {key: value for key, value in whole.state_dict().items() if "fc" not in key}
    for extra in ({}, {"fc.0.weight": torch.zeros(5, 4), "fc.2.weight": torch.zeros(2, 5)}):
        torch.save({**state, **extra}, path)
        network = stripped()
        load_weights(network, path, ["fc"])
        assert same(network, state)


def test_files_from_before_batches_were_counted_are_whole(whole, path):
    state = {key: value for key, value in whole.state_dict().items() if "num_batches" not in key}
    torch.save(state, path)
    network = stripped()
    load_weights(network, path, ["fc"])
    assert network.norm.num_batches_tracked == 0
    assert torch.equal(network.norm.running_mean, whole.norm.running_mean)


def test_half_precision_becomes_the_network_s(whole, path):
    torch.save(copy.deepcopy(whole).half().state_dict(), path)
    network = stripped()
    load_weights(network, path, ["fc"])
    assert network.conv.weight.dtype == torch.float32
    torch.testing.assert_close(network.conv.weight, whole.conv.weight, atol=1e-3, rtol=1e-3)


def test_the_memory_format_stays_the_network_s(whole, path):
    torch.save(whole.state_dict(), path)
    network = stripped().to(memory_format=torch.channels_last)
    load_weights(network, path, ["fc"])
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(network.conv.weight, whole.conv.weight)


def test_the_old_names_of_densenet_are_read(path):
    """As in densenet121-a639ec97.pth: denselayer1.norm.1.weight, and no counts of batches."""
    new = torchvision.models.DenseNet(8, (2, 2), 8, num_classes=5)
    pattern = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))([12]\.)")
    old = {
        pattern.sub(r"\1.\2", key): value
        for key, value in new.state_dict().items()
        if "num_batches" not in key
    }
    assert "features.denseblock1.denselayer2.norm.1.running_var" in old
    torch.save(old, path)
    network = torchvision.models.DenseNet(8, (2, 2), 8)
    network.classifier = nn.Identity()
    load_weights(network, path, ["classifier"])
    assert same(network, new.state_dict())


def test_the_old_names_of_vision_transformers_are_read(path):
    """As in vit_b_16-c867db91.pth: mlp.linear_1.weight."""
    sizes = (32, 16, 2, 2, 8, 16)
    new = torchvision.models.VisionTransformer(*sizes)
    old = {
        key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): value
        for key, value in new.state_dict().items()
    }
    assert "encoder.layers.encoder_layer_0.mlp.linear_2.bias" in old
    torch.save(old, path)
    network = torchvision.models.VisionTransformer(*sizes)
    load_weights(network, path, [])
    assert same(network, new.state_dict())


# What is refused


def test_layers_that_differ_are_named_with_both_shapes(whole, path):
    state = whole.state_dict()
    state["conv.weight"] = torch.zeros(8, 3, 3, 3)
    del state["norm.weight"]
    state["second.weight"] = torch.zeros(2)
    torch.save(state, path)
    network = stripped()
    before = network.conv.bias.clone()
    with pytest.raises(DiscernError) as refusal:
        load_weights(network, path, ["fc"])
    assert str(refusal.value) == (
        f"model.weights={path} has weights of another architecture: "
        "conv.weight is 8×3×3×3 there and 4×3×3×3 in the backbone; "
        "norm.weight is missing there and 4 in the backbone; "
        "second.weight is 2 there and missing in the backbone."
    )
    assert torch.equal(network.conv.bias, before), "half of the file was loaded"


def test_no_more_than_ten_differing_layers_are_named(whole, path):
    torch.save({f"layer{number}.weight": torch.zeros(2) for number in range(30)}, path)
    with pytest.raises(DiscernError, match=r"; and 26 more\.$") as refusal:
        load_weights(stripped(), path, ["fc"])
    # 30 that the network lacks and 6 of its 7 own, for the count of batches may be missing
    assert str(refusal.value).count(" there and ") == 10


def test_numbers_of_another_kind_are_another_architecture(whole, path):
    whole_numbers = torch.zeros(4, 3, 3, 3, dtype=torch.int8)
    torch.save({**whole.state_dict(), "conv.weight": whole_numbers}, path)
    with pytest.raises(DiscernError, match=r"conv\.weight is 4×3×3×3 of"):
        load_weights(stripped(), path, ["fc"])


def test_numbers_that_are_not_real_are_refused(whole, path):
    torch.save({**whole.state_dict(), "conv.weight": torch.zeros(4, dtype=torch.cfloat)}, path)
    with pytest.raises(DiscernError, match=r"conv\.weight is of torch's ComplexFloatStorage; only"):
        load_weights(stripped(), path, ["fc"])


class Payload:
    """Unpickled without care, this creates a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def saved(what: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(what, out, **options)
    return out.getvalue()


def compressed(data: bytes) -> bytes:
    out = io.BytesIO()
    deflated = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", deflated) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
        new.writestr("bomb", bytes(50_000_000))
    return out.getvalue()


def damaged(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    place = data.index(STATE["conv.weight"].numpy().tobytes()) + 5
    return data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]


STATE = Small().state_dict()

HOSTILE = {
    "a pickle that runs a program": lambda marker: pickle.dumps(Payload(marker)),
    "such a pickle in an archive": lambda marker: saved({"state_dict": Payload(marker)}),
    "one among the weights": lambda marker: saved({**STATE, "a": Payload(marker)}),
    "one in the old format": lambda marker: saved(
        {**STATE, "a": Payload(marker)}, _use_new_zipfile_serialization=False
    ),
    "a whole module": lambda marker: saved(Small()),
    "a list": lambda marker: saved([STATE]),
    "a tensor": lambda marker: saved(torch.zeros(3)),
    "weights that are numbers": lambda marker: saved({"conv.weight": 0.5}),
    "keys that are numbers": lambda marker: saved({0: torch.zeros(3)}),
    "weights that claim terabytes": lambda marker: saved(
        {"conv.weight": torch.zeros(1).expand(10**6, 10**6)}
    ),
    "sparse weights": lambda marker: saved(
        {**STATE, "conv.weight": torch.ones(4, 3, 3, 3).to_sparse()}
    ),
    "weights without numbers": lambda marker: saved(
        {**STATE, "conv.weight": torch.empty(4, 3, 3, 3, device="meta")}
    ),
    "a flipped bit": lambda marker: flipped(saved(STATE)),
    "half a file": lambda marker: damaged(saved(STATE)),
    "half a file in the old format": lambda marker: damaged(
        saved(STATE, _use_new_zipfile_serialization=False)
    ),
    "an empty file": lambda marker: b"",
    "a text": lambda marker: b"state_dict: yes\n",
    "a zip bomb": lambda marker: compressed(saved(STATE)),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused_and_does_nothing(kind, suffix, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / f"given{suffix}"
    path.write_bytes(HOSTILE[kind](marker))
    with pytest.raises(DiscernError) as refusal:
        load_weights(stripped(), path, ["fc"])
    assert str(refusal.value).startswith(f"model.weights={path} ")
    assert "\n" not in str(refusal.value)
    assert not marker.exists(), "the file's code ran"


def test_half_of_a_safetensors_file_is_refused(whole, tmp_path):
    path = tmp_path / "given.safetensors"
    save_file(whole.state_dict(), path)
    path.write_bytes(damaged(path.read_bytes()))
    with pytest.raises(DiscernError, match=r"^model\.weights=.* is not a whole safetensors file: "):
        read_weights(path)


@pytest.mark.parametrize("there", ["nothing", "a folder"])
def test_no_file_is_said(tmp_path, there):
    path = tmp_path / "given.pth"
    if there == "a folder":
        path.mkdir()
    with pytest.raises(DiscernError, match=r"is not a file; it must be default, null, or a file"):
        read_weights(path)


# Published files

CONTENT = b"weights" * 100
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class _Server(ThreadingHTTPServer):
    body = CONTENT
    stall = False
    requests = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == f"/{NAME}" else 404)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()

    def do_GET(self) -> None:
        self.server.requests += 1
        self.do_HEAD()
        self.wfile.write(self.server.body[:200])
        self.wfile.flush()
        if self.server.stall:
            threading.Event().wait(2)
        self.wfile.write(self.server.body[200:])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with _Server(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that torch.hub keeps checkpoints in."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_a_published_file_is_downloaded_once(server, hub):
    for _ in range(2):
        found = published_file(f"{address(server)}/{NAME}")
        assert found == hub / NAME
        assert found.read_bytes() == CONTENT
    assert server.requests == 1


def test_a_file_that_is_not_the_published_one_gets_no_name(server, hub):
    server.body = CONTENT[:-1] + b"x"
    with pytest.raises(DiscernError, match=r"^model\.weights=default needs .*SHA-256 starts with"):
        published_file(f"{address(server)}/{NAME}")
    assert visible(hub) == set()


def test_a_kept_file_that_is_another_is_not_read(server, hub):
    hub.mkdir(parents=True)
    (hub / NAME).write_bytes(b"other")
    with pytest.raises(DiscernError, match=r"is not the file expected: .* delete it") as refusal:
        published_file(f"{address(server)}/{NAME}")
    assert str(hub / NAME) in str(refusal.value)
    assert server.requests == 0


def test_a_server_that_falls_silent_is_given_up(server, hub, monkeypatch):
    monkeypatch.setattr(fetch_module, "_STALL_SECONDS", 0.3)
    server.stall = True
    with pytest.raises(DiscernError, match="timed out"):
        published_file(f"{address(server)}/{NAME}")
    assert not (hub / NAME).exists()


@pytest.mark.parametrize("fault", ["no server", "no such file", "a folder that is none"])
def test_a_file_that_cannot_be_had_is_named_with_its_place_and_the_way_out(server, hub, fault):
    url, name = f"{address(server)}/{NAME}", NAME
    if fault == "no server":
        server.server_close()
    elif fault == "no such file":
        url, name = f"{address(server)}/other-{NAME}", f"other-{NAME}"
    else:
        hub.parent.write_bytes(b"")
    with pytest.raises(DiscernError) as refusal:
        published_file(url)
    message = str(refusal.value)
    assert message.startswith(f"model.weights=default needs {name}, which cannot be downloaded (")
    assert f"to be put at {hub / name}, or choose model=efficientnet_lite_transfer" in message
