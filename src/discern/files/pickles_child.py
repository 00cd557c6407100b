"""The program of a process that reads a pickle of a stranger and can do no harm.

It is run as a file by an interpreter that has nothing but the standard library, with the pickle as
its standard input and two empty files as its outputs: the first is for what the pickle holds, as
safetensors, the second for the sentence that refuses it. Before the first byte is read the process
gives up what it does not need: it can open nothing, start nothing, and has so much memory, time
and room for its output.

It knows what ``torch.load(weights_only=True)`` knows, but makes only descriptions of tensors. Their
bytes are copied as they are, so that no code of torch's or NumPy's meets what a stranger wrote, and
nothing of theirs need be imported: the process has ended before torch would have begun.
"""

from __future__ import annotations

import _pickle
import contextlib
import ctypes
import json
import math
import os
import platform
import signal
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NoReturn

REFUSED = 3
"""Exit status of a process that says why it refuses a file."""

MEMORY = 512_000_000
"""Bytes that reading may take beside a few times the file's own: a million values take 100 MB."""

FEWEST_VALUES, MAX_VALUES = 20_000, 1_000_000
"""So many values any file may hold, and as many more as it has bytes, up to so many. Values that
are shared count each time, for they are written each time."""

MAX_DEPTH, MAX_TEXT, MAX_BITS, MAX_KEY = 40, 20_000_000, 1024, 2**53
"""Lists in lists, characters of all texts, bits of a whole number, and a whole number for a key:
what holds more is not a checkpoint. Larger keys could all have the same hash."""

MAX_HEADER = 90_000_000
"""Bytes of a header; safetensors reads 100 MB."""

MAX_CLAIMED = 4
"""How many times a file's own bytes its tensors may claim, by sharing or repeating numbers."""

CHUNK = 1 << 20

# Data types that are read: their names in a file's header, and bytes of a number.
DTYPES = {
    "float64": ("F64", 8), "float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2),
    "int64": ("I64", 8), "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1),
    "uint8": ("U8", 1), "bool": ("BOOL", 1),
}  # fmt: skip

_STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16",
    "Long": "int64", "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8",
    "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the format before torch 1.6 begins with."""


class RefusalError(Exception):
    """Why a file is not read, as the end of a sentence."""


def main() -> NoReturn:
    """Read standard input; the argument is how many seconds of processor time that may take."""
    status = REFUSED
    try:
        size = os.fstat(0).st_size
        file = open(0, "rb", closefd=False)  # noqa: SIM115 - a descriptor
        confine(size, int(sys.argv[1]))
        content, source = _read_torch(file, size)
        _write(content, size, source)
        status = 0
    except RefusalError as error:
        say(str(error))
    except MemoryError:
        say("it takes more memory than a file of its size may")
    except (RecursionError, OverflowError):
        say("its content is nested too deeply or has numbers that are too large")
    except (EOFError, struct.error):
        say("it is not whole")
    except zipfile.BadZipFile as error:
        say(f"it is damaged: {error}")
    except OSError as error:
        say(f"what it holds cannot be written ({error.strerror or error})")
    except Exception as error:  # a pickle that is wrong can raise anything
        say(f"its content makes no sense ({type(error).__name__})")
    os._exit(status)


def say(sentence: str) -> None:
    """Write the end of a sentence for the process that waits."""
    with contextlib.suppress(OSError):
        os.write(2, sentence[:1000].encode("utf-8", "replace"))


# What the process gives up


def confine(size: int, seconds: int) -> None:
    """Give up every right that reading a file of ``size`` bytes does not need."""
    for codec in ("utf-8", "latin-1", "ascii", "cp437"):
        "".encode(codec)  # is imported now: nothing can be later
    with contextlib.suppress(ImportError):
        _limit(size, seconds)
    if sys.platform == "linux":
        _filter_calls()
    sys.addaudithook(_refuse_event)


def _limit(size: int, seconds: int) -> None:
    import resource

    limits = {
        "RLIMIT_CORE": 0,
        "RLIMIT_CPU": seconds,  # the process ends with a signal that says so
        "RLIMIT_FSIZE": 2 * size + MAX_HEADER,
        "RLIMIT_NOFILE": 3,  # those that are open: no file, no socket and no pipe beside
        "RLIMIT_NPROC": 0,
        "RLIMIT_AS": _mapped() + MEMORY + 4 * size,
    }
    for name, limit in limits.items():
        # A system may lack one, or have set a lower one.
        with contextlib.suppress(AttributeError, ValueError, OSError):
            limited = limit + 1 if name == "RLIMIT_CPU" else limit
            resource.setrlimit(getattr(resource, name), (limit, limited))


