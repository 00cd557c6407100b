"""A stranger's ONNX file is checked before it is run: a model, or one sentence."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models_to_export import mlp
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from discern.errors import DiscernError
from discern.exports import about, onnx_model
from discern.exports.export import export
from discern.exports.onnx_model import load_exported
from discern.runs.summary import memory_bytes
from starter import begin, end, said

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> bytes:
    return export(mlp(), tmp_path_factory.mktemp("export")).path.read_bytes()


def changed(written: bytes, path: Path, change: Change) -> Path:
    model = onnx.load_model_from_string(written)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"


def outside_in_a_constant(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Constant")
    entry = node.attribute[0].t.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def custom(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("evil", 1))
    model.graph.node[0].domain = "evil"


def custom_without_import(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Exec"


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["a"], ["b"], body=body))


def function(model: onnx.ModelProto) -> None:
    model.functions.append(
        helper.make_function("", "Relu", ["x"], ["y"], [], [helper.make_opsetid("", 18)])
    )


def huge_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[:] = [2**40, 2**40]


def huge_made_tensor(model: onnx.ModelProto) -> None:
    shape = helper.make_tensor("huge", TensorProto.INT64, [2], [2**20, 2**20])
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["huge"], ["bomb"]))


def huge_listed_tensor(model: onnx.ModelProto) -> None:
    shape = helper.make_node("Constant", [], ["huge"], value_ints=[2**20, 2**20])
    made = helper.make_node("ConstantOfShape", ["huge"], ["bomb"])
    for node in (made, shape):
        model.graph.node.insert(0, node)


def huge_tensor_whose_shape_cuts_too(model: onnx.ModelProto) -> None:
    huge_made_tensor(model)
    model.graph.node.insert(0, helper.make_node("Split", ["pixels", "huge"], ["a", "b"], axis=3))


def many_nodes(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["pixels"], ["x"])
    model.graph.node.extend([node] * 50)


def deep(model: onnx.ModelProto) -> None:
    inner = helper.make_graph([], "inner", [], [])
    for _ in range(9):
        node = helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
        inner = helper.make_graph([node], "inner", [], [])
    model.graph.node.append(
        helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    )


def metadata(key: str, value: str | None) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kept = {prop.key: prop.value for prop in model.metadata_props} | {key: value or ""}
        del model.metadata_props[:]
        if value is None:
            del kept[key]
        helper.set_model_props(model, kept)

    return change


def card(**changes: object) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for prop in model.metadata_props:
            if prop.key == "card":
                prop.value = json.dumps({**json.loads(prop.value), **changes})

    return change


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 3


REFUSED: dict[str, tuple[Change, str]] = {
    "weights in another file": (outside, "in another file"),
    "a constant in another file": (outside_in_a_constant, "in another file"),
    "an operator of a library": (custom, "operators of evil"),
    "an operator of a domain that is not imported": (custom_without_import, "of com.microsoft"),
    "an operator that does not exist": (unknown_operator, "Exec is not an operator"),
    "a loop": (loop, "loop"),
    "a function": (function, "functions of its own"),
    "a tensor of 2 ** 80 numbers": (huge_tensor, "more than"),
    "a shape of 2 ** 40 numbers": (huge_made_tensor, "makes a tensor of more than"),
    "a shape in a list": (huge_listed_tensor, "makes a tensor of more than"),
    "a shape that says where to cut": (huge_tensor_whose_shape_cuts_too, "makes a tensor of more"),
    "branches in branches": (deep, "nested too deeply"),
    "metadata that nobody knows": (metadata("run_me", "rm -rf"), "run_me"),
    "no description": (metadata("discern_format", None), "does not say what model"),
    "a later format": (metadata("discern_format", "2"), "format 2"),
    "other classes": (metadata("class_names", '["a"]'), "two different lists"),
    "classes that are no JSON": (metadata("class_names", "[" * 100_000), "JSON"),
    "a temperature of nothing": (metadata("temperature", "0"), "temperature"),
    "a temperature of no number": (metadata("temperature", "nan"), "temperature"),
    "a card with a setting too many": (card(run="x"), "run"),
    "a card with a path": (card(config={"data": {"_target_": "../../x"}}), "_target_"),
    "a card of another shape": (card(input_shape=[1, 2**20, 2**20]), "input_shape"),
    "an input of other pixels": (other_input, "does not take pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_in_a_sentence(written, tmp_path, monkeypatch, name):
    def never(*_: object) -> None:
        raise AssertionError("it was given to the runtime")

    monkeypatch.setattr(onnx_model, "session", never)
    change, reason = REFUSED[name]
    path = changed(written, tmp_path / "model.onnx", change)
    with pytest.raises(DiscernError, match=reason) as refused:
        load_exported(path)
    assert "\n" not in str(refused.value)


def test_lengths_of_many_parts_are_no_shape(written, tmp_path):
    """As those of Res2Net's eight parts, whose product is larger than any tensor."""

    def parts(model: onnx.ModelProto) -> None:
        weight = numpy_helper.from_array(np.zeros(8 * 14, np.float32), "whole")
        lengths = numpy_helper.from_array(np.full(8, 14), "lengths")
        model.graph.initializer.extend([weight, lengths])
        names = [f"part{number}" for number in range(8)]
        model.graph.node.append(helper.make_node("Split", ["whole", "lengths"], names, axis=0))

    load_exported(changed(written, tmp_path / "model.onnx", parts))


