from __future__ import annotations

import io
import os
import socket
import sys
from contextlib import suppress

import pytest
from PIL import Image

from discern.data import costs
from discern.data.jpeg import head_of
from discern.data.pictures import FORMATS, PictureError, check_picture, fit_picture, read_picture
from discern.errors import DiscernError
from hostile.pictures import OTHERS, bmp, bombs, damaged, jpeg, jpeg2000, png, tiff
from starter import invoke

REFUSED = {
    "scans": (lambda: jpeg(9_400, 9_400, scans=300), "310 passes"),
    "pixels": (lambda: jpeg(65_500, 65_500), "268,435,456 pixels"),
    "arithmetic": (lambda: jpeg(64, 64, frame=0xCA), "neither baseline nor progressive"),
    "blocks": (lambda: jpeg2000(4_000, 4_000, block=0), "decoding it takes"),
    "precincts": (lambda: jpeg2000(4_000, 4_000, precinct=0), "decoding it takes"),
    "tiles": (lambda: jpeg2000(16_000, 16_000, tile=(64, 64)), "decoding it takes"),
    "strips": (lambda: tiff(1, 100_000, b"\0", strips=100_000), "100,000 pieces"),
    "tile": (lambda: tiff(9, 9, b"\0", 8, tile=(30_000, 30_000)), "decoding it takes"),
    "old jpeg": (lambda: tiff(64, 64, b"\0", 6), "tiff_jpeg, which is not read"),
    "jumps": (lambda: bmp(1_000_000, 200, 8, 1), "8,388,608 pixels"),
    "rows": (lambda: png(1, 2_000_000, kind=0), "1 x 2,000,000 pixels, and a side"),
    "no rows": (lambda: jpeg(64, 0), "damaged before its pixels"),
    "comment": (lambda: b"P6 #" + b"a" * 70_000 + b"\n8 8 255\n" + bytes(192), "first 65,536"),
    "spaces": (lambda: b"P4 8" + b" " * 70_000 + b"8\n" + bytes(8), "first 65,536"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_asks_for_too_much_is_refused_before_it_is_decoded(what):
    make, reason = REFUSED[what]
    with pytest.raises(PictureError, match=reason):
        read_picture(io.BytesIO(make()), 3)


@pytest.mark.parametrize("kind", OTHERS)
def test_another_format_is_refused_by_its_name(kind):
    told = "XBM" if kind == "XPM" else kind
    with pytest.raises(PictureError, match=f"^{told}, which is"):
        read_picture(io.BytesIO(OTHERS[kind]), 3)
    assert kind not in FORMATS


def test_the_variable_allows_more_or_less(monkeypatch):
    content = png(1_200, 1_200)
    assert read_picture(io.BytesIO(content), 3).size == (1_200, 1_200)
    monkeypatch.setenv(costs.SETTING, "2")
    with pytest.raises(PictureError, match=r"more than 1,048,576 pixels; DISCERN_MAX_PICTURE_MB"):
        read_picture(io.BytesIO(content), 3)
    monkeypatch.setenv(costs.SETTING, "many")
    with pytest.raises(DiscernError, match=r"^DISCERN_MAX_PICTURE_MB=many must be a whole number"):
        read_picture(io.BytesIO(content), 3)


@pytest.mark.parametrize(
    ("orientation", "progressive"),
    [
        (1, False),
        pytest.param(6, False, marks=pytest.mark.slow),
        pytest.param(6, True, marks=pytest.mark.slow),
    ],
)
def test_a_photograph_of_200_megapixels_is_read_at_a_smaller_scale(
    tmp_path, orientation, progressive
):
    path, exif = tmp_path / "large.jpg", Image.Exif()
    exif[0x0112] = orientation
    whole = Image.new("RGB", (16_320, 12_240), (200, 90, 10))
    whole.save(path, quality=50, exif=exif, progressive=progressive)
    asked = []
    image = read_picture(path, 3, lambda *size: asked.append(size) or 1)
    size = (16_320, 12_240) if orientation == 1 else (12_240, 16_320)
    assert asked[-1] == size
    assert image.size == (size[0] // 4, size[1] // 4)
    assert check_picture(path) == (*size, 0.0)


def test_a_progressive_photograph_of_200_megapixels_is_within_the_bounds():
    head = head_of(jpeg(16_320, 12_240))
    assert head.coefficients > costs.max_bytes()
    assert head.work(4) <= costs.max_work()


@pytest.mark.parametrize(
    "head", [b"P6 8 8 255\n", b"P6\n# by hand\n8 8\n255\n", b"P5 8 8 255\n", b"P4\n8 8\n"]
)
def test_a_long_ppm_with_an_ordinary_head_is_read(head):
    content = head + bytes(70_000)
    assert read_picture(io.BytesIO(content), 3).size == (8, 8)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P", "I;16", "F"])
def test_a_large_picture_of_another_format_is_made_smaller(monkeypatch, mode):
    monkeypatch.setattr(costs, "_REDUCED_TO", 1_000)
    image = Image.effect_noise((120, 80), 30)
    image = (
        image.convert("RGBA" if mode == "RGBA" else mode) if mode != "I;16" else image.convert("I")
    )
    if mode == "I;16":
        image = image.convert("I;16")
    content = io.BytesIO()
    image.save(content, "TIFF")
    whole = read_picture(content, 3)
    monkeypatch.setattr(
        "discern.data.pictures.factor_for", lambda pixels, beyond=0: costs.factor_for(pixels, 1_000)
    )
    small = read_picture(content, 3)
    assert (whole.size, small.size) == ((120, 80), (30, 20))
    expected = whole.reduce(4).tobytes()
    assert max(abs(a - b) for a, b in zip(small.tobytes(), expected, strict=True)) <= 1


@pytest.mark.parametrize("what", ["pipe", "device", "socket"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, monkeypatch, what):
    path = tmp_path / "x.jpg"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        socket.socket(socket.AF_UNIX).bind("x.jpg")
    with pytest.raises(PictureError, match="not a regular file"):
        fit_picture(path, (1, 4, 6))


def read_all(seed: int, count: int) -> None:
    """Read so many damaged pictures: nothing else is raised than what says why one is not read."""
    for _, (_, content) in zip(range(count), damaged(seed), strict=False):
        with suppress(PictureError):
            assert read_picture(io.BytesIO(content), 3).mode == "RGB"


def test_damaged_pictures_end_in_a_picture_or_a_reason():
    read_all(7, 300)


READ = """
import resource, sys, threading
from pathlib import Path
from PIL import Image
from discern.data.pictures import PictureError, fit_picture
Image.init()
def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
def read(path):
    try:
        fit_picture(path, (3, 28, 28))
    except PictureError:
        pass
before = megabytes()
for path in sorted(Path(sys.argv[1]).iterdir()):
    threads = [threading.Thread(target=read, args=[path]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert megabytes() - before < 1000, (path, megabytes() - before)
print("read")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is told in other units")
def test_four_bombs_at_once_stay_below_a_gigabyte(tmp_path):
    (tmp_path / "bombs").mkdir()
    for name, content in bombs():
        (tmp_path / "bombs" / name).write_bytes(content)
    done = invoke("-c", READ, str(tmp_path / "bombs"), cwd=tmp_path)
    assert done.stdout == "read\n", done.stderr


@pytest.mark.slow
def test_many_damaged_pictures_end_in_a_picture_or_a_reason():
    read_all(11, 5_000)
