"""Checkpoint files made by hand: any header and any body, and the digest is right."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

CHUNK = 1 << 22
NO_DIGEST = "0" * 64


def sealed(tree: str, tensors: dict[str, Any] | None = None, body: bytes = b"") -> bytes:
    """A file with a SHA-256 that is right, whatever its description and its tensors' say."""
    metadata = {"discern": tree, "sha256": NO_DIGEST}
    header = json.dumps({"__metadata__": metadata, **(tensors or {})}, separators=(",", ":"))
    return with_digest(header.encode(), body)


def with_digest(header: bytes, body: bytes) -> bytes:
    """As :func:`sealed`, of a header that is any text with zeros for its digest."""
    data = struct.pack("<Q", len(header)) + header + body
    chunks = [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]
    inner = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    digest = hashlib.sha256(inner).hexdigest()
    return data.replace(NO_DIGEST.encode(), digest.encode(), 1)


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**30, 1.5, "", "F32", [], [-1], [2**62, 4],
    [0, 2**62, 2**62], [1] * 100, {}, "\ud800", "\x1b]0;x\x07", "../../x", "9" * 5000,
)  # fmt: skip
TREES = (
    "", "[]", "3", "{", "null", "{}", '{"strides":{}}', '{"strides":{"w":[1,1]}}',
    '{"strides":{"w":[99999999999,1]}}', '{"strides":{},"a":{"$tensor":"w"},"b":{"$tensor":"w"}}',
    '{"strides":{},"a":{"$strided":["w",[1,3]]}}', '{"strides":{},"a":{"$strided":["w",[0,0]]}}',
    '{"strides":[],"a":1}', '{"strides":{"nothing":[1]}}', '{"strides":{},"state_dict":3}',
    '{"strides":{},"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"strides":{},"a":' + "9" * 100_000 + "}", '{"strides":{},"a":1e999}',
    '{"strides":{},"a":{"$dict":[[[1],2]]}}', '{"strides":{},"a":{"$set":[{}]}}',
)  # fmt: skip


def damaged(good: bytes, random: Random) -> Iterator[tuple[str, bytes]]:
    """Without end: one checkpoint with its digest left as it was, and with a new one."""
    length = struct.unpack("<Q", good[:8])[0]
    header = json.loads(good[8 : 8 + length])
    body = good[8 + length :]
    tree = header.pop("__metadata__")["discern"]
    while True:
        place = random.randrange(len(good) * 8)
        flipped = bytearray(good)
        flipped[place // 8] ^= 1 << place % 8
        yield f"bit {place} flipped", bytes(flipped)
        yield "cut", good[: random.randrange(len(good))]
        yield "longer", good + random.randbytes(random.randrange(1, 50))
        yield "another tree", sealed(random.choice(TREES), header, body)
        name = random.choice(list(header))
        key = random.choice(["dtype", "shape", "data_offsets"])
        described = json.loads(json.dumps(header))
        described[name][key] = random.choice(ODD)
        yield f"{name} with another {key}", sealed(tree, described, body)
        del described[name][key]
        yield f"{name} without {key}", sealed(tree, described, body)
        text = bytearray(
            json.dumps({"__metadata__": {"discern": tree, "sha256": NO_DIGEST}}).encode()
        )
        text[random.randrange(len(text))] = random.randrange(256)
        yield "a byte of the description", with_digest(bytes(text), b"")
        moved = dict(random.sample(list(header.items()), len(header)))
        yield "tensors in another order", sealed(tree, moved, body)
