from __future__ import annotations

from collections import Counter, OrderedDict
from itertools import islice
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from discern.errors import DiscernError
from discern.models.checkpoint import UnwritableError, read, write
from hostile.checkpoints import damaged, sealed

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip

KEYS = st.text(max_size=6) | st.integers(-5, 5) | st.none() | st.booleans()
TENSORS = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=3)).map(
    lambda made: torch.arange(torch.Size(made[1]).numel()).reshape(made[1]).to(made[0])
)
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | TENSORS
)  # fmt: skip
TREES = st.recursive(
    PLAIN,
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.lists(parts, max_size=3).map(tuple)
        | st.dictionaries(KEYS, parts, max_size=3)
        | st.sets(st.integers() | st.text(max_size=3), max_size=3)
        | st.dictionaries(st.integers(), st.integers(), max_size=3).map(Counter)
    ),
    max_leaves=12,
)


def same(one: Any, other: Any) -> bool:
    """Whether two trees are equal in types and values, NaN being itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


@settings(max_examples=60)
@given(st.dictionaries(st.text(min_size=1, max_size=6), TREES, max_size=4), TENSORS)
def test_what_is_written_is_read(tree, weight):
    tree.pop("state_dict", None)
    content = {"state_dict": {"hidden.0.weight": weight, "a/b": weight}, **tree}
    with TemporaryDirectory() as folder:
        write(content, Path(folder) / "x.safetensors")
        again = read(Path(folder) / "x.safetensors")
    for part in (again, content):
        part["state_dict"] = dict(sorted(part["state_dict"].items()))
    assert same(dict(sorted(again.items())), dict(sorted(content.items())))


def saved(path: Path) -> Path:
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1}]}
    content = {
        "state_dict": OrderedDict(weight=weight, tied=weight, across=weight.T),
        "optimizer_states": [state],
        "loss": float("nan"),
    }
    write(content, path)
    return path


def test_the_networks_tensors_have_their_names_for_whoever_has_no_discern(tmp_path):
    tensors = load_file(saved(tmp_path / "x.safetensors"))
    assert torch.equal(tensors["weight"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(tensors["across"], tensors["weight"].T)
    assert "optimizer_states/0/state/0/exp_avg" in tensors


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (8, 3, 1, 1), (8, 1, 3, 3), (1, 1, 1, 1)])
def test_the_order_of_an_optimizers_numbers_in_memory_is_kept(tmp_path, shape):
    count = torch.Size(shape).numel()
    state = torch.arange(1.0 * count).reshape(shape).to(memory_format=torch.channels_last)
    for order in (state, state.permute(1, 0, 3, 2), state[:, :1]):
        content = {"state_dict": {"w": order}, "optimizer": {"exp_avg": order}}
        write(content, tmp_path / "x.safetensors")
        found = read(tmp_path / "x.safetensors")
        for again in (found["optimizer"]["exp_avg"], found["state_dict"]["w"]):
            assert torch.equal(again, order)
            assert again.stride() == order.stride() or order.shape[1] < shape[1]
        assert torch.equal(load_file(tmp_path / "x.safetensors")["optimizer/exp_avg"], order)


def test_no_bit_may_be_another(tmp_path):
    whole = saved(tmp_path / "x.safetensors").read_bytes()
    path = tmp_path / "flipped.safetensors"
    for bit in range(0, 8 * len(whole), 7):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(DiscernError, match=r"flipped\.safetensors is "):
            read(path)


def test_no_byte_may_be_missing_or_added(tmp_path):
    whole = saved(tmp_path / "x.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for data in (*(whole[:end] for end in range(0, len(whole), 13)), whole + b"\0"):
        path.write_bytes(data)
        with pytest.raises(DiscernError, match=r"cut\.safetensors is "):
            read(path)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Path("x"), "callbacks.mine of the checkpoint is a pathlib."),
        (object(), "callbacks.mine of the checkpoint is a builtins.object"),
        (b"bytes", "callbacks.mine of the checkpoint is a builtins.bytes"),
        ([{"a": lambda: 1}], "callbacks.mine.0.a of the checkpoint is a builtins.function"),
        (
            torch.zeros(2).to_sparse(),
            "callbacks/mine of the checkpoint is a tensor of torch.sparse",
        ),
        (torch.zeros(2, dtype=torch.complex64), "is a tensor of torch.complex64"),
        (torch.zeros(2, device="meta"), "is a tensor of device meta"),
    ],
)
def test_what_has_no_place_in_a_file_is_named_and_leaves_the_file_before(tmp_path, value, told):
    path = saved(tmp_path / "x.safetensors")
    before = path.read_bytes()
    with pytest.raises(UnwritableError) as refused:
        write({"state_dict": {}, "callbacks": {"mine": value}}, path)
    assert told in str(refused.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "tree",
    [
        "[]", "3", "{", "null", '{"a":{"$other":1}}', '{"a":{"$tensor":"none"}}',
        '{"a":{"$tensor":[1]}}', '{"a":{"$strided":["weight",[1]]}}',
        '{"a":{"$float":"1e9"}}', '{"a":{"$dict":[1]}}',
        '{"a":{"$dict":[[[1],2]]}}', '{"a":{"$set":[[1]]}}', '{"a":{"$tuple":1}}',
        '{"a":{"$tuple":[],"b":1}}', '{"a":{"$counter":[["x",{}],["y"]]}}',
        '{"a":' + "[" * 100 + "]" * 100 + "}", '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"strides":{},"a":"\\ud800"}', '{"strides":{},"\\udfff":1}',
        '{"a":1,"a":2}', '{"a":1e999}', '{"a":NaN}', '{"a":{"$dict":[[{"$tuple":[[1]]},2]]}}',
        '{"a":{"$set":[{"$tuple":[{"$tuple":[]}]}]}}', '{"a":[' + "{}," * 5_000_000 + "1]}",
        '{"a":' + "9" * 100_000 + "}", '{"a":[' + "1," * 1_100_000 + "1]}",
    ],
)  # fmt: skip
def test_a_description_that_is_none_is_refused(tmp_path, tree):
    path = tmp_path / "x.safetensors"
    path.write_bytes(sealed(tree))
    with pytest.raises(DiscernError, match=r"x\.safetensors is not a checkpoint"):
        read(path)


def test_a_file_that_one_made_on_purpose_is_refused_or_holds_what_its_size_allows(tmp_path):
    whole = saved(tmp_path / "x.safetensors").read_bytes()
    path = tmp_path / "made.safetensors"
    for name, content in islice(damaged(whole, Random(1)), 1500):
        path.write_bytes(content)
        found, refusal = read_or_refused(path)
        if found is None:
            assert refusal.startswith(str(path)), name
            assert "\n" not in refusal, name
        else:
            assert not name.startswith(("bit", "cut", "longer")), name
            assert sum(each.nbytes for each in found["state_dict"].values()) <= len(content)


def read_or_refused(path: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        return read(path), ""
    except DiscernError as error:
        return None, str(error)


def test_a_tensor_is_named_once(tmp_path):
    described = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    tree = '{"strides":{},"a":{"$tensor":"w"},"b":{"$tensor":"w"}}'
    (tmp_path / "x.safetensors").write_bytes(sealed(tree, described, bytes(8)))
    with pytest.raises(DiscernError, match="names a tensor twice"):
        read(tmp_path / "x.safetensors")


def test_a_truth_is_0_or_1(tmp_path):
    described = {"w": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}
    (tmp_path / "x.safetensors").write_bytes(sealed('{"strides":{}}', described, b"\1\2"))
    with pytest.raises(DiscernError, match="a boolean in it is neither 0 nor 1"):
        read(tmp_path / "x.safetensors")


def test_what_is_beside_the_tensors_has_room(tmp_path):
    with pytest.raises(UnwritableError, match="its file has room for"):
        write({"state_dict": {}, "mine": "x" * (1 << 24)}, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []
