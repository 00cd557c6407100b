from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from discern.data.pictures import (
    PictureError,
    check_picture,
    dark_on_light,
    fit_picture,
    read_picture,
)
from discern.data.published.mnist import read_sample
from hostile.pictures import with_segments
from photos import oriented, photo, smooth

GREY, COLOUR = (1, 4, 6), (3, 4, 6)
RAMP = np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6)


@pytest.fixture
def read(tmp_path):
    """Saves an image in a format, and reads it as a picture of a shape."""

    def read(image: Image.Image, shape=GREY, kind="PNG", **options):
        path = tmp_path / f"picture.{kind.lower()}"
        image.save(path, kind, **options)
        pixels = fit_picture(path, shape)
        assert pixels.dtype == np.uint8
        assert pixels.shape == shape
        return pixels

    return read


def plain(colour, mode="RGB") -> Image.Image:
    return Image.new(mode, (6, 4), colour)


# What has the shape keeps its pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "PPM", "WEBP"])
def test_pixels_of_the_shape_are_untouched(read, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(read(Image.fromarray(RAMP), kind=kind, **options)[0], RAMP)


def test_colour_becomes_grey_by_its_luminance_where_the_model_is_grey(read):
    assert np.all(read(plain((255, 0, 0))) == 76)  # 0.299 · 255
    assert np.all(read(plain((0, 255, 0))) == 150)  # 0.587 · 255


def test_grey_becomes_colour_where_the_model_is_in_colour(read):
    assert np.array_equal(read(Image.fromarray(RAMP), COLOUR), np.stack([RAMP] * 3))


def test_channels_keep_their_order(read):
    assert read(plain((10, 20, 30)), COLOUR)[:, 0, 0].tolist() == [10, 20, 30]


# Modes


def test_what_is_transparent_shows_white_paper(read):
    assert np.all(read(plain((0, 0, 0, 0), "RGBA")) == 255)
    assert np.all(read(plain((0, 0, 0, 255), "RGBA")) == 0)
    assert np.all(np.abs(read(plain((0, 0, 0, 127), "RGBA")).astype(int) - 128) <= 1)
    assert np.all(read(plain((0, 0), "LA")) == 255)
    assert np.all(read(plain(7, "L"), transparency=7) == 255)


def test_a_palette_is_looked_up_and_may_have_a_transparent_colour(read):
    image = plain(1, "P")
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert read(image, COLOUR)[:, 0, 0].tolist() == [10, 20, 30]
    assert np.all(read(image, COLOUR, transparency=1) == 255)


def test_black_and_white_of_one_bit(read):
    assert np.all(read(plain(1, "1")) == 255)
    assert np.all(read(plain(0, "1")) == 0)


def test_inks_become_light(read):
    assert np.all(read(plain((0, 0, 0, 255), "CMYK"), COLOUR, "TIFF") == 0)
    cyan = read(plain((255, 0, 0, 0), "CMYK"), COLOUR, "TIFF")[:, 0, 0]
    assert cyan.tolist() == [0, 255, 255]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_cut_off(read, kind):
    wide = RAMP.astype(np.uint16) * 257
    assert np.array_equal(read(Image.fromarray(wide), kind=kind)[0], RAMP)


@pytest.mark.parametrize("white", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_white_is_the_least_depth_that_holds_the_brightest_value(read, kind, white):
    values = np.round(RAMP / 255 * white).astype(np.uint16)
    assert np.array_equal(read(Image.fromarray(values), kind=kind)[0], RAMP)


@pytest.mark.parametrize(
    ("tags", "dark", "bright"),
    [
        ({}, 25, 128),  # of the least level that holds 514: 1,023
        ({281: 4095}, 6, 32),
        ({281: 65535}, 25, 128),  # as much as sixteen bits hold says nothing
        ({281: 100}, 25, 128),  # it cannot be
        ({340: 100.0, 341: 1000.0}, 0, 117),
        ({280: 500, 281: 1000}, 26, 131),  # something is darker than black
        ({281: 4095, 341: 1024.0}, 25, 128),
    ],
)
def test_white_is_what_a_tiff_declares(read, tags, dark, bright):
    values = np.full((4, 6), 514, np.uint16)
    values[0] = 100
    pixels = read(Image.fromarray(values), kind="TIFF", tiffinfo=tags)[0]
    assert (int(pixels[0, 0]), int(pixels[1, 0])) == (dark, bright)


def sixteen_bit_png(values: np.ndarray, significant: int | None) -> bytes:
    """A PNG of uint16 (H, W, C) with an sBIT chunk, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    bits = b"" if significant is None else chunk(b"sBIT", bytes([significant] * channels))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + head + bits + end


@pytest.mark.parametrize(
    ("significant", "brightest", "shown"),
    [(12, 1000, 62), (None, 1000, 249), (16, 1000, 249), (10, 1000, 249), (12, 65535, 255)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_white_is_what_a_png_declares(tmp_path, significant, brightest, shown, channels):
    file = tmp_path / "deep.png"
    values = np.full((4, 6, channels), brightest, np.uint16)
    file.write_bytes(sixteen_bit_png(values, significant))
    assert np.unique(fit_picture(file, COLOUR)).tolist() == [shown]


def test_transparent_grey_of_twelve_bits_is_on_white(tmp_path):
    file = tmp_path / "deep.png"
    values = np.full((4, 6, 2), 4095, np.uint16)
    values[0, :, 0], values[1, :, 1] = 0, 0
    file.write_bytes(sixteen_bit_png(values, None))
    assert fit_picture(file, GREY)[0, :3, 0].tolist() == [0, 255, 255]


@pytest.mark.parametrize(("greatest", "shown"), [(4095, 62), (65535, 249), (1000, 255)])
def test_white_is_the_greatest_value_of_a_pgm(tmp_path, greatest, shown):
    file = tmp_path / "deep.pgm"
    file.write_bytes(b"P5 6 4 %d\n" % greatest + np.full((4, 6), 1000, ">u2").tobytes())
    assert np.unique(fit_picture(file, GREY)).tolist() == [shown]


def test_colours_whose_lower_bits_cannot_be_had_are_refused(tmp_path):
    file = tmp_path / "deep.ppm"
    file.write_bytes(b"P6 6 4 65535\n" + np.full((4, 6, 3), 4000, ">u2").tobytes())
    with pytest.raises(PictureError, match="only the lower ones are used; save it as a PNG"):
        fit_picture(file, COLOUR)
    file.write_bytes(b"P6 6 4 65535\n" + np.full((4, 6, 3), 40000, ">u2").tobytes())
    assert np.unique(fit_picture(file, COLOUR)).tolist() == [156]


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_numbers_with_a_fraction_are_scaled_by_their_range(read, white):
    values = (RAMP / 255 * white).astype(np.float32)
    values[0, 0] = np.nan
    assert np.array_equal(read(Image.fromarray(values), kind="TIFF")[0], RAMP)


def test_32_bits_beyond_16_are_scaled_by_the_brightest(read):
    values = np.full((4, 6), 1_000_000, np.int32)
    values[0] = -5
    pixels = read(Image.fromarray(values), kind="TIFF")
    assert np.all(pixels[0, 0] == 0)
    assert np.all(pixels[0, 1:] == 255)


# Geometry


def test_it_stands_upright_as_the_camera_says(read):
    sideways = Image.fromarray(np.rot90(RAMP))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    assert np.array_equal(read(sideways, exif=exif)[0], RAMP)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_every_orientation_is_undone_as_by_pillow(tmp_path, orientation, kind):
    path = oriented(photo(0.3, "noise"), tmp_path / f"a.{kind}", orientation)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image)
    assert np.array_equal(read_picture(path, 3), expected)
    assert check_picture(path) == (*expected.size, 0.0)


def test_an_exif_block_that_is_damaged_does_no_harm(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    buffer = io.BytesIO()
    photo(0.3, "noise").save(buffer, "JPEG", exif=exif)
    whole = buffer.getvalue()
    start, length = whole.index(b"Exif"), int.from_bytes(whole[4:6]) - 8
    generator = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in generator.integers(start + 6, start + 6 + length, 4):
            content[place] = generator.integers(256)
        assert sorted(read_picture(io.BytesIO(content), 3).size) == [30, 40]


def test_the_middle_is_cut_out_in_the_models_aspect(read):
    wide = np.zeros((4, 20), np.uint8)
    wide[:, 7:13] = 200
    assert np.all(read(Image.fromarray(wide)) == 200)


def test_scaling_down_averages(read):
    fine = np.indices((40, 60)).sum(axis=0) % 2 * 255
    pixels = read(Image.fromarray(fine.astype(np.uint8)))
    assert np.all(np.abs(pixels.astype(int) - 127) <= 2)


def test_scaling_up_works_from_a_single_pixel(read):
    assert np.all(read(Image.new("L", (1, 1), 99)) == 99)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_it_is_the_first_frame(read, kind):
    frames = [plain(10, "L"), plain(200, "L")]
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = read(frames[0], kind=kind, save_all=True, append_images=frames[1:], **options)
    assert np.all(pixels == 10)


# What cannot be read


def png_of_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def whole_png() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


UNREADABLE = {
    "empty": (b"", "not a picture"),
    "text": (b"hello\n", "not a picture"),
    "one byte": (b"x", "not a picture"),
    "three bytes": (b"BM\n", "not a picture"),
    "pdf": (b"%PDF-1.4\n%%EOF\n", "not a picture"),
    "half": (whole_png()[:2000], "truncated"),
    "bomb": (png_of_size(17_000, 17_000), "268,435,456 pixels"),
    "larger bomb": (png_of_size(2**31 - 1, 2**31 - 1), "268,435,456 pixels"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n", "EPS"),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_is_no_picture_says_why(tmp_path, what):
    content, reason = UNREADABLE[what]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(PictureError, match=reason):
        fit_picture(tmp_path / "file", GREY)


def test_what_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(PictureError, match=r"^No such file or directory$"):
        fit_picture(tmp_path / "missing.png", GREY)
    with pytest.raises(PictureError, match=r"^Is a directory$"):
        fit_picture(tmp_path, GREY)


# Reading at a reduced size


def reduced(path, allowed: int) -> tuple[tuple[int, int], Image.Image]:
    """The size that the reduction was asked about, and the image."""
    asked = []
    image = read_picture(path, 3, lambda *size: asked.append(size) or allowed)
    return asked[-1], image


@pytest.mark.parametrize(
    ("allowed", "factor"),
    [(-1, 1), (0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (99, 8)],
)
def test_a_jpeg_is_reduced_by_the_largest_power_that_is_allowed(tmp_path, allowed, factor):
    smooth((101, 75)).save(tmp_path / "a.jpg", progressive=True)
    asked, image = reduced(tmp_path / "a.jpg", allowed)
    assert asked == (101, 75)
    assert image.size == (-(-101 // factor), -(-75 // factor))


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_a_reduced_jpeg_of_any_colours_looks_like_the_whole(tmp_path, mode):
    smooth((160, 120)).convert(mode).save(tmp_path / "a.jpg", quality=95)
    _, image = reduced(tmp_path / "a.jpg", 4)
    assert image.size == (40, 30)
    whole = read_picture(tmp_path / "a.jpg", 3).resize((40, 30), Image.Resampling.BOX)
    assert np.abs(np.asarray(image, int) - np.asarray(whole, int)).mean() < 2


@pytest.mark.parametrize(("size", "factor"), [((160, 120), 8), ((164, 120), 4), ((161, 120), 1)])
def test_a_jpeg_on_its_side_is_reduced_by_what_divides_it(tmp_path, size, factor):
    path = oriented(smooth(size), tmp_path / "a.jpg", 6)
    asked, image = reduced(path, 8)
    assert asked == size[::-1]
    assert image.size == (size[1] // factor, size[0] // factor)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (7, 3), (15, 16)])
def test_a_small_jpeg_keeps_a_pixel(tmp_path, size):
    Image.new("RGB", size, (90, 90, 90)).save(tmp_path / "a.jpg")
    _, image = reduced(tmp_path / "a.jpg", 8)
    assert min(image.size) >= 1
    assert np.abs(np.asarray(image, int) - 90).max() <= 2


def test_other_formats_are_read_whole(tmp_path):
    smooth((80, 60)).save(tmp_path / "a.png")
    image = read_picture(tmp_path / "a.png", 3, lambda width, height: 8)
    assert image.size == (80, 60)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_a_picture_cut_off_is_refused_at_any_size(tmp_path, kind, kept):
    path = tmp_path / f"a.{kind}"
    photo(0.3, "noise", (160, 120)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    for reading in (check_picture, lambda path: read_picture(path, 3, lambda w, h: 8)):
        with pytest.raises(PictureError):
            reading(path)


# Dark on light


def test_digits_and_their_negatives_are_told_apart():
    digits = read_sample()["t10k-images-idx3-ubyte"][:, None]
    assert not dark_on_light(digits).any()
    assert dark_on_light(255 - digits).all()


def test_dim_paper_is_light_beside_its_ink():
    paper = np.full((1, 1, 28, 28), 90, np.uint8)
    paper[..., 8:20, 12:15] = 30
    assert dark_on_light(paper).tolist() == [True]
    assert dark_on_light(120 - paper).tolist() == [False]


def test_a_thing_that_touches_the_edge_is_not_the_ground():
    thing = np.zeros((1, 1, 28, 28), np.uint8)
    thing[..., :10, :] = 255
    assert dark_on_light(thing).tolist() == [False]


def test_without_an_inside_nothing_is_inverted():
    assert dark_on_light(np.full((3, 1, 1, 50), 255, np.uint8)).tolist() == [False] * 3


def test_a_jpeg_whose_orientation_is_in_xmp_alone_is_upright(tmp_path):
    lying = plain((200, 0, 0))
    xmp = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf'
        b'-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" '
        b'tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    lying.save(tmp_path / "lying.jpg", xmp=xmp)
    assert read_picture(tmp_path / "lying.jpg", 3).size == (lying.height, lying.width)


def test_a_jpeg_whose_orientation_stands_behind_much_else_is_upright(tmp_path):
    lying = plain((200, 0, 0))
    content = oriented(lying, tmp_path / "lying.jpg", 6).read_bytes()
    other = b"\xff\xe5" + struct.pack(">H", 60_002) + bytes(60_000)
    (tmp_path / "lying.jpg").write_bytes(with_segments(content, other, other))
    assert read_picture(tmp_path / "lying.jpg", 3).size == (lying.height, lying.width)
