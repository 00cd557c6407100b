"""Picture files that ask for too much, are damaged, or are no pictures, made from a seed."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

# Pieces of files


def zeros(count: int) -> bytes:
    """A zlib stream of so many zero bytes: each megabyte is the same kilobyte."""
    whole, rest = divmod(count, 1 << 20)
    packer = zlib.compressobj(9, wbits=-15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packer = zlib.compressobj(9, wbits=-15)
    end = packer.compress(bytes(rest)) + packer.flush()
    return b"\x78\xda" + block * whole + end + struct.pack(">HH", count % 65521, 1)


def chunk(kind: bytes, content: bytes) -> bytes:
    """One of a PNG's."""
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


PNG = b"\x89PNG\r\n\x1a\n"
COLOURS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Kind of a PNG -> values of a pixel."""


def png(width: int, height: int, depth: int = 8, kind: int = 2, before: bytes = b"") -> bytes:
    """A whole PNG, all zero, of a size; ``before`` stands before its pixels."""
    row = (width * depth * COLOURS[kind] + 7) // 8 + 1
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0))
    return PNG + head + before + chunk(b"IDAT", zeros(row * height)) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image's file."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def jpeg(width: int, height: int, mode: str = "RGB", scans: int = 0, frame: int = 0xC2) -> bytes:
    """A progressive JPEG of 64 x 64 pixels that says that it is larger, its last scan repeated."""
    small = saved(Image.new(mode, (64, 64)), "JPEG", progressive=True)
    place, head, body, last = 2, b"\xff\xd8", b"", b""
    while small[place + 1] != 0xD9:
        marker = small[place + 1]
        end = place + 2 + int.from_bytes(small[place + 2 : place + 4])
        if marker == 0xDA:
            while small[end] != 0xFF or small[end + 1] == 0:
                end += 1
            last = small[place:end]
        part = small[place:end]
        if marker == 0xC2:
            part = bytes([0xFF, frame]) + part[2:5] + struct.pack(">HH", height, width) + part[9:]
        if marker in (0xDA, 0xC4):
            body += part
        else:
            head += part
        place = end
    return head + body + last * scans + b"\xff\xd9"


def with_segments(content: bytes, *segments: bytes) -> bytes:
    """A JPEG with segments behind its beginning."""
    return content[:2] + b"".join(segments) + content[2:]


def exif(entries: int, size: int, tail: int = 0) -> bytes:
    """An EXIF block whose entries all have the same so many bytes."""
    tags = b"".join(struct.pack("<HHII", 1000 + n, 7, size, 8) for n in range(entries))
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", entries) + tags + bytes(4 + tail)


def tiff(
    width: int,
    height: int,
    pixels: bytes = b"",
    compression: int = 1,
    strips: int = 1,
    bits: int = 8,
    tile: tuple[int, int] | None = None,
    extra: tuple[tuple[int, int, int, int], ...] = (),
) -> bytes:
    """A grey TIFF whose strips, or tiles, are all the same bytes."""
    tags = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, bits), 259: (3, 1, compression),
        262: (3, 1, 1), 277: (3, 1, 1),
    }  # fmt: skip
    names = (324, 325) if tile else (273, 279)
    if tile:
        tags |= {322: (4, 1, tile[0]), 323: (4, 1, tile[1])}
    else:
        tags[278] = (4, 1, -(-height // strips))
    tags |= {tag: (kind, count, value) for tag, kind, count, value in extra}
    count = len(tags) + 2
    place = 8 + 2 + 12 * count + 4
    tables = place + len(pixels)
    if strips == 1:
        tags |= {names[0]: (4, 1, place), names[1]: (4, 1, len(pixels))}
    else:
        tags |= {names[0]: (4, strips, tables), names[1]: (4, strips, tables + 4 * strips)}
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    arrays = struct.pack("<I", place) * strips + struct.pack("<I", len(pixels)) * strips
    head = b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4)
    return head + pixels + (arrays if strips > 1 else b"")


def jpeg2000(
    width: int,
    height: int,
    parts: int = 3,
    tile: tuple[int, int] | None = None,
    levels: int = 5,
    block: int = 4,
    precinct: int | None = None,
    layers: int = 1,
) -> bytes:
    """A codestream without pixels; blocks have ``2 ** (block + 2)`` values a side."""
    across, down = tile or (width, height)
    sizes = struct.pack(">H8IH", 0, width, height, 0, 0, across, down, 0, 0, parts)
    sizes += b"\x07\x01\x01" * parts
    style = struct.pack(
        ">BBHBBBBBB", int(precinct is not None), 0, layers, 0, levels, block, block, 0, 1
    )
    if precinct is not None:
        style += bytes([precinct * 17]) * (levels + 1)
    steps = b"\x40" + bytes([0x40] * (3 * levels + 1))

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">HH", marker, len(content) + 2) + content

    data = bytes(64)
    part = segment(0xFF90, struct.pack(">HIBB", 0, 14 + len(data), 0, 1)) + b"\xff\x93" + data
    head = segment(0xFF51, sizes) + segment(0xFF52, style) + segment(0xFF5C, steps)
    return b"\xff\x4f" + head + part + b"\xff\xd9"


def gif(width: int, height: int, inner: tuple[int, int] | None = None, frames: int = 1) -> bytes:
    """A GIF of a size without pixels, of frames of an inner size."""
    across, down = inner or (width, height)
    frame = (
        b"!\xf9\x04\x01\0\0\0\0,\0\0\0\0" + struct.pack("<HH", across, down) + b"\0\x02\x01\x44\0"
    )
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\x80\0\0"
        + bytes(6)
        + frame * frames
        + b";"
    )


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"") -> bytes:
    """A BMP that says what it likes."""
    palette = bytes(1024 if bits == 8 else 0)
    head = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 256 if palette else 0, 0
    )
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


# What is refused, or read in bounds


def bombs() -> Iterator[tuple[str, bytes]]:
    """Name and content of small files that ask for gigabytes, or for minutes."""
    yield "rgb.png", png(11_585, 11_585)
    yield "grey.png", png(16_384, 16_384, kind=0)
    yield "more-grey.png", png(20_000, 20_000, kind=0)
    yield "bits.png", png(30_000, 30_000, 1, 0)
    yield "grey16.png", png(16_000, 16_000, 16, 0)
    yield "rgba16.png", png(8_000, 8_000, 16, 6)
    yield "rgb16.png", png(9_400, 9_400, 16, 2)
    yield "grey-alpha.png", png(11_500, 11_500, 8, 4)
    yield (
        "palette.png",
        png(11_500, 11_500, 8, 3, chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", b"\0")),
    )
    yield "chunks.png", png(8, 8, before=chunk(b"abCd", b"") * 200_000)
    yield "text.png", png(8, 8, before=chunk(b"zTXt", b"a\0\0" + zeros(50 << 20)) * 50)
    yield "profile.png", png(8, 8, before=chunk(b"iCCP", b"a\0\0" + zeros(1 << 30)))
    yield "exif.png", png(8, 8, before=chunk(b"eXIf", exif(50_000, 600_000, 10)[6:]))
    yield "scans.jpg", jpeg(9_400, 9_400, scans=300)
    yield "many-scans.jpg", jpeg(65_500, 65_500, scans=300)
    yield "grey-scans.jpg", jpeg(14_142, 14_142, "L", scans=100)
    yield "progressive.jpg", jpeg(9_450, 9_450)
    yield "progressive-most.jpg", jpeg(16_384, 12_900)
    yield "progressive-grey.jpg", jpeg(14_142, 14_142, "L")
    yield "cmyk.jpg", jpeg(8_000, 8_000, "CMYK")
    yield "wide.jpg", jpeg(65_500, 4_000)
    yield "arithmetic.jpg", jpeg(9_400, 9_400, frame=0xCA)
    yield "lossless.jpg", jpeg(9_400, 9_400, frame=0xC3)
    tiny = saved(Image.new("RGB", (8, 8)), "JPEG")
    yield "segments.jpg", with_segments(tiny, b"\xff\xe5\0\x02" * 1_000_000)
    yield "padding.jpg", with_segments(tiny, b"\xff" * 5_000_000)
    block = exif(5_000, 60_000)
    one = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    yield "exif.jpg", with_segments(jpeg(64, 64), one)
    yield "exif-many.jpg", with_segments(tiny, *[one] * 40)
    yield "large.gif", gif(65_535, 65_535)
    yield "inner.gif", gif(10, 10, (65_535, 65_535))
    yield "transparent.gif", gif(11_000, 11_000)
    yield "frames.gif", gif(2_000, 2_000, frames=100_000)
    yield "strip.tif", tiff(16_000, 16_000, zeros(16_000**2), 8)
    yield "tile.tif", tiff(100, 100, zeros(30_000**2), 8, tile=(30_000, 30_000))
    yield "strips.tif", tiff(1, 2_000_000, b"\0", strips=2_000_000)
    yield "some-strips.tif", tiff(1_000, 60_000, bytes(1_000), strips=60_000)
    yield (
        "float.tif",
        tiff(11_000, 11_000, zeros(4 * 11_000**2), 8, bits=32, extra=((339, 3, 1, 3),)),
    )
    tags = tuple((1_000 + n, 7, 800_000, 8) for n in range(60_000))
    yield "tags.tif", tiff(8, 8, bytes(64), extra=tags)
    yield "jpeg.tif", tiff(14_000, 14_000, jpeg(14_000, 14_000, "L", 300), 7)
    yield "old-jpeg.tif", tiff(64, 64, jpeg(64, 64, "L"), 6)
    yield "large.j2k", jpeg2000(9_000, 9_000)
    yield "tiles.j2k", jpeg2000(16_000, 16_000, tile=(64, 64))
    yield "parts.j2k", jpeg2000(100, 100, parts=16_384)
    yield "blocks.j2k", jpeg2000(4_000, 4_000, block=0)
    yield "precincts.j2k", jpeg2000(4_000, 4_000, precinct=0)
    yield "no-levels.j2k", jpeg2000(9_000, 9_000, levels=0)
    yield "levels.j2k", jpeg2000(4_000, 4_000, levels=32)
    yield "layers.j2k", jpeg2000(4_000, 4_000, layers=65_535)
    yield "large.bmp", bmp(20_000, 20_000)
    yield "fits.bmp", bmp(11_000, 11_000)
    yield "packed.bmp", bmp(11_000, 11_000, 8, 1, b"\xff\0" * 1_000)
    yield "jumps.bmp", bmp(100_000_000, 2, 8, 1, b"\0\x02\0\xff" * 1_000)
    yield "comment.ppm", b"P6 #" + b"a" * 50_000_000 + b"\n8 8 255\n" + bytes(192)
    yield "spaces.pbm", b"P4 8" + b" " * 50_000_000 + b"8\n" + bytes(8)
    yield "tall.png", png(1, 60_000_000, kind=0)
    yield "large.ppm", b"P6 11000 11000 255\n"
    yield "slow.pgm", b"P5 9000 9000 4095\n"
    yield "text.pgm", b"P2 9000 9000 255\n" + b"1 " * 1_000_000
    yield "large.qoi", b"qoif" + struct.pack(">IIBB", 11_000, 11_000, 3, 0) + b"\xfd" * 1_000_000
    yield "large.tga", struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 16_000, 16_000, 24, 0)
    yield "large.webp", webp(16_383, 16_383)


def webp(width: int, height: int) -> bytes:
    """A WebP that says that it is larger than its picture."""
    inner = saved(Image.new("RGB", (64, 64)), "WEBP", lossless=True)[12:]
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sizes + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n(x) run showpage\n",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + bytes(30),
    "PSD": b"8BPS\0\x01" + bytes(6) + struct.pack(">HIIHH", 3, 6, 4, 8, 3) + bytes(100),
    "ICO": b"\0\0\x01\0\x01\0" + bytes(30),
    "ICNS": b"icns\0\0\0\x10" + bytes(8),
    "DDS": b"DDS \x7c\0\0\0" + bytes(130),
    "FITS": b"SIMPLE  =                    T" + bytes(50),
    "XPM": b"/* XPM */\nstatic char *a[] = {};\n",
}
"""Format -> a file that begins like one of it, which is not read."""


def damaged(seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of small pictures of each format with bytes changed, cut off or repeated."""
    generator = random.Random(seed)
    noise = Image.frombytes("RGB", (24, 16), random.Random(0).randbytes(24 * 16 * 3))
    grey16 = Image.frombytes("I;16", (24, 16), random.Random(0).randbytes(24 * 16 * 2))
    originals = {
        f"{kind.lower()}{number}": saved(image, kind, **options)
        for number, (kind, image, options) in enumerate(
            [
                ("JPEG", noise, {}),
                ("JPEG", noise, {"progressive": True}),
                ("PNG", noise, {}),
                ("PNG", grey16, {}),
                ("PNG", noise.convert("P"), {"transparency": 3}),
                ("GIF", noise, {}),
                ("BMP", noise, {}),
                ("TIFF", noise, {}),
                ("TIFF", noise, {"compression": "tiff_lzw"}),
                ("TIFF", noise, {"compression": "jpeg"}),
                ("TIFF", grey16, {"compression": "tiff_adobe_deflate"}),
                ("WEBP", noise, {}),
                ("WEBP", noise, {"lossless": True}),
                ("JPEG2000", noise, {}),
                ("PPM", noise, {}),
                ("PCX", noise, {}),
                ("TGA", noise, {"compression": "tga_rle"}),
                ("SGI", noise, {}),
                ("QOI", noise, {}),
            ]
        )
    }
    if "AVIF" in Image.SAVE:
        originals["avif"] = saved(noise, "AVIF")
    number = 0
    while True:
        for name, content in originals.items():
            yield f"{number:06}-{name}", _changed(content, generator)
            number += 1


def _changed(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        # Sizes and layouts are at the beginning.
        most = generator.choice((16, 64, 256, len(changed)))
        if not changed:
            break
        place = generator.randrange(min(most, len(changed)))
        match generator.randrange(5):
            case 0:
                changed[place] = generator.randrange(256)
            case 1:
                changed[place] ^= 1 << generator.randrange(8)
            case 2:
                changed[place : place + 4] = generator.choice(
                    (b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\0\xff\xff", b"\xff\xff\0\0")
                )
            case 3:
                length = generator.randrange(1, 64)
                changed[place:place] = changed[place : place + length]
            case 4:
                if generator.random() < 0.3:
                    del changed[place + 1 :]
                else:
                    del changed[place : place + generator.randrange(1, 9)]
    return bytes(changed)
