"""The file of a checkpoint: safetensors, with everything but tensors as JSON in its header.

A checkpoint is a tree of a closed set of plain types. The network's tensors stand under their own
names, so that ``safetensors.torch.load_file`` gives them to whoever has no discern; all others
under their path in the tree, such as ``optimizer_states/0/state/0/exp_avg``. The header also holds
a SHA-256 of the whole file, so that no damage goes unnoticed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from discern.errors import DiscernError, first_line
from discern.files.writing import write_whole

SUFFIX = ".safetensors"

STATE = "state_dict"
"""The key of the network's tensors in a checkpoint."""

STRIDES = "strides"
"""The key, in a file, of how the network's tensors lie in memory that lie in no usual way."""

TREE, DIGEST = "discern", "sha256"
"""Keys of the header's metadata."""

CHUNK = 1 << 22
"""Bytes that are hashed at a time; several at once."""

AHEAD = 16
"""Chunks that are read before they are hashed."""

MAX_DEPTH, MAX_VALUES = 40, 1_000_000
"""Nesting depth and number of values that a file may have at most."""

MAX_HEADER = 1 << 24
"""Bytes of a header. As Python's objects they take some 30 times as much."""

MAX_DIMENSIONS = 64
"""Of a tensor, as torch has it."""

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class UnwritableError(DiscernError):
    """A checkpoint holds something that its file format cannot store."""