def _mapped() -> int:
    """Bytes of address space in use; a guess on systems other than Linux."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123 - pathlib is not imported
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 1 << 30


# Calls of the kernel that reading needs, by machine: read, write, lseek, fstat, pread64, memory,
# signals that Python has handled before, time, random numbers, the end.
_CALLS = {
    "x86_64": (0xC000003E, (0, 1, 5, 8, 9, 10, 11, 12, 13, 14, 15, 17, 24, 25, 28, 39, 60, 202, 228,
                            231, 262, 318)),
    "aarch64": (0xC00000B7, (63, 64, 80, 62, 222, 226, 215, 214, 134, 135, 139, 67, 124, 216, 233,
                             172, 93, 98, 113, 94, 278, 79)),
}  # fmt: skip


def _filter_calls() -> None:
    """Let the kernel refuse all other calls (seccomp), and end the process with its parent."""
    libc = ctypes.CDLL(None)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    libc.prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    machine, allowed = _CALLS.get(platform.machine(), (0, ()))
    if not machine or struct.calcsize("P") != 8:
        return
    # Steps of a program for the kernel: operation, steps to go on where equal and else, a number.
    load, equal, end = 0x20, 0x15, 0x06
    steps = [(load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, 0), (load, 0, 0, 0)]
    steps += [(equal, len(allowed) - place, 0, call) for place, call in enumerate(allowed)]
    steps += [(end, 0, 0, 0x0005_0001), (end, 0, 0, 0x7FFF_0000)]  # "not permitted", allowed
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    filters = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(filters)))
    if libc.prctl(38, 1, 0, 0, 0) == 0:  # PR_SET_NO_NEW_PRIVS
        # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        libc.prctl(22, 2, ctypes.addressof(program), 0, 0)


def _refuse_event(event: str, _: object) -> None:
    """End the process at the first audit event, since reading causes none."""
    say(f"it tries to do something ({event})")
    os._exit(REFUSED)


# What stands for the classes and functions that a pickle names


class Fixed:
    """An object that a pickle can refer to but not change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Refuse what a pickle sets."""
        raise ValueError


class Storage(Fixed):
    """Numbers in a file, one after the other.

    Attributes:
        key: its name there.
        dtype: their type.
        count: how many there are.
        offset: where a part of it begins, in the format before torch 1.6.
    """

    __slots__ = ("count", "dtype", "key", "offset")

    def __init__(self, key: str, dtype: str, count: int, offset: int = 0) -> None:
        if any(type(number) is not int or number < 0 for number in (count, offset)):
            raise ValueError
        self.key, self.dtype, self.count, self.offset = key, dtype, count, offset

    @property
    def bytes(self) -> int:
        """How many it takes."""
        return self.count * DTYPES[self.dtype][1]


class Tensor(Fixed):
    """The description of a tensor in a pickle.

    Attributes:
        storage, offset, shape, strides: where its numbers are.
        fault: why it cannot be read.
        number: its place among those that are written.
    """

    __slots__ = ("fault", "number", "offset", "shape", "storage", "strides")

    def __init__(self, *place: object, fault: str | None = None) -> None:
        self.fault, self.number = fault, -1
        if place:
            self.__setstate__(place)

    def __setstate__(self, place: Any) -> None:
        """Storage, where it begins there, its shape, and how far apart neighbours are."""
        self.storage, offset, shape, strides = place
        if not isinstance(self.storage, Storage):
            raise ValueError
        self.offset = self.storage.offset + offset
        self.shape, self.strides = tuple(shape), tuple(strides)
        numbers = (offset, *self.shape, *self.strides)
        if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
            raise ValueError
        if len(self.shape) != len(self.strides) or len(self.shape) > 64:
            raise ValueError
        if self.storage.dtype not in DTYPES:
            self.fault = f"is of {self.storage.dtype}"

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    def check_place(self) -> None:
        """Raise a RefusalError where it lies outside its storage."""
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        if self.count and last >= self.storage.count:
            raise RefusalError("a tensor in it claims more than it holds")


class Name(Fixed):
    """The name of a data type, a device or a kind of storage."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Function(Fixed):
    """A function that a pickle may call."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        """What the pickle holds there."""
        return self._make(*arguments)


class Dict(dict[object, object]):
    """Stands for dictionaries of other kinds; what is set on them is left aside."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Such as the versions of a state dict's layers."""


