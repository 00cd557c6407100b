"""Files of ``torch.save`` made by hand, of which none is honest: see ``samples`` and ``endless``.

They are written opcode by opcode, so that nothing need be built that is described.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

Named = tuple[str, bytes]


# Parts of pickles. A value is what puts it on the stack.


def name(module: str, attribute: str) -> bytes:
    return b"c" + f"{module}\n{attribute}\n".encode()


def plain(value: Any) -> bytes:
    """A plain value of Python's; lists, tuples and dictionaries of values that are bytes here."""
    return pickle.dumps(value, protocol=2)[2:-1]


def row(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + row(*arguments) + b"R"


def table(**values: bytes) -> bytes:
    return b"}(" + b"".join(plain(key) + value for key, value in values.items()) + b"u"


def program(value: bytes) -> bytes:
    return b"\x80\x02" + value + b"."


ORDERED = call(name("collections", "OrderedDict"))


def storage(kind: str = "Float", key: str = "0", count: int = 4) -> bytes:
    return row(*_about(kind, key, count)) + b"Q"


def _about(kind: str, key: str, count: int) -> list[bytes]:
    typed = name("torch", f"{kind}Storage")
    return [plain("storage"), typed, plain(key), plain("cpu"), plain(count)]


def tensor(
    of: bytes | None = None,
    offset: Any = 0,
    shape: Any = (4,),
    strides: Any = (1,),
    bits: bytes | None = None,
    function: str = "_rebuild_tensor_v2",
) -> bytes:
    about = [storage() if of is None else of, plain(offset), plain(shape), plain(strides)]
    about += [plain(False), ORDERED]
    return call(name("torch._utils", function), *about, *([] if bits is None else [bits]))


def archive(
    value: bytes,
    storages: dict[str, bytes] | None = None,
    *,
    compression: int = zipfile.ZIP_STORED,
    extra: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """A file of ``torch.save`` as it is today."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        file.writestr("archive/data.pkl", program(value))
        file.writestr("archive/byteorder", b"little")
        for key, content in ({"0": bytes(16)} if storages is None else storages).items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", b"3\n")
        for member, content in extra:
            file.writestr(member, content)
    return out.getvalue()


MAGIC = plain(0x1950A86A20F9469CFC6C)


FOUR = struct.pack("<q", 4) + bytes(16)
"""A storage of the old format: its length, four numbers."""


def legacy(value: bytes, keys: Any = ("0",), rest: bytes = FOUR) -> bytes:
    """A file of ``torch.save`` as it was before torch 1.6."""
    parts = (MAGIC, plain(1001), plain({"little_endian": True}), value, plain(list(keys)))
    return b"".join(map(program, parts)) + rest


def legacy_storage(kind: str = "Float", key: str = "0", count: int = 4, view: Any = None) -> bytes:
    return row(*_about(kind, key, count), plain(view)) + b"Q"


def nested(depth: int) -> bytes:
    """Tuples of twice the same, as deep."""
    step = b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(min(depth, 200)))
    return b")" + step


def shared_lists(depth: int) -> bytes:
    return b"]" + b"".join(
        b"q" + bytes([n]) + b"0](h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(depth)
    )


# What executes, if it is let: a folder is made


def payloads(marker: str) -> Iterator[Named]:
    """Files whose pickle makes the folder ``marker``, in each of the ways that pickles have."""
    path = plain(marker)
    ways = {
        "a function": call(name("os", "mkdir"), path),
        "a function of posix's": call(name("posix", "mkdir"), path),
        "a function below a class": call(name("pathlib", "Path.mkdir"), path),
        "eval": call(name("builtins", "eval"), plain(f"__import__('os').mkdir({marker!r})")),
        "eval of Python 2": call(
            name("__builtin__", "eval"), plain(f"__import__('os').mkdir({marker!r})")
        ),
        "an old instance": b"(" + path + b"ios\nmkdir\n",
        "an old object": b"(" + name("os", "mkdir") + path + b"o",
        "a new object": name("os", "mkdir") + row(path) + b"\x81",
        "a new object with names": name("os", "mkdir") + row(path) + b"}\x92",
        "a name from the stack": plain("os") + plain("mkdir") + b"\x93" + row(path) + b"R",
        "attributes": call(
            call(name("builtins", "getattr"), name("os", "path"), plain("exists")), path
        ),
        "subprocess": call(name("subprocess", "call"), b"](" + plain("mkdir") + path + b"e"),
        "torch.hub": call(name("torch.hub", "load"), path, plain("x")),
        "sympy": call(name("sympy", "sympify"), plain(f"__import__('os').mkdir({marker!r})")),
        "numpy": call(name("numpy.testing._private.utils", "runstring"), plain("0"), plain({})),
        "a state": name("collections", "OrderedDict") + table(__reduce__=path) + b"b",
        "a state of a function": call(name("torch", "Size"), row()) + table(x=path) + b"b",
        "a class's attributes": name("torch._utils", "_rebuild_tensor_v2")
        + (b"N" + table(_make=name("os", "mkdir")) + b"\x86b")
        + (row(path) + b"R"),
        "a reference": plain(marker) + b"Q",
        "a reference to a module": row(plain("module"), name("os", "mkdir"), path, path) + b"Q",
        "a number of someone's": b"\x82\x01",
    }
    for way, value in ways.items():
        yield f"{way} in the old format", legacy(table(weight=value))
        yield f"{way} alone", program(value)
        yield way, archive(table(weight=value))


# What takes without end, claims more than there is, or is of another kind


def samples() -> Iterator[Named]:
    """Files of each kind; honest readers refuse them all, or hold little."""
    for kind, value in _unfit_tensors().items():
        yield kind, archive(table(weight=value))
        yield f"{kind}, wrapped", archive(table(state_dict=table(weight=tensor(), other=value)))
    for kind, value in _amplifiers().items():
        yield kind, archive(b"}" + value + plain(1) + b"s" if kind.endswith("key") else value)
    for kind, value in _odd_storages().items():
        yield kind, archive(table(weight=value))
    yield from _archives()
    yield from _legacies()


def _unfit_tensors() -> dict[str, bytes]:
    float32 = name("torch", "float32")
    per_tensor = row(name("torch", "per_tensor_affine"), plain(0.5), plain(0))
    rebuild = {
        "sparse": ("_rebuild_sparse_tensor", [
            call(name("torch.serialization", "_get_layout"), plain("torch.sparse_coo")),
            row(tensor(), tensor(), plain((4,)))]),
        "a QInt8 storage, quantised": ("_rebuild_qtensor", [
            storage("QInt8"), plain(0), plain((4,)), plain((1,)), per_tensor, plain(False),
            ORDERED]),
        "meta": ("_rebuild_meta_tensor_no_storage", [
            float32, plain((4,)), plain((1,)), plain(False)]),
        "meta of terabytes": ("_rebuild_meta_tensor_no_storage", [
            float32, plain((2**40,)), plain((1,)), plain(False)]),
        "nested": ("_rebuild_nested_tensor", [tensor(), tensor(), tensor(), tensor()]),
        "a wrapper": ("_rebuild_wrapper_subclass", [
            name("torch", "Tensor"), float32, plain((4,)), plain((1,)), plain(0),
            plain("strided"), plain("cpu"), plain(False)]),
        "a device's": ("_rebuild_device_tensor_from_cpu_tensor", [
            tensor(), float32, plain("xla:0"), plain(False)]),
        "uint16": ("_rebuild_tensor_v3", [
            storage("Untyped", count=16), plain(0), plain((4,)), plain((1,)), plain(False), ORDERED,
            name("torch", "uint16")]),
    }  # fmt: skip
    bits = {"neg": b"}" + plain("neg") + b"\x88s", "conj": b"}" + plain("conj") + b"\x88s"}
    found = {
        kind: call(name("torch._utils", function), *about)
        for kind, (function, about) in rebuild.items()
    }
    for kind in ("QInt8", "QUInt8", "QInt32", "QUInt4x2", "ComplexFloat", "Nonsense"):
        found[f"a {kind} storage"] = tensor(storage(kind, count=2), shape=(2,))
    for bit, metadata in bits.items():
        found[f"{bit} bit"] = tensor(bits=metadata)
        found[f"a QInt8 storage with {bit} bit"] = tensor(storage("QInt8", count=16), bits=metadata)
        found[f"a complex one with {bit} bit"] = tensor(
            storage("ComplexFloat", count=2), shape=(2,), bits=metadata
        )
    return found


def _amplifiers() -> dict[str, bytes]:
    encoded = plain("x" * 20)
    for _ in range(26):
        encoded = call(name("_codecs", "encode"), encoded, plain("unicode_escape"))
    doubled = b"]" + b"".join(
        b"q" + bytes([n]) + b"0" + name("torch", "Size") + b"(h" + bytes([n]) + b"t" + b"R"
        for n in range(100)
    )
    collisions = b"}(" + b"".join(plain(n * (2**61 - 1)) + b"N" for n in range(1, 20_000)) + b"u"
    return {
        "nested tuples for a key": nested(170),
        "nested tuples, few, for a key": nested(60),
        "nested tuples in a set": call(name("builtins", "set"), b"](" + nested(170) + b"e"),
        "nested tuples": nested(170),
        "bytearray of 3 GB": call(name("builtins", "bytearray"), plain(3 * 10**9)),
        "bytearray of Python 2": call(name("__builtin__", "bytearray"), plain(3 * 10**9)),
        "chained encodings": encoded,
        "an encoding": call(name("_codecs", "encode"), plain("a"), plain("idna")),
        "shared lists": shared_lists(40),
        "shared lists, deeper": shared_lists(120),
        "a list in itself": b"]q\x00h\x00a",
        "a dictionary in itself": b"}q\x07" + plain("a") + b"h\x07s",
        "100,000 lists in lists": b"]" * 100_000 + b"a" * 99_999,
        "100,000 tuples in tuples": b")" + b"\x85" * 100_000,
        "100,000 tuples for a key": b")" + b"\x85" * 100_000,
        "a million numbers": b"](" + b"K\x01" * 1_200_000 + b"e",
        "a million lists": b"](" + b"]" * 1_200_000 + b"e",
        "a text shared": b"](" + plain("x" * 100_000) + b"q\x00" + b"h\x00" * 100_000 + b"e",
        "a memo of 16 GB": b"Nr" + struct.pack("<I", 2**31 - 1),
        "bytes of 4 GB": b"B" + struct.pack("<I", 2**32 - 1) + b"x",
        "bytes of 2^62": b"\x8e" + struct.pack("<Q", 2**62) + b"x",
        "a text of 4 GB": b"X" + struct.pack("<I", 2**32 - 1) + b"x",
        "a text of 2^62": b"\x8d" + struct.pack("<Q", 2**62) + b"x",
        "a frame of 2^62": b"\x95" + struct.pack("<Q", 2**62) + b"N",
        "a bytearray of 2^62": b"\x96" + struct.pack("<Q", 2**62) + b"x",
        "a number of 2 GB": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x",
        "a number of 100,000 digits": b"I" + b"9" * 100_000 + b"\n",
        "a number of a million bits": b"\x8b" + struct.pack("<i", 125_000) + b"\x7f" * 125_000,
        "colliding keys": collisions,
        "sizes of sizes": doubled,
        "marks": b"(" * 1_000_000 + b"N",
        "a complex number": call(name("builtins", "complex"), plain(1.0), plain(math.nan)),
        "half a character": b"X\x03\x00\x00\x00\xed\xa0\x80",
        "what a terminal obeys for a key": plain("\x1b]0;x\x07"),
        "a function": name("torch._utils", "_rebuild_tensor_v2"),
        "a storage": storage(),
        "a tensor for a key": tensor(),
        "a type for a key": name("torch", "float32"),
    }


def _odd_storages() -> dict[str, bytes]:
    many = b"(" + b"".join(plain(str(n)) + b"h\x01" for n in range(30_000))
    return {
        "terabytes of one number": tensor(shape=(10**6, 10**6), strides=(0, 0)),
        "sixteen numbers of four": tensor(shape=(4, 4), strides=(0, 1)),
        "a hundred million of one": tensor(shape=(10**8,), strides=(0,)),
        "more than there is": tensor(shape=(5,)),
        "beyond the end": tensor(offset=1),
        "far beyond the end": tensor(offset=2**62),
        "before the beginning": tensor(offset=-1),
        "a size below 0": tensor(shape=(-4,)),
        "strides below 0": tensor(offset=3, strides=(-1,)),
        "sizes that overflow": tensor(shape=(2**32, 2**32), strides=(0, 0)),
        "sizes beyond 64 bits": tensor(shape=(2**70,)),
        "strides beyond 64 bits": tensor(shape=(2,), strides=(2**63,)),
        "more sizes than strides": tensor(shape=(2, 2)),
        "100 dimensions": tensor(shape=(1,) * 100, strides=(1,) * 100),
        "a truth for a size": tensor(shape=(True,)),
        "a fraction for a size": tensor(shape=(4.0,)),
        "a text for a size": tensor(shape="4"),
        "another storage's size": tensor(storage(count=2**40)),
        "a storage below 0": tensor(storage(count=-4)),
        "a storage that is not there": tensor(storage(key="7")),
        "a storage outside": tensor(storage(key="../../../../etc/passwd")),
        "a storage as two types": b"]("
        + tensor()
        + tensor(storage("Int"))
        + tensor(storage("Half", count=8))
        + b"e",
        "a storage that is a text": tensor(plain("0")),
        "a storage that is a tensor": tensor(tensor()),
        "30,000 of one": tensor() + b"q\x010}" + many + b"u",
        "truths of 7": tensor(storage("Bool", count=16), shape=(16,)) + b"0" + tensor(),
        "a parameter of a text": call(
            name("torch._utils", "_rebuild_parameter"), plain("x"), plain(True), ORDERED
        ),
        "a class of its own": call(
            name("torch._tensor", "_rebuild_from_type_v2"),
            name("torch._utils", "_rebuild_tensor_v2"), name("os", "mkdir"), row(), plain({}),
        ),
        "a class that calls": call(
            name("torch._tensor", "_rebuild_from_type_v2"),
            name("builtins", "set"), name("torch", "Tensor"), row(plain([1])), plain({}),
        ),
        "no place": call(name("torch", "FloatTensor")),
        "a place of another kind": call(name("torch", "FloatTensor")) + plain((1, 2)) + b"b",
    }  # fmt: skip


def _archives() -> Iterator[Named]:
    good = archive(table(weight=tensor()))
    yield "compressed", archive(table(weight=tensor()), compression=zipfile.ZIP_DEFLATED)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(30_000_000))
    yield "a bomb", bomb.getvalue()
    script = [("archive/constants.pkl", program(row())), ("archive/code/__torch__.py", b"")]
    yield "TorchScript", archive(table(weight=tensor()), extra=script)
    package = [("archive/.data/extern_modules", b"os"), ("archive/model/model.pkl", b"")]
    yield "torch.package", archive(table(weight=tensor()), extra=package)
    yield "two in one", archive(table(weight=tensor()), extra=[("other/data.pkl", program(b"N"))])
    yield "the wrong order of bytes", good.replace(b"little", b"big   ")
    yield "no zip's end", good[:-22]
    yield "no content", archive(b"")
    truths = tensor(storage("Bool", count=16), shape=(16,))
    yield "truths of 7", archive(table(weight=truths), {"0": b"\x07" * 16})
    numbers = struct.pack("<4f", 1, 2, 3, math.nan)
    yield "not numbers", archive(table(weight=tensor()), {"0": numbers})
    yield "a storage too short", archive(table(weight=tensor()), {"0": bytes(15)})
    yield "something else", archive(b"N").replace(b"data.pkl", b"data.xml")
    place = good.rindex(b"PK\x01\x02")
    for field, at, value in (
        ("size", 24, 2**32 - 2), ("packed size", 20, 2**32 - 2), ("offset", 42, 2**31),
        ("flags", 8, 0xFFFF), ("method", 10, 99), ("checksum", 16, 1),
    ):  # fmt: skip
        width = "<H" if field in ("flags", "method") else "<I"
        start = good.index(b"PK\x01\x02")
        for where in {start, place}:
            changed = bytearray(good)
            struct.pack_into(width, changed, where + at, value)
            yield f"another {field} at {where}", bytes(changed)
    member = b"PK\x01\x02" + struct.pack("<2H8xLLL5H2L", 20, 20, 0, 0, 0, 1, *[0] * 6) + b"x"
    end = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 50_000, 50_000, 50_000 * len(member), 4, 0)
    yield "50,000 members", b"PK\x03\x04" + member * 50_000 + end


def _legacies() -> Iterator[Named]:
    weight = table(weight=tensor(legacy_storage()))
    good = legacy(weight)
    yield "legacy, cut", good[:-1]
    yield "legacy, cut in its length", good[:-20]
    yield "legacy, no storages", legacy(weight, keys=())
    yield "legacy, a storage that nobody has", legacy(weight, keys=("0", "1"))
    yield "legacy, keys that are none", legacy(weight, keys=(b"\xff",))
    for count in (-1, 0, 3, 5, 2**31, 2**62, -(2**63)):
        rest = struct.pack("<q", count) + bytes(16)
        yield f"legacy, {count} numbers", legacy(weight, rest=rest)
        said = table(weight=tensor(legacy_storage(count=count), shape=(1,)))
        yield f"legacy, {count} numbers said", legacy(said, rest=rest)
    for view in (("v", 1, 4), ("v", -1, 2), ("v", 2**62, 2), ("v", 0, 2**62), ("v",), "v", 3):
        yield f"legacy, a view {view}", legacy(table(weight=tensor(legacy_storage(view=view))))
    for kind in ("QInt8", "ComplexFloat"):
        yield f"legacy, {kind}", legacy(table(weight=tensor(legacy_storage(kind))))
    truths = table(weight=tensor(legacy_storage("Bool", count=16)))
    yield "legacy, truths of 7", legacy(truths, rest=struct.pack("<q", 16) + b"\x07" * 16)
    yield "legacy, another magic number", program(plain(7)) + good
    yield "legacy, another protocol", program(MAGIC) + program(plain(7)) + good
    key = b"}" + nested(170) + plain(1) + b"s"
    yield "nested tuples for a magic number", program(key)
    yield "a pickle", pickle.dumps({"weight": [1.0]})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for member in ("storages", "tensors", "pickle"):
            tar.addfile(tarfile.TarInfo(member))
    yield "a tar", out.getvalue()
    yield "empty", b""
    yield "a byte", b"\x80"
    yield "a text", b"state_dict: yes\n"
    yield "a picture", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "zeros", bytes(1000)


# Without end


_GLOBALS = (
    *(("torch._utils", f"_rebuild_{what}") for what in (
        "tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor",
        "sparse_tensor", "meta_tensor_no_storage", "nested_tensor", "wrapper_subclass")),
    *(("torch", what) for what in (
        "FloatStorage", "LongStorage", "BoolStorage", "QInt8Storage", "UntypedStorage", "Size",
        "device", "float32", "float64", "complex64", "Tensor", "FloatTensor", "per_tensor_affine")),
    ("torch._tensor", "_rebuild_from_type_v2"), ("torch.nn.parameter", "Parameter"),
    ("torch.serialization", "_get_layout"), ("collections", "OrderedDict"),
    ("collections", "Counter"), ("builtins", "set"), ("builtins", "bytearray"),
    ("builtins", "complex"), ("_codecs", "encode"),
)  # fmt: skip
"""What ``torch.load(weights_only=True)`` lets a pickle name, and a little more."""

_STEPS = (
    b"(", b"0", b"1", b"2", b"a", b"b", b"e", b"s", b"t", b"u", b"}", b"]", b")", b"N", b"R", b"Q",
    b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"\x8f", b"\x90", b"\x94",
)  # fmt: skip


def endless(random: Random) -> Iterator[Named]:
    """Without end: random programs of what pickles may do, and damage to the samples."""
    good = list(samples())
    while True:
        value = table(weight=_random_tensor(random), other=_random_program(random))
        yield "a random program", archive(value)
        yield "a random program, legacy", legacy(value)
        yield "a random tensor", archive(table(weight=_random_tensor(random)))
        kind, content = random.choice(good)
        if not content:
            continue
        damaged = bytearray(content)
        for _ in range(random.choice((1, 1, 3, 20))):
            damaged[random.randrange(len(damaged))] = random.randrange(256)
        yield f"{kind}, damaged", bytes(damaged)
        yield f"{kind}, cut", content[: random.randrange(len(content))]
        pickled = bytearray(table(weight=tensor(), more=_random_program(random)))
        pickled[random.randrange(len(pickled))] = random.randrange(256)
        yield "a damaged pickle in a whole archive", archive(bytes(pickled))


def _random_program(random: Random) -> bytes:
    parts = []
    for _ in range(random.randrange(1, 40)):
        kind = random.random()
        if kind < 0.25:
            parts.append(name(*random.choice(_GLOBALS)))
        elif kind < 0.5:
            parts.append(random.choice(_STEPS))
        elif kind < 0.7:
            parts.append(plain(_odd(random)))
        elif kind < 0.85:
            parts.append(_random_tensor(random))
        else:
            slot = bytes([random.randrange(8)])
            parts.append(random.choice((b"q", b"h")) + slot)
    return b"".join(parts) + (b"" if random.random() < 0.3 else b"N")


def _random_tensor(random: Random) -> bytes:
    kind = random.choice(("Float", "Long", "Bool", "QInt8", "ComplexFloat", "Half", "Untyped"))
    count = random.choice((4, 2, 16, 0, -1, 2**40, 2**63))
    shape, strides = (
        tuple(random.choice((0, 1, 2, 4, 4, -1, 2**31, 2**62)) for _ in range(random.randrange(3)))
        for _ in range(2)
    )
    bits = random.choice((None, None, b"}", plain({"neg": True}), plain({"conj": True})))
    function = random.choice(("_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_tensor_v3"))
    of = storage(kind, random.choice(("0", "0", "1", "..")), count)
    return tensor(of, random.choice((0, 0, 1, -1, 2**62)), shape, strides, bits, function)


def _odd(random: Random) -> Any:
    return random.choice(
        (None, True, -1, 0, 7, 2**31, 2**63, 10**40, 1.5, math.nan, "", "cpu", "neg", "latin1",
         "unicode_escape", b"\xff", (), (1,), (2**62,), [], [[1, 2]], {}, {"neg": True}, "../x",
         "\ud800")
    )  # fmt: skip
