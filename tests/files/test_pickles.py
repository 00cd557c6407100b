"""The process that reads pickles: what it gives, and what becomes of one that fails."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from discern.errors import DiscernError
from discern.files import pickles
from hostile.pickles import archive, nested, plain
from run_files import environment

ENDLESS = archive(b"}" + nested(170) + plain(1) + b"s")
"""A dictionary whose key is a tuple of 2^170 others: nobody has computed its hash yet."""


def load(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder, pickles.opened(path) as file:
        converted = Path(folder, "content")
        pickles.convert(file, path, converted)
        return pickles.content_of(converted, path)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        alike = one.dtype == other.dtype and one.stride() == other.stride()
        return alike and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) and type(one) is type(other)


# What is read


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**40), 2**40), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=12)
@given(PLAIN, st.booleans())
def test_plain_values_are_those_of_torch(tmp_path_factory, value, new_format):
    path = tmp_path_factory.mktemp("plain") / "given.pth"
    torch.save(value, path, _use_new_zipfile_serialization=new_format)
    expected = torch.load(path, weights_only=True)
    assert same(expected, load(path))


def tensors() -> dict[str, Tensor]:
    base = torch.arange(24.0)
    whole = {
        str(dtype).removeprefix("torch."): torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                      torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    }  # fmt: skip
    return {
        **whole,
        "a number": torch.tensor(3.5),
        "none": torch.zeros(0, 3),
        "a part": base[3:7],
        "every third": base[1::3],
        "turned": base.view(4, 6).T,
        "channels last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "repeated": torch.ones(2, 1).expand(2, 5),
        "a parameter": torch.nn.Parameter(torch.rand(3)),
        "shared": base,
        "shared again": base,
    }


@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_are_those_of_torch(tmp_path, new_format):
    path = tmp_path / "given.pth"
    torch.save(tensors(), path, _use_new_zipfile_serialization=new_format)
    expected, found = torch.load(path, weights_only=True), load(path)
    assert same({key: value.detach() for key, value in expected.items()}, found)
    places = {key: value.untyped_storage().data_ptr() for key, value in found.items()}
    assert found["shared"] is found["shared again"] or places["shared"] == places["shared again"]
    assert places["shared"] == places["turned"]


def test_what_goes_with_weights_is_read(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3, "state_dict": network.state_dict(), "optimizer": optimizer.state_dict(),
        "best": float("inf"), "milestones": Counter({3: 1}), "size": torch.Size([2, 3]),
        "parts": {1, 2}, "device": torch.device("cuda", 1), "type": torch.bfloat16,
        "bytes": b"\xff\x00", "more": bytearray(b"abc"), "rng": torch.get_rng_state(),
        "ordered": OrderedDict(a=1),
    }  # fmt: skip
    torch.save(content, tmp_path / "given.pth")
    found = load(tmp_path / "given.pth")
    for key in ("epoch", "state_dict", "optimizer", "best", "parts", "rng"):
        assert same(torch.load(tmp_path / "given.pth", weights_only=True)[key], found[key]), key
    assert (found["milestones"], found["size"], found["ordered"]) == ({3: 1}, (2, 3), {"a": 1})
    assert (found["device"], found["type"]) == ("cuda:1", "torch.bfloat16")
    assert (found["bytes"], found["more"]) == ("\xff\x00", "abc")


def test_no_process_of_discern_s_unpickles(tmp_path):
    """Python tells an audit hook of each class that is looked up for a pickle."""
    torch.save({"state_dict": {"w": torch.ones(3)}}, tmp_path / "given.pth")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from discern.models.saved import read\n"
        "from discern.models.weights import read_weights\n"
        "import pickle\n"
        "events = []\n"
        "sys.addaudithook(lambda event, _: events.append(event))\n"
        "print(read('given.pth'), read_weights(Path('given.pth')))\n"
        "assert 'subprocess.Popen' in events\n"
        "assert 'pickle.find_class' not in events\n"
        "class Seen: pass\n"
        "pickle.loads(pickle.dumps(Seen))\n"
        "assert 'pickle.find_class' in events\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "tensor([1., 1., 1.])" in done.stdout


# A child that fails


@pytest.fixture
def given_file(tmp_path: Path) -> Path:
    path = tmp_path / "given.pth"
    torch.save({"w": torch.ones(3)}, path)
    return path


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Put another program in the place of the child's."""

    def put(program: str) -> None:
        (tmp_path / "child.py").write_text(program)
        monkeypatch.setattr(pickles, "CHILD", str(tmp_path / "child.py"))

    return put


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"reading it ended with SIGSEGV; it is damaged"),
        ("import os; os.abort()", r"reading it ended with SIGABRT; it is damaged"),
        ("raise ValueError('\\x1b[31mhere')", r"the process that reads it ended with status 1\.$"),
        ("import time; time.sleep(100)", r"it takes longer than a file of its size may\.$"),
        ("", r"what was made of it is damaged"),
        ("print('{}')", r"what was made of it is damaged"),
        (
            "import os; os.write(2, b'\\x1b]0;x\\x07' * 10_000); os._exit(3)",
            r"cannot be read: (\?\]0;x\?)+\S{0,5}\.$",
        ),
    ],
)
def test_a_child_that_fails_is_one_sentence(program, reason, child, given_file, monkeypatch, capfd):
    monkeypatch.setattr(pickles, "PATIENCE", (2.0, 0.0))
    child(program)
    with pytest.raises(pickles.UnreadableError, match=reason) as failure:
        load(given_file)
    assert str(failure.value).startswith(f"{given_file} cannot be read: ")
    assert len(failure.value.reason) <= 350
    assert "\n" not in str(failure.value)
    assert capfd.readouterr() == ("", "")