def _tensor(*about: object) -> Tensor:
    """A tensor as torch describes it: its place, requires_grad, hooks, and the bits set on it."""
    tensor = Tensor(*about[:4])
    if any(about[6:]):
        tensor.fault = "is negated or conjugated only when it is read"
    return tensor


def _only_tensor(tensor: object, *_: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise ValueError
    return tensor


def _of_subclass(make: object, _: object, arguments: tuple[object, ...], __: object) -> Tensor:
    if not isinstance(make, Function):
        raise ValueError
    return _only_tensor(make(*arguments))


def _encoded(text: object, encoding: object = "latin1") -> bytes:
    """How pickles of protocol 2 write bytes; other encodings could make them longer."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise RefusalError("it has bytes that are written in no usual way")
    return text.encode("latin1")


def _bytearray(content: object = b"", *encoding: object) -> bytes:
    """The content, for a length alone could be any."""
    return content if isinstance(content, bytes) else _encoded(content, *encoding)


_OBJECTS: dict[str, Fixed] = {
    "collections.OrderedDict": Function(Dict),
    "collections.Counter": Function(Dict),
    "builtins.set": Function(set),
    "builtins.complex": Function(complex),
    "builtins.bytearray": Function(_bytearray),
    "_codecs.encode": Function(_encoded),
    "torch.Size": Function(tuple),
    "torch.device": Function(lambda *parts: Name(":".join(str(part)[:20] for part in parts))),
    "torch.Tensor": Function(Tensor),
    "torch.serialization._get_layout": Function(lambda _: Name("layout")),
    "torch.nn.parameter.Parameter": Function(_only_tensor),
    "torch._utils._rebuild_tensor": Function(_tensor),
    "torch._utils._rebuild_tensor_v2": Function(_tensor),
    "torch._utils._rebuild_parameter": Function(_only_tensor),
    "torch._utils._rebuild_parameter_with_state": Function(_only_tensor),
    "torch._tensor._rebuild_from_type_v2": Function(_of_subclass),
}  # fmt: skip
"""What ``torch.load(weights_only=True)`` lets a pickle name, beside storages and types.
Functions that make sparse, quantised or nested tensors are missing, so that these are refused."""

_TYPE_NAMES = ("float", "complex", "int", "uint", "bool", "bfloat", "quint", "qint", "bits")


def _torch_object(module: str, name: str) -> Fixed:
    """What stands for a class or function of a file of torch's."""
    module = module.replace("__builtin__", "builtins").replace("torch.tensor", "torch._tensor")
    found = _OBJECTS.get(f"{module}.{name}")
    if found is not None:
        return found
    if module in ("torch", "torch.cuda", "torch.storage") and name.isalnum():
        if name.endswith("Storage"):
            return Name(name.removesuffix("Storage"))
        if name.endswith("Tensor"):  # torch before 0.4
            return Function(Tensor)
    if module == "torch" and name.startswith(_TYPE_NAMES) and name.replace("_", "").isalnum():
        return Name(f"torch.{name}")
    asked = f"{module[:60]}.{name[:60]}"
    raise RefusalError(f"it asks for {asked}, and only tensors and plain values are read")


class _Unpickler(_pickle.Unpickler):
    """Reads a pickle, with stand-ins for its classes.

    Args:
        file: read as far as the pickle goes.
        storage: what a reference to what is outside the pickle means.
    """

    def __init__(self, file: IO[bytes], storage: Callable[..., Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Fixed:
        """What stands for it; a RefusalError for what is not known."""
        return _torch_object(module, name)

    def persistent_load(self, reference: object) -> Storage:
        """The storage that is referred to."""
        kind, *about = reference if isinstance(reference, tuple) else ("", None)
        if kind not in ("storage", b"storage"):
            raise RefusalError("it refers to something outside it that is not a storage")
        return self._storage(*about)


def _dtype(kind: object) -> str:
    if not isinstance(kind, Name):
        raise ValueError
    return _STORAGES.get(kind.text, f"torch's {kind.text}Storage")


def _text(key: object) -> str:
    """A key: old files have whole numbers, or bytes of Python 2."""
    return key.decode("ascii") if isinstance(key, bytes) else str(key)[:100]


# The forms. Each gives the content, and where the bytes of a storage are copied from.

_Source = Callable[[Storage], Iterator[bytes]]


def _read_torch(file: IO[bytes], size: int) -> tuple[object, _Source]:
    """A file of ``torch.save``, in its form of today or the one before 1.6."""
    beginning = file.read(512)
    file.seek(0)
    if beginning[:4] == b"PK\x03\x04":
        return _read_archive(file, size)
    if beginning[257:262] == b"ustar":
        raise RefusalError("it is a tar archive, torch's format of before 2017")
    return _read_legacy(file, size)


def _read_archive(file: IO[bytes], size: int) -> tuple[object, _Source]:
    archive = zipfile.ZipFile(file)
    members = {member.filename: member for member in archive.infolist()}
    roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
    roots = [root for root in roots if root.count("/") == 1]
    if any(root + "constants.pkl" in members for root in roots):
        raise RefusalError("it is a program of TorchScript; save the state_dict of its module")
    if any("/.data/extern_modules" in name for name in members):
        raise RefusalError("it is a torch.package of code; save the state_dict of its module")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise RefusalError("its archive is compressed")
    if sum(member.file_size for member in archive.infolist()) > size:
        raise RefusalError("its archive claims more than it holds")
    if len(roots) != 1:
        raise RefusalError("it is an archive of something other than torch.save's")
    (root,) = roots
    order = members.get(root + "byteorder")
    if order is not None and archive.read(order) != b"little":
        raise RefusalError("its numbers have the most significant byte first")

    def storage(kind: object, key: object, _: object, count: int) -> Storage:
        return Storage(_text(key), _dtype(kind), count)

    def content(storage: Storage) -> Iterator[bytes]:
        member = members.get(f"{root}data/{storage.key}")
        if member is None or member.file_size != storage.bytes:
            raise RefusalError("it is not whole")
        with archive.open(member) as data:
            while chunk := data.read(CHUNK):
                yield chunk

    with archive.open(members[root + "data.pkl"]) as data:
        value = _Unpickler(data, storage).load()
        data.read()  # to its end, where its checksum is compared
    return value, content


def _read_legacy(file: IO[bytes], size: int) -> tuple[object, _Source]:
    """Pickles one after the other, then the storages, each after its length in eight bytes."""
    known: dict[str, Storage] = {}

    def storage(
        kind: object, key: object, _: object, count: int, view: tuple[str, int, int] | None = None
    ) -> Storage:
        made = known.setdefault(_text(key), Storage(_text(key), _dtype(kind), count))
        return Storage(made.key, made.dtype, made.count, 0 if view is None else view[1])

    def load() -> Any:
        return _Unpickler(file, storage).load()

    try:
        begins = load() == _MAGIC and load() == _PROTOCOL
    except (RecursionError, MemoryError):
        raise
    except Exception:  # whatever it is
        begins = False
    if not begins:
        raise RefusalError("it is not a file of tensors and plain values that torch.save wrote")
    load()  # sizes of numbers on the machine that wrote it
    value, keys = load(), load()
    begin, places = file.tell(), {}

    def find_places() -> None:
        end = begin
        for key in map(_text, keys):
            file.seek(end)
            if struct.unpack("<q", file.read(8)) != (known[key].count,):
                raise RefusalError("it is not whole")
            places[key], end = end + 8, end + 8 + known[key].bytes
        if end > size:
            raise EOFError

    def content(storage: Storage) -> Iterator[bytes]:
        if not places:
            find_places()
        file.seek(places[storage.key])
        left = storage.bytes
        while left:
            chunk = file.read(min(CHUNK, left))
            left -= len(chunk)
            yield chunk

    return value, content


# What is written: a list of plain values, in which each tensor is a number, and the tensors' places


_Nothing = type(None)


class _Tree:
    """Makes what JSON can hold of a pickle's values, and keeps their tensors.

    Each value that is not a number, text, truth or None is a list that begins with its kind.

    Args:
        size: bytes of the file, which bound what tensors may claim.
    """

    def __init__(self, size: int) -> None:
        self.tensors: list[Tensor] = []
        self.storages: dict[str, Storage] = {}
        self._room, self._most = MAX_CLAIMED * size, min(FEWEST_VALUES + size, MAX_VALUES)
        self._values, self._text = 0, 0
        self._path: list[object] = []

    def of(self, value: Any) -> object:
        """A value as it is written."""
        kind = type(value)
        self._values += 1
        if self._values > self._most or len(self._path) > MAX_DEPTH:
            raise RefusalError("it holds too many values, or values too deep in others")
        if kind in (bool, _Nothing):
            return value
        if kind is int:
            if value.bit_length() > MAX_BITS:
                raise OverflowError
            return value
        if kind is float:
            return value if math.isfinite(value) else ["float", str(value)]
        if isinstance(value, Tensor):
            return ["tensor", self._number(value)]
        if kind in (list, tuple, set):
            return [kind.__name__, *self._each(enumerate(value))]
        if kind in (dict, Dict):
            keys = map(self._key, value)
            return ["dict", *map(list, zip(keys, self._each(value.items()), strict=True))]
        return self._as_text(value)

    def _each(self, parts: Iterable[tuple[object, object]]) -> Iterator[object]:
        """Values, each with the key that it is found by."""
        path = self._path
        path.append(None)
        for path[-1], part in parts:
            yield self.of(part)
        path.pop()

    def _key(self, key: object) -> str | int | None:
        if key is None or (isinstance(key, int) and abs(key) < MAX_KEY):
            return key
        if isinstance(key, (str, bytes, Name)):
            return self._as_text(key)
        raise RefusalError("it has a key that is neither a text nor a number")

    def _as_text(self, value: object) -> str:
        """Texts, and as texts also bytes, types, devices and complex numbers."""
        if isinstance(value, (bytes, bytearray)):
            value = value.decode("latin-1")
        elif isinstance(value, Name):
            value = value.text
        elif type(value) is complex:
            value = str(value)
        if not isinstance(value, str):
            raise RefusalError("it holds more than tensors and plain values")
        self._text += len(value)
        if self._text > MAX_TEXT:
            raise RefusalError("it holds too much text")
        if not value.isascii():
            value.encode()  # a part of a character is not a text
        return value

    def _number(self, tensor: Tensor) -> int:
        if tensor.number >= 0:
            return tensor.number
        if tensor.fault is not None:
            name = ".".join(str(key)[:100] for key in self._path) or "a tensor"
            raise RefusalError(f"{name} {tensor.fault}; only dense tensors of numbers are read")
        storage = self.storages.setdefault(tensor.storage.key, tensor.storage)
        if (storage.dtype, storage.count) != (tensor.storage.dtype, tensor.storage.count):
            raise ValueError
        self._room -= tensor.count * DTYPES[storage.dtype][1]
        tensor.check_place()
        if self._room < 0:
            raise RefusalError("its tensors claim more than it holds")
        tensor.number = len(self.tensors)
        self.tensors.append(tensor)
        return tensor.number


def _write(content: object, size: int, source: _Source) -> None:
    """Write a content as safetensors: its storages one by one, all else in the header."""
    tree = _Tree(size)
    values = tree.of(content)
    # Those of wide numbers first: then each begins at a place that its type allows.
    width = {key: DTYPES[storage.dtype][1] for key, storage in tree.storages.items()}
    storages = sorted(tree.storages.values(), key=lambda storage: -width[storage.key])
    numbers = {storage.key: number for number, storage in enumerate(storages)}
    tensors = [(numbers[t.storage.key], t.offset, t.shape, t.strides) for t in tree.tensors]
    metadata = {"content": _json(values), "tensors": _json(tensors)}
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for number, storage in enumerate(storages):
        begin, end = end, end + storage.bytes
        about = {"dtype": DTYPES[storage.dtype][0], "shape": [storage.count]}
        header[str(number)] = {**about, "data_offsets": [begin, end]}
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise RefusalError("it describes too much")
    _put(struct.pack("<Q", len(text)) + text)
    for storage in storages:
        left = storage.bytes
        for chunk in source(storage):
            if storage.dtype == "bool" and chunk.translate(None, b"\0\1"):
                raise RefusalError("it has booleans that are neither true nor false")
            left -= len(chunk)
            _put(chunk)
        if left:
            raise EOFError


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _put(content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