def write(content: dict[str, Any], path: Path, keep: Path | None = None) -> None:
    """Write a checkpoint whole or not at all.

    It is read back from the disk, and its SHA-256 compared, before it takes the place of another.

    Args:
        content: has the network's tensors under ``state_dict``; beside tensors it may hold None,
            truths, numbers, texts, and lists, tuples, sets, dictionaries and counters of them.
        path: the file; it may be there.
        keep: the name beside it that the checkpoint replaced gets, unless that is damaged.

    Raises:
        UnwritableError: it holds anything else; says where.
        OSError: it cannot be written.
    """
    tensors = {name: _checked(tensor, name) for name, tensor in content[STATE].items()}
    others = {key: value for key, value in content.items() if key != STATE}
    others[STRIDES] = {
        name: list(tensor.stride()) for name, tensor in content[STATE].items() if _is_turned(tensor)
    }
    tree = json.dumps(_Encoder(tensors).encode(others, ()), separators=(",", ":"), allow_nan=False)
    header = _header(tensors, {TREE: tree, DIGEST: _NO_DIGEST.decode()})
    if keep is not None and not _is_worth_keeping(path):
        keep = None  # what has been kept before is
    with (
        write_whole(path, "wb", prove=_prove, keep=keep) as file,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        digests = []
        for chunk in _chunks([memoryview(header), *map(_bytes_of, tensors.values())]):
            digests.append(pool.submit(_digest, chunk))
            for part in chunk:
                file.write(part)
        file.seek(_place_of_digest(header))
        file.write(_digest_of(each.result() for each in digests))
    _PROVEN[path] = _stamp(path)


def flaw(path: Path, from_disk: bool = False) -> str | None:
    """Why the bytes of a checkpoint's file are not those that were written; None if they are.

    Args:
        path: the file.
        from_disk: read it from the disk, and not from the memory that the system keeps of it.
    """
    try:
        with path.open("rb", buffering=0) as file, ThreadPoolExecutor(os.cpu_count()) as pool:
            if not os.fstat(file.fileno()).st_size:
                return "it is empty"
            if from_disk and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            header = _read_header(file)
            place = _place_of_digest(header)
            end = place + len(_NO_DIGEST)
            blank = header[:place] + _NO_DIGEST + header[end:]
            pieces = iter(lambda: file.read(CHUNK), b"")
            chunks = _chunks(memoryview(piece) for piece in chain([blank], pieces))
            if _digest_of(_hashed(chunks, pool)) != header[place:end]:
                return "its SHA-256 is not what it says"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    except ValueError as error:
        return str(error)
    return None


_PROVEN: dict[Path, tuple[int, ...]] = {}
"""Checkpoint that this process has written and read back -> what tells whether it still is it."""


def _is_worth_keeping(path: Path) -> bool:
    return (_stamp(path) or None) == _PROVEN.get(path) or flaw(path) is None


def _stamp(path: Path) -> tuple[int, ...]:
    with suppress(OSError):
        status = path.stat()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
    return ()


def _prove(path: Path) -> None:
    """Read a checkpoint back that was just written.

    Raises:
        OSError: it is another.
    """
    if (why := flaw(path, from_disk=True)) is not None:
        raise OSError(errno.EIO, f"what was written is not what is read back, {why}", str(path))


def is_one(path: Path) -> bool:
    """Whether a file begins like safetensors: with the length of a header and a bracket."""
    with path.open("rb") as file:
        begin = file.read(9)
    return len(begin) == 9 and begin[8:] == b"{" and begin[4:8] == bytes(4)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint, its tensors on the CPU. Nothing in it is executed.

    Raises:
        DiscernError: the file is missing, damaged, or no checkpoint of discern's.
    """
    try:
        with path.open("rb", buffering=0) as file:
            header = _read_header(file)
            place = _place_of_digest(header)
            described = _parsed(header[8:])
            metadata = described.pop("__metadata__")
            tensors = _described(described, os.fstat(file.fileno()).st_size - len(header))
            end = place + len(_NO_DIGEST)
            blank = header[:place] + _NO_DIGEST + header[end:]
            if _fill(file, blank, tensors) != header[place:end]:
                raise DiscernError(f"{path} is damaged: its SHA-256 is not what it says.")
        decoder = _Decoder(tensors)
        tree = decoder.decode(_parsed(metadata[TREE]), 0)
        if type(tree) is not dict or type(strides := tree.pop(STRIDES, None)) is not dict:
            raise ValueError("its description is of another form")
        state = decoder.rest()
        state |= {name: _in_order(state[name], strides[name]) for name in strides}
    except OSError as error:
        raise DiscernError(f"{path} cannot be read: {error.strerror or error}.") from error
    except _NOT_OURS as error:
        raise DiscernError(
            f"{path} is not a checkpoint of discern's: {first_line(error)}."
        ) from error
    return {**tree, STATE: state}


# What reading a description raises that discern did not write.
_NOT_OURS = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, MemoryError,
)  # fmt: skip


def _parsed(text: str | bytes) -> Any:
    """The values in a JSON text without repeated keys.

    Raises:
        ValueError: it is not such JSON.
    """
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its description says something twice")
    return found


# Plain values as JSON. What JSON has no word for is a dictionary of one key that begins with $.


class _Encoder:
    """Turns a tree into JSON, and collects its tensors.

    Args:
        tensors: those of the network, to which the tree's are added.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def encode(self, value: Any, path: tuple[str, ...]) -> object:
        """A value of the tree in JSON's terms.

        Raises:
            UnwritableError: it is of no type that is known.
        """
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if isinstance(value, Tensor):
            name = self._put(value, path)
            turned = _is_turned(value)
            return {"$strided": [name, list(value.stride())]} if turned else {"$tensor": name}
        if kind is list:
            return self._each(value, path)
        if kind is tuple or kind is set:
            if kind is set:
                _check_keys(value, path)
            return {f"${kind.__name__}": self._each(value, path)}
        if kind in (dict, OrderedDict):
            if all(type(key) is str and not key.startswith("$") for key in value):
                return {key: self.encode(part, (*path, key)) for key, part in value.items()}
            return {"$dict": self._pairs(value, path)}
        if kind is Counter:
            return {"$counter": self._pairs(value, path)}
        raise UnwritableError(
            f"{'.'.join(path)} of the checkpoint is a {kind.__module__}.{kind.__qualname__}, which "
            "its file cannot hold; a state is made of tensors, numbers, texts, lists, tuples, sets "
            "and dictionaries."
        )

    def _each(self, values: Iterable[object], path: tuple[str, ...]) -> list[object]:
        return [self.encode(part, (*path, str(number))) for number, part in enumerate(values)]

    def _pairs(self, value: Mapping[object, object], path: tuple[str, ...]) -> list[list[object]]:
        _check_keys(value, path)
        return [
            [self.encode(key, path), self.encode(part, (*path, str(key)))]
            for key, part in value.items()
        ]

    def _put(self, tensor: Tensor, path: tuple[str, ...]) -> str:
        name = "/".join(path)
        while name in self.tensors:
            name += "'"
        self.tensors[name] = _checked(tensor, name)
        return name


class _Decoder:
    """Rebuilds the tree from JSON.

    Args:
        tensors: all of the file's; one that is in the tree is there once, so that no description
            can make many of few numbers.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()
        self._values = 0

    def decode(self, value: Any, depth: int) -> Any:
        """A value of the tree, from JSON.

        Raises:
            ValueError: it is not such as is written, or too large or deep.
        """
        self._values += 1
        if depth > MAX_DEPTH or self._values > MAX_VALUES:
            raise ValueError("its description is too large")
        if isinstance(value, list):
            return [self.decode(part, depth + 1) for part in value]
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("its description has a number that JSON has no word for")
        if isinstance(value, str):
            value.encode()  # JSON may name half a character, which is not a text
        if not isinstance(value, dict):
            return value
        special = next((key for key in value if key.startswith("$")), None)
        if special is None:
            "".join(value).encode()
            return {key: self.decode(part, depth + 1) for key, part in value.items()}
        if len(value) > 1:
            raise ValueError(f"{special} is not alone")
        return self._special(special, value[special], depth + 1)

    def _special(self, kind: str, value: object, depth: int) -> Any:
        if kind == "$tensor" and isinstance(value, str):
            if value in self._used:
                raise ValueError("its description names a tensor twice")
            self._used.add(value)
            return self._tensors[value]
        if kind == "$strided" and isinstance(value, list):
            name, strides = value
            return _in_order(self._special("$tensor", name, depth), strides)
        if kind == "$float" and value in ("nan", "inf", "-inf"):
            return float(value)
        if kind not in ("$tuple", "$set", "$dict", "$counter") or not isinstance(value, list):
            raise ValueError(f"{kind[:40]} is not known")
        parts = self.decode(value, depth)
        if kind == "$tuple":
            return tuple(parts)
        pairs = {key: part for key, part in parts} if kind != "$set" else {}  # noqa: C416
        keys = parts if kind == "$set" else pairs
        if not all(map(_is_key, keys)):
            raise ValueError("its description has a key of another type")
        if kind == "$set":
            return set(parts)
        return Counter(pairs) if kind == "$counter" else pairs

    def rest(self) -> dict[str, Tensor]:
        """The tensors that the tree does not name: the network's."""
        return {name: part for name, part in self._tensors.items() if name not in self._used}


def _is_key(value: object) -> bool:
    """Whether a value may be a key: a scalar or a tuple of scalars."""
    parts = value if isinstance(value, tuple) else (value,)
    return all(part is None or isinstance(part, (bool, int, float, str)) for part in parts)


def _check_keys(keys: Iterable[object], path: tuple[str, ...]) -> None:
    for key in keys:
        if not _is_key(key):
            raise UnwritableError(
                f"{'.'.join(path)} of the checkpoint has a {type(key).__qualname__} as a key, "
                "which its file cannot hold; a key is a number, a text or a tuple of these."
            )


# Tensors whose numbers lie in another order in memory, as those of images with their channels last.
# An optimizer computes to the bit as before only with a state in the order of its weights.


def _is_turned(tensor: Tensor) -> bool:
    """Whether a tensor is dense in memory in another order than the usual."""
    usual = torch.empty(tensor.shape, device="meta").stride()
    return tensor.layout == torch.strided and tensor.stride() != usual and _is_dense(tensor)


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is dense and does not overlap itself."""
    # torch keeps the strides of such a tensor alone.
    like = torch.empty_like(tensor, device="meta", memory_format=torch.preserve_format)
    return bool(tensor.numel()) and like.stride() == tensor.stride()


def _in_order(tensor: Tensor, strides: list[int]) -> Tensor:
    if not _is_dense(torch.empty_strided(tensor.shape, strides, device="meta")):
        raise ValueError("its tensors are in no order")
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


# The file: eight bytes that say how long the header is, the header, the tensors.


def _checked(tensor: Tensor, name: str) -> Tensor:
    """The tensor on the CPU and contiguous, ready to be written."""
    if tensor.layout != torch.strided or tensor.dtype not in _DTYPES or tensor.is_meta:
        kind = tensor.layout if tensor.layout != torch.strided else tensor.dtype
        raise UnwritableError(
            f"{name} of the checkpoint is a tensor of {'device meta' if tensor.is_meta else kind}, "
            "which its file cannot hold."
        )
    return tensor.detach().to("cpu").contiguous()


def _header(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    parts: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        parts[name] = {"dtype": _DTYPES[tensor.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(parts, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise UnwritableError(
            f"What the checkpoint holds beside tensors takes {len(text):,} bytes; its file has "
            f"room for {MAX_HEADER:,}."
        )
    return struct.pack("<Q", len(text)) + text


def _bytes_of(tensor: Tensor) -> memoryview:
    flat = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0).byte()
    return flat.numpy().data


def _read_header(file: FileIO) -> bytes:
    """The header with its length; a file's first bytes.

    Raises:
        ValueError: it has no end, or is larger than any of ours.
    """
    begin = file.read(8)
    if len(begin) < 8:
        raise ValueError("it has no header")
    (length,) = struct.unpack("<Q", begin)
    if length > MAX_HEADER:
        raise ValueError("its header is too large")
    header = begin + file.read(length)
    if len(header) < 8 + length:
        raise ValueError("its header has no end")
    return header


def _described(parts: Mapping[str, Any], size: int) -> dict[str, Tensor]:
    """Empty tensors as described by a header.

    Args:
        parts: of each tensor its dtype, shape, and where its bytes begin and end.
        size: how many bytes there are; they hold the tensors one after the other.

    Raises:
        ValueError, LookupError, TypeError: they are described in another way.
    """
    dtypes = {name: dtype for dtype, name in _DTYPES.items()}
    tensors, end = {}, 0
    for name, part in parts.items():
        shape, dtype = part["shape"], dtypes[part["dtype"]]
        if any(type(length) is not int or length < 0 for length in shape) or (
            len(shape) > MAX_DIMENSIONS or math.prod(length or 1 for length in shape) >= 2**60
        ):
            raise ValueError("a tensor in it has no shape")
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        if part["data_offsets"] != [begin, end] or end > size:
            raise ValueError("its tensors are not where it says")
        tensors[name] = torch.empty(shape, dtype=dtype)
    if end != size:
        raise ValueError("it holds more than its tensors")
    return tensors


def _fill(file: FileIO, header: bytes, tensors: dict[str, Tensor]) -> bytes:
    """Read the tensors after the header of an unbuffered file; return the file's digest.

    Raises:
        ValueError: the file is shorter than its header says, or a boolean is neither 0 nor 1.
    """
    digests = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk in _chunks([memoryview(header), *map(_bytes_of, tensors.values())]):
            for part in chunk:
                read = 0
                while part.obj is not header and read < len(part):
                    count = file.readinto(part[read:])
                    if not count:
                        raise ValueError("it ends too early")
                    read += count
            digests.append(pool.submit(_digest, chunk))
        digest = _digest_of(each.result() for each in digests)
    if any(
        tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1
        for tensor in tensors.values()
    ):
        raise ValueError("a boolean in it is neither 0 nor 1")
    return digest


def _chunks(parts: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """The bytes in chunks of ``CHUNK`` and a rest."""
    chunk: list[memoryview] = []
    room = CHUNK
    for part in parts:
        while len(part) >= room:
            yield [*chunk, part[:room]]
            part, chunk, room = part[room:], [], CHUNK
        if len(part):
            chunk.append(part)
            room -= len(part)
    if chunk:
        yield chunk


def _place_of_digest(header: bytes) -> int:
    key = f'"{DIGEST}":"'.encode()
    place = header.find(key)
    if place < 0:
        raise ValueError("it has no digest")
    return place + len(key)


_NO_DIGEST = b"0" * 64


def _digest(chunk: list[memoryview]) -> bytes:
    total = hashlib.sha256()
    for part in chunk:
        total.update(part)
    return total.digest()


def _hashed(chunks: Iterable[list[memoryview]], pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """The digests of chunks, of which a few are in memory at a time."""
    waiting = deque[Future[bytes]]()
    for chunk in chunks:
        waiting.append(pool.submit(_digest, chunk))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    yield from (each.result() for each in waiting)


def _digest_of(digests: Iterable[bytes]) -> bytes:
    """Hex SHA-256 of the digests of a file's chunks, the digest in its header taken as zeros."""
    return hashlib.sha256(b"".join(digests)).hexdigest().encode()