WRITTEN = """
import json, os, struct
header = json.dumps({{"__metadata__": {{"content": {content!r}, "tensors": {tensors!r}}},
                     "0": {{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}}}).encode()
os.write(1, struct.pack("<Q", len(header)) + header + bytes(8))
"""


@pytest.mark.parametrize(
    ("content", "tensors"),
    [
        ('["tensor", 0]', "[[0, 0, [3], [1]]]"),
        ('["tensor", 0]', "[[0, 1, [2], [1]]]"),
        ('["tensor", 0]', "[[0, -1, [1], [1]]]"),
        ('["tensor", 0]', "[[0, 1, [2], [-1]]]"),
        ('["tensor", 0]', "[[0, 0.0, [2], [1]]]"),
        ('["tensor", 0]', "[[0, 0, [9000000000000000000, 2], [0, 1]]]"),
        ('["tensor", 0]', "[[1, 0, [2], [1]]]"),
        ('["tensor", 1]', "[]"),
        ('["eval", "1"]', "[]"),
        ('["dict", [["list"], 1]]', "[]"),
        ("[" * 100_000, "[]"),
        ('["list", ' * 5000 + "1" + "]" * 5000, "[]"),
        ("", "[]"),
        ("[]", "{}"),
    ],
)
def test_what_a_child_has_written_is_a_stranger_s(content, tensors, child, given_file):
    child(WRITTEN.format(content=content, tensors=tensors))
    with pytest.raises(pickles.UnreadableError, match="what was made of it is damaged"):
        load(given_file)


def test_a_child_sees_no_environment_and_no_terminal(child, given_file, monkeypatch):
    monkeypatch.setenv("SECRET", "marked")
    child("import os; os.write(2, repr((sorted(os.environ), os.isatty(0))).encode()); os._exit(3)")
    with pytest.raises(pickles.UnreadableError) as failure:
        load(given_file)
    assert "SECRET" not in str(failure.value)
    assert "False" in str(failure.value)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such filters")
def test_a_child_can_open_start_and_change_nothing(given_file, child, tmp_path):
    """Even code of a stranger that runs in it, which none does."""
    child(
        "import ctypes, os, runpy\n"
        f"given_up = runpy.run_path({pickles.CHILD!r})\n"
        "given_up['_limit'](1000, 2), given_up['_filter_calls']()\n"
        "libc = ctypes.CDLL(None)\n"
        "done = [libc.open(b'/etc/passwd', 0), libc.socket(2, 1, 0), libc.fork(),\n"
        f"        libc.execv(b'/bin/true', None),\n"
        f"        libc.mkdir({os.fsencode(tmp_path / 'x')!r}, 511),\n"
        f"        libc.unlink({os.fsencode(given_file)!r}), libc.kill(1, 0)]\n"
        "os.write(2, repr(done).encode())\n"
        "os._exit(3)\n"
    )
    with pytest.raises(pickles.UnreadableError, match=r": \[(-1(, )?){7}\]\.$"):
        load(given_file)
    assert given_file.exists()


def test_a_child_ends_at_the_first_thing_that_it_does(given_file, child):
    child(
        "import runpy\n"
        f"given_up = runpy.run_path({pickles.CHILD!r})\n"
        "given_up['confine'](1000, 2)\n"
        "try:\n    import this\nexcept BaseException:\n    pass\n"
    )
    with pytest.raises(pickles.UnreadableError, match=r"it tries to do something \(\w+\)"):
        load(given_file)


def test_a_file_that_takes_too_long_is_given_up(tmp_path):
    (tmp_path / "given.pth").write_bytes(ENDLESS)
    with pytest.raises(pickles.UnreadableError, match="it takes longer than a file of its size"):
        load(tmp_path / "given.pth")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps to limits of memory")
def test_a_file_that_takes_too_much_memory_is_given_up(tmp_path):
    (tmp_path / "given.pth").write_bytes(archive(b"B\xff\xff\xff\xff" + b"x"))
    with pytest.raises(pickles.UnreadableError, match="it takes more memory than a file of its"):
        load(tmp_path / "given.pth")


def test_ctrl_c_ends_the_child_at_once(tmp_path):
    (tmp_path / "given.pth").write_bytes(ENDLESS)
    program = (
        "from discern.files import pickles\n"
        "from discern.models import saved\n"
        "pickles.SECONDS = 1000\n"
        "saved.read('given.pth')\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE
    )
    children: list[int] = []
    while not children and process.poll() is None:
        done = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        children = [int(number) for number in done.stdout.split()]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in errors
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path(os.devnull), tmp_path / "nothing"):
        with pytest.raises(DiscernError, match="cannot be read: "), pickles.opened(path):
            pass


def test_arrays_of_another_library_are_no_tensors_of_torch_s(tmp_path):
    out = io.BytesIO()
    torch.save({"a": torch.zeros(2).numpy()}, out)
    (tmp_path / "given.pth").write_bytes(out.getvalue())
    with pytest.raises(pickles.UnreadableError, match=r"it asks for numpy\.\S+, and only tensors"):
        load(tmp_path / "given.pth")
