"""Bytes to pixels: the only place where an image is decoded, for training, batch and demo alike."""

from __future__ import annotations

import io
import warnings
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
from PIL import (  # the plugins register the decoders of FORMATS, and no others are loaded
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from lib.failures import Unreadable
from lib.records import ImageRule

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The decoders that bytes may reach, by Pillow's names."""

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""File endings, in lower case, that are taken for images when a folder is listed."""

MAX_BYTES = 32 * 2**20
"""The largest file that is decoded, in bytes."""

MAX_PIXELS = 25_000_000
"""The largest image that is decoded whole, in pixels: about 200 MB with an alpha channel."""

MAX_JPEG_PIXELS = 50_000_000
"""The largest JPEG, in pixels; it is decoded at a reduced scale and never held whole."""

PADDING_GREY = 128
"""The level, 0 to 255, around an image that is not square."""

# Pillow only warns between one and two times its own cap; a warning would let the image through.
warnings.simplefilter("error", Image.DecompressionBombWarning)
# What else it warns of, such as damaged EXIF, costs no pixel and would fill the log of a batch.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def has_image_extension(key: str) -> bool:
    """Return whether a key or path ends like an image."""
    return PurePosixPath(key).suffix.lower() in EXTENSIONS


def decode(data: bytes, rule: ImageRule) -> np.ndarray:
    """Return the first frame of an encoded image as uint8 (size_px, size_px, 3), RGB, 0 to 255.

    Turned upright by its EXIF orientation, alpha laid over white, 16 bits scaled to 8, then resized
    by `rule`. The same bytes give the same pixels, whoever asks.

    Raises:
        Unreadable: the bytes are not one of `FORMATS`, are damaged, or are over the caps.
    """
    if not data:
        raise Unreadable("empty", "the file is empty")
    if len(data) > MAX_BYTES:
        raise Unreadable("too_large", f"at most {MAX_BYTES:,} bytes. Received: {len(data):,}")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_pixels(image)
            image.draft(None, _fitted(image.size, rule.size_px))
            image.load()
            return _square(_upright(image), rule.size_px)
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise _unknown(data) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Unreadable("too_large", "the header promises more pixels than are allowed") from error
    except Exception as error:  # a decoder fed with damaged bytes may raise nearly anything
        code = "truncated" if "truncated" in str(error).lower() else "damaged"
        raise Unreadable(
            code, f"the image is {code}: {str(error) or type(error).__name__}"
        ) from error


def taken_s(data: bytes) -> float:
    """Return when an encoded image was taken, by its EXIF: seconds from any start; NaN if unknown.

    The camera's clock has no zone: only the time between two images means anything.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            exif = image.getexif()
            text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
            text = text or exif.get(ExifTags.Base.DateTime) or ""
        taken = datetime.strptime(text.strip("\0 "), "%Y:%m:%d %H:%M:%S")
        return taken.replace(tzinfo=UTC).timestamp()
    except Exception:  # damaged EXIF may raise nearly anything, and says nothing
        return float("nan")


def _check_pixels(image: Image.Image) -> None:
    n_pixels = image.width * image.height
    # Pillow says MPO where a phone put several pictures into one JPEG.
    allowed = MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    if n_pixels > allowed:
        raise Unreadable(
            "too_large",
            f"at most {allowed:,} pixels. Received: {image.width:,} × {image.height:,}",
        )


def _unknown(data: bytes) -> Unreadable:
    """Say what the bytes are, where people are known to stumble over it."""
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return Unreadable("heic", "HEIC photographs are not read; save them as JPEG")
    return Unreadable("not_an_image", f"the bytes are none of {', '.join(FORMATS)}")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing of the pixels: they stay as they are
        return image


def _fitted(size: tuple[int, int], size_px: int) -> tuple[int, int]:
    """Return the (width, height) at which the whole image just fits the square."""
    longest = max(size)
    return tuple(max(1, round(side * size_px / longest)) for side in size)


def _square(image: Image.Image, size_px: int) -> np.ndarray:
    image = _blendable(image)
    fitted = _fitted(image.size, size_px)
    if image.size != fitted:
        image = image.resize(fitted, Image.Resampling.BILINEAR, reducing_gap=2.0)
    image = _over_white(image)
    if image.size == (size_px, size_px):
        return np.array(image)
    canvas = Image.new("RGB", (size_px, size_px), (PADDING_GREY,) * 3)
    canvas.paste(image, ((size_px - image.width) // 2, (size_px - image.height) // 2))
    return np.array(canvas)


def _blendable(image: Image.Image) -> Image.Image:
    """Return the image in a mode whose neighbouring values may be averaged."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unreadable(
            "unsupported", "32-bit images have no fixed range; save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
