"""Bytes to pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lib import images
from lib.failures import Unreadable
from lib.records import ImageRule

RULE = ImageRule(size_px=64)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def halves(width: int = 64, height: int = 64, mode: str = "RGB") -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", (width, height), "blue")
    image.paste("red", (0, 0, width // 2, height))
    return image.convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a size and whose pixels are missing."""
    fields = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + fields + struct.pack(">I", zlib.crc32(fields))
    return b"\x89PNG\r\n\x1a\n" + chunk + encoded(halves())[33:]


def test_an_image_of_the_right_size_is_not_touched() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(images.decode(encoded(Image.fromarray(pixels)), RULE), pixels)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_format_decodes_to_the_same_picture(kind: str) -> None:
    lossless = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    pixels = images.decode(encoded(halves(), kind, **lossless), RULE)
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels[32, 8], (255, 0, 0), atol=6)
    np.testing.assert_allclose(pixels[32, 56], (0, 0, 255), atol=6)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "P"), ("GIF", "P"), ("TIFF", "CMYK")])
def test_other_colour_models_become_rgb(kind: str, mode: str) -> None:
    pixels = images.decode(encoded(halves(mode=mode), kind), RULE)
    np.testing.assert_allclose(pixels[32, 8], (255, 0, 0), atol=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "red_at"),
    [(1, (32, 8)), (2, (32, 56)), (3, (32, 56)), (6, (8, 32)), (8, (56, 32))],
)
def test_exif_orientation_is_obeyed(kind: str, orientation: int, red_at: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = images.decode(encoded(halves(), kind, exif=exif), RULE)
    assert pixels[red_at][0] > 200
    assert pixels[red_at][2] < 60


def test_alpha_is_laid_over_white_without_dark_edges() -> None:
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 128, 256))
    pixels = images.decode(encoded(image), RULE).astype(int)
    np.testing.assert_array_equal(pixels[32, 60], (255, 255, 255))
    assert pixels[:, :, 0].min() >= 250


def test_a_transparent_palette_colour_becomes_white() -> None:
    image = halves(mode="P")
    blue = image.getpixel((60, 32))
    pixels = images.decode(encoded(image, transparency=blue), RULE)
    np.testing.assert_array_equal(pixels[32, 60], (255, 255, 255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind: str) -> None:
    deep = np.full((64, 64), 40_000, np.uint16)
    pixels = images.decode(encoded(Image.fromarray(deep), kind), RULE)
    assert set(pixels.ravel()) == {40_000 >> 8}


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (64, 64), "lime"), Image.new("RGB", (64, 64), "red")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(images.decode(data, RULE)[0, 0], (0, 255, 0))


@pytest.mark.parametrize(
    ("width", "height", "inside", "outside"),
    [
        (200, 100, (32, 2), (8, 32)),
        (100, 200, (2, 32), (32, 8)),
    ],
)
def test_the_whole_image_fits_and_the_rest_is_grey(
    width: int, height: int, inside: tuple[int, int], outside: tuple[int, int]
) -> None:
    pixels = images.decode(encoded(Image.new("RGB", (width, height), "lime")), RULE)
    np.testing.assert_array_equal(pixels[inside], (0, 255, 0))
    np.testing.assert_array_equal(pixels[outside], (128, 128, 128))


@pytest.mark.parametrize("size_px", [128, 192, 640])
def test_what_is_shrunk_is_averaged(size_px: int) -> None:
    stripes = np.zeros((size_px, size_px, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels = images.decode(encoded(Image.fromarray(stripes)), RULE)
    np.testing.assert_allclose(pixels[8:-8, 8:-8], 128, atol=16)


def test_a_thin_image_keeps_at_least_one_pixel() -> None:
    pixels = images.decode(encoded(Image.new("RGB", (1, 5000), "lime")), RULE)
    assert (pixels == (0, 255, 0)).all(2).sum() == 64


def test_a_large_jpeg_is_decoded_at_a_reduced_scale_to_nearly_the_same_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((1600, 1600), Image.Resampling.BICUBIC)
    jpeg = images.decode(encoded(picture, "JPEG", quality=95), RULE).astype(int)
    whole = images.decode(encoded(picture, "PNG"), RULE).astype(int)
    assert np.abs(jpeg - whole).mean() < 3


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", "empty", "the file is empty"),
        (b"hello, I am a text file called .jpg", "not_an_image", "none of JPEG, PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "heic", "save them as JPEG"),
        (encoded(halves(), "JPEG")[:-200], "truncated", "truncated"),
        (encoded(halves())[:60], "truncated", "truncated"),
        (png_header(20_000, 20_000), "too_large", "pixels"),
        (png_header(6_000, 6_000), "too_large", "at most 25,000,000 pixels"),
        (encoded(Image.new("F", (64, 64)), "TIFF"), "unsupported", "8 or 16 bits"),
        (encoded(Image.new("RGB", (8, 8)), "PPM"), "not_an_image", "none of"),
        (encoded(halves(), "PNG") + b"x" * images.MAX_BYTES, "too_large", "bytes"),
    ],
    ids=["empty", "text", "heic", "cut jpeg", "cut png", "bomb", "36 MP", "float", "ppm", "33 MB"],
)
def test_what_cannot_be_read_says_why(data: bytes, code: str, words: str) -> None:
    with pytest.raises(Unreadable, match=words) as caught:
        images.decode(data, RULE)
    assert caught.value.code == code


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = encoded(halves(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert images.decode(data, RULE)[32, 8, 0] > 200


@pytest.mark.parametrize(("key", "is_image"), [
    ("a/b.jpg", True), ("B.JPEG", True), ("a.webp", True), ("LICENSE", False), ("a.jpg.txt", False),
    ("photos.jpg/notes", False), (".png", False),
])  # fmt: skip
def test_endings_tell_images_from_other_files(key: str, is_image: bool) -> None:
    assert images.has_image_extension(key) is is_image
