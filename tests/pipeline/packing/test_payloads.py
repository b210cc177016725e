"""What is kept byte for byte, what becomes a JPEG, and what its pixels are then."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.errors import ShardError
from pipeline.packing.payloads import Checked, check, measure, payload_of, shrunk, upright
from pipeline.pictures.images import decode, traits_of
from tests import pictures
from tests.pictures import encoded, scene


def packed(folder: Path, data: bytes, max_side: int | None = None) -> tuple[Checked, bytes]:
    path = folder / "x"
    path.write_bytes(data)
    checked = check(str(path), max_side=max_side)
    assert checked.problem is None
    assert (measure(str(path)).size, measure(str(path)).crc) == (checked.size, checked.crc)
    return checked, payload_of(str(path), checked, max_side=max_side, quality=95)


KEPT = {
    "jpg": pictures.jpeg(1),
    "png": encoded(scene(1), "PNG"),
    "webp": encoded(scene(1), "WEBP"),
}
GREY = {
    "jpg": encoded(Image.fromarray(scene(1)).convert("L"), "JPEG"),
    "png": encoded(Image.fromarray(scene(1)).convert("L"), "PNG"),
}


@pytest.mark.parametrize(("extension", "data"), [*KEPT.items(), *GREY.items()])
def test_plain_images_are_kept_byte_for_byte(tmp_path: Path, extension: str, data: bytes) -> None:
    checked, payload = packed(tmp_path, data, max_side=64)
    assert payload == data
    assert (checked.extension, checked.remade) == (extension, ())


def smooth() -> Image.Image:
    """A picture that JPEG changes little, so that what remains is the policy."""
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 48))
    return Image.fromarray(np.dstack([x, y, 255 - x]).astype(np.uint8))


ODD = {
    "CMYK": encoded(smooth().convert("CMYK"), "JPEG", quality=95),
    "16-bit": encoded(Image.fromarray(np.linspace(0, 65535, 48 * 64, dtype=np.uint16).reshape(48, 64)), "PNG"),
    "1-bit": encoded(smooth().convert("1", dither=Image.Dither.NONE), "PNG"),
    "palette": encoded(smooth().quantize(256), "PNG"),
    "alpha": encoded(Image.merge("RGBA", (*smooth().split(), smooth().split()[0])), "PNG"),
    "animated": pictures.animation("WEBP", 2, 64, 48),
}


@pytest.mark.parametrize("reason", list(ODD))
def test_odd_images_become_plain_jpegs_of_the_same_pixels(tmp_path: Path, reason: str) -> None:
    checked, payload = packed(tmp_path, ODD[reason])
    assert checked.remade == (reason,)
    assert checked.extension == "jpg"
    assert traits_of(payload).odd == ()
    difference = np.abs(decode(payload).astype(int) - decode(ODD[reason]))
    assert difference.mean() < (4 if reason in ("1-bit", "palette", "animated") else 1.5)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_baked_in(tmp_path: Path, orientation: int) -> None:
    data = pictures.with_orientation(3, orientation)
    checked, payload = packed(tmp_path, data)
    shown = np.asarray(ImageOps.exif_transpose(pictures.opened(data)))
    assert checked.remade == ("rotated",)
    assert np.array_equal(upright(decode(data), orientation), shown)
    assert np.abs(decode(payload).astype(int) - shown).mean() < 2
    assert traits_of(payload).orientation == 1


def test_large_images_shrink_to_the_longest_side(tmp_path: Path) -> None:
    checked, payload = packed(tmp_path, pictures.jpeg(1, 90, 40), max_side=45)
    assert checked.remade == ("large",)
    assert decode(payload).shape == (20, 45, 3)
    checked, payload = packed(tmp_path, pictures.with_orientation(1, 6, width=90, height=40), max_side=45)
    assert checked.remade == ("rotated", "large")
    assert decode(payload).shape == (45, 20, 3)
    assert shrunk(scene(1, 400, 2), 40).shape == (1, 40, 3)
    assert shrunk(scene(1, 40, 30), 40).shape == (30, 40, 3)


def test_what_cannot_be_packed_says_why(tmp_path: Path) -> None:
    (tmp_path / "gif").write_bytes(pictures.animation("GIF"))
    (tmp_path / "cut").write_bytes(pictures.jpeg(1)[:-300])
    assert check(str(tmp_path / "gif"), max_side=None).problem == "looks like GIF; only JPEG, PNG and WebP are read"
    assert (check(str(tmp_path / "cut"), max_side=None).problem or "").startswith(
        "cannot be decoded as JPEG: image file"
    )
    for function in (measure, lambda path: check(path, max_side=None)):
        assert function(str(tmp_path / "none")).problem == "cannot be read: No such file or directory"
        assert function(str(tmp_path)).problem == "cannot be read: Is a directory"


def test_a_file_that_changes_between_check_and_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(pictures.jpeg(1))
    checked = check(str(path), max_side=None)
    path.write_bytes(pictures.jpeg(2))
    with pytest.raises(ShardError) as error:
        payload_of(str(path), checked, max_side=None, quality=95)
    assert str(error.value) == (
        f"{path} changed while it was being packed. Let nothing write to the images, and pack again."
    )
    path.unlink()
    with pytest.raises(ShardError, match=r"x.jpg cannot be read any more: No such file or directory. Pack again\."):
        payload_of(str(path), checked, max_side=None, quality=95)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    for look in (measure(str(tmp_path / "x.jpg")), check(str(tmp_path / "x.jpg"), max_side=None)):
        assert look.size == -1 and look.problem == "cannot be read: it is no file, but a pipe or a device"