def test_too_many_operators_are_refused(written, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "MAX_NODES", 20)
    path = changed(written, tmp_path / "model.onnx", many_nodes)
    with pytest.raises(DiscernError, match="more than 20 operators"):
        load_exported(path)


def test_a_file_of_too_many_bytes_is_not_read(written, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "MAX_BYTES", 100)
    path = changed(written, tmp_path / "model.onnx", lambda model: None)
    with pytest.raises(DiscernError, match="larger than 100 bytes"):
        load_exported(path)


def test_the_file_itself_is_read(written, tmp_path):
    """The negative control: without a change the same path gives a model."""
    path = changed(written, tmp_path / "model.onnx", lambda model: None)
    model = load_exported(path)
    assert model(np.zeros((2, 28, 28, 1), np.uint8)).shape == (2, 4)


SPLIT = {
    "seed": 0, "val_size": 0.1, "test_size": None, "folds": None, "fold": 0, "fraction": 1.0,
}  # fmt: skip


def packed(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.mark.parametrize(
    "images",
    ["no base64", "bm8gemxpYg==", packed(b"no tensors"), packed(bytes(2**20))],
    ids=["no base64", "not packed", "no tensors", "more than there may be"],
)
def test_images_of_a_run_that_are_none_are_refused(written, tmp_path, monkeypatch, images):
    monkeypatch.setattr(about, "MAX_IMAGES_BYTES", 2**16)

    def change(model: onnx.ModelProto) -> None:
        card(split=SPLIT)(model)
        metadata("known_images", images)(model)

    path = changed(written, tmp_path / "model.onnx", change)
    with pytest.raises(DiscernError, match="does not record its training images as expected"):
        load_exported(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x08\x07" * 500, b"{}"])
def test_junk_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(DiscernError):
        load_exported(path)


def test_damaged_bytes_give_a_model_or_a_sentence(written, tmp_path):
    generator = np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    refused = []
    for _ in range(25):
        damaged = bytearray(written)
        for place in generator.integers(0, len(damaged), 20):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            load_exported(path)(np.zeros((1, 28, 28, 1), np.uint8))
        except DiscernError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in sentence for sentence in refused)


def test_a_file_that_is_missing_or_a_folder_is_a_sentence(tmp_path):
    for path in (tmp_path / "no.onnx", tmp_path):
        with pytest.raises(DiscernError, match="cannot be read"):
            load_exported(path)


def doubled(model: onnx.ModelProto) -> None:
    """Have it compute 800 MB of pixels in vain, of which it adds none to the probabilities."""
    graph, last = model.graph, model.graph.node[-1]
    (end,) = (output.name for output in graph.output)
    place = next(i for i, name in enumerate(last.output) if name == end)
    last.output[place] = "before"
    twice = [helper.make_node("Concat", [f"x{i}"] * 2, [f"x{i + 1}"], axis=0) for i in range(18)]
    graph.node.extend(
        [
            helper.make_node("Cast", [graph.input[0].name], ["x0"], to=TensorProto.FLOAT),
            *twice,
            helper.make_node("ReduceMin", ["x18"], ["least"], keepdims=0),
            helper.make_node("Mul", ["least", "nothing"], ["zero"]),
            helper.make_node("Add", ["before", "zero"], [end]),
        ]
    )
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))


def test_a_file_takes_no_more_than_a_share_of_the_memory(written, tmp_path):
    path = changed(written, tmp_path / "model.onnx", doubled)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "digit.png")
    words = ("predict", f"ckpt_path={path}", "input=digit.png", "invert=false")
    changes = {"discern.exports.onnx_model": {"MEMORY_SHARE": 2**28 / memory_bytes()}}
    assert end(begin(tmp_path, *words, changes=changes)) == 1
    assert "model.onnx cannot be run: " in said(tmp_path)
    assert "Traceback" not in said(tmp_path)


def test_too_many_pixels_at_once_are_refused(written, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "MAX_PIXELS", 100)
    model = load_exported(changed(written, tmp_path / "model.onnx", lambda model: None))
    with pytest.raises(DiscernError, match="more than 100"):
        model(np.zeros((1, 28, 28, 1), np.uint8))
