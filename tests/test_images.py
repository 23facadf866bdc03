"""Pictures of any mode and size are read; what is none is named."""

import numpy as np
import pytest
from PIL import Image

from examples.support import images

SIDE = images.SIDE


def stroke(size=(90, 60)):
    """A dark stroke on light paper."""
    pixels = np.full(size[::-1], 230, np.uint8)
    pixels[size[1] // 4 : size[1] // 2, size[0] // 3 : size[0] // 2] = 20
    return Image.fromarray(pixels)


def transparent():
    """The same stroke, all that is no ink transparent, under which is black."""
    pixels = np.zeros((60, 90, 4), np.uint8)
    pixels[15:30, 30:45] = (20, 20, 20, 255)
    return Image.fromarray(pixels)


def deep(dtype, low, high):
    grey = np.asarray(stroke(), np.float64)
    return Image.fromarray((low + (high - low) * grey / 255).astype(dtype))


MODES = {
    "L": stroke(),
    "1": stroke().convert("1", dither=Image.Dither.NONE),
    "P": stroke().convert("P"),
    "RGB": stroke().convert("RGB"),
    "RGBA": transparent(),
    "LA": transparent().convert("LA"),
    "P with transparency": transparent().quantize(4),
    "CMYK": stroke().convert("CMYK"),
    "YCbCr": stroke().convert("YCbCr"),
    "HSV": stroke().convert("HSV"),
    "I;16": deep(np.uint16, 0, 65_535),
    "I": deep(np.int32, -1_000, 90_000),
    "F": deep(np.float32, 0, 1),
    "chalk": Image.fromarray(255 - np.asarray(stroke())),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_ink_is_the_same_in_every_mode(mode):
    found, expected = images.fit(MODES[mode], colour=False), images.fit(stroke(), colour=False)
    assert found.shape == (SIDE, SIDE, 1)
    assert found.dtype == np.uint8
    strong = expected > 200
    assert strong.sum() > 80
    np.testing.assert_array_equal(found > 200, strong)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (64, 64), (3, 7), (2_000, 1), (1, 999), (300, 200)])
def test_every_size_is_fitted(size, colour):
    found = images.fit(Image.new("RGB", size, (200, 30, 30)), colour)
    assert found.shape == (SIDE, SIDE, 3 if colour else 1)
    if colour:
        assert found[SIDE // 2 - 1, SIDE // 2 - 1].tolist() == [200, 30, 30]
    else:
        assert not found.any()  # a sheet without ink


def test_a_canvas_is_read_as_it_was_written(tmp_path):
    ink = images.strong(np.random.default_rng(0).integers(0, 3, (SIDE, SIDE)) == 2)
    path = tmp_path / "canvas.png"
    Image.fromarray(255 - ink).save(path)
    np.testing.assert_array_equal(images.read(path, colour=False)[..., 0], ink)


def test_turned_photos_and_the_first_frame(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    stroke().save(tmp_path / "photo.png", exif=exif)
    expected = images.fit(stroke().transpose(Image.Transpose.ROTATE_270), colour=False)
    np.testing.assert_array_equal(images.read(tmp_path / "photo.png", colour=False), expected)
    blank = Image.new("L", stroke().size, 230)
    stroke().save(tmp_path / "two.gif", save_all=True, append_images=[blank])
    assert images.read(tmp_path / "two.gif", colour=False).max() == 255


def broken(folder):
    stroke().save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    files = {"cut.png": data[: len(data) // 2], "empty.png": b"", "text.png": b"no picture at all"}
    files["garbled.jpg"] = b"\xff\xd8\xff\xe0" + bytes(range(200))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


def test_what_is_no_picture_is_named(tmp_path):
    for name in broken(tmp_path):
        with pytest.raises(ValueError, match=rf"{name}: expected a picture, such as a PNG"):
            images.read(tmp_path / name, colour=False)
    with pytest.raises(OSError, match=r"nowhere\.png"):
        images.read(tmp_path / "nowhere.png", colour=True)
    with pytest.raises(OSError, match=tmp_path.name):
        images.read(tmp_path, colour=True)


def test_pictures_too_large_for_the_memory_are_refused(tmp_path, monkeypatch):
    stroke().save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(ValueError, match=r"large\.png: expected a picture"):
        images.read(tmp_path / "large.png", colour=False)
