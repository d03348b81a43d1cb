"""Bytes to pixels: the only place where an image is decoded, for training, batch and demo alike."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from pathlib import PurePosixPath

import numpy as np
from PIL import (  # the plugins register the decoders of FORMATS, and no others are loaded
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from lib import headers
from lib.failures import Unreadable
from lib.records import ImageRule

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The decoders that bytes may reach, by Pillow's names."""

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
"""File endings, in lower case, that are taken for images when a folder is listed."""

MAX_BYTES = 32 * 2**20
"""The largest file that is decoded, in bytes."""

MAX_PIXELS = 25_000_000
"""The largest image that is decoded whole, in pixels: about 200 MB in four colours."""

MAX_COPIED_PIXELS = 16_000_000
"""The largest WebP or TIFF, in pixels, of which the decoder holds copies: about 260 MB."""

MAX_JPEG_PIXELS = 50_000_000
"""The largest JPEG of one scan, in pixels; it is decoded at a reduced scale, never held whole."""

PADDING_GREY = 128
"""The level, 0 to 255, around an image that is not square."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what undoes each orientation of EXIF

_ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 274, 322, 323  # tags of EXIF and TIFF

# Pillow only warns between one and two times its own cap; a warning would let the image through.
warnings.simplefilter("error", Image.DecompressionBombWarning)
# What else it warns of, such as damaged EXIF, costs no pixel and would fill the log of a batch.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def has_image_extension(key: str) -> bool:
    """Return whether a key or path ends like an image."""
    return PurePosixPath(key).suffix.lower() in EXTENSIONS


def decode(data: bytes, rule: ImageRule) -> np.ndarray:
    """Return the first frame of an encoded image as uint8 (size_px, size_px, 3), RGB, 0 to 255.

    Alpha laid over white, 16 bits scaled to 8, resized by `rule` and turned upright by its EXIF
    orientation. The same bytes give the same pixels, whoever asks.

    Raises:
        Unreadable: the bytes are not one of `FORMATS`, are damaged, or are over the caps.
    """
    if not data:
        raise Unreadable("empty", "the file is empty")
    if len(data) > MAX_BYTES:
        raise Unreadable("too_large", f"at most {MAX_BYTES:,} bytes. Received: {len(data):,}")
    try:
        headers.check(data)
        with Image.open(headers.Metered(data), formats=FORMATS) as image:
            _check(image, data)
            image.draft(None, _fitted(image.size, rule.size_px))
            image.fp.n_reads_left = headers.MAX_READS
            image.load()
            return _square(image, rule.size_px)
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
        headers.check(data)
        with Image.open(headers.Metered(data), formats=FORMATS) as image:
            headers.check_exif(image)
            exif = image.getexif()
            text = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
            text = text or exif.get(ExifTags.Base.DateTime) or ""
        taken = datetime.strptime(text.strip("\0 "), "%Y:%m:%d %H:%M:%S")
        return taken.replace(tzinfo=UTC).timestamp()
    except Exception:  # damaged EXIF may raise nearly anything, and says nothing
        return float("nan")


def _check(image: Image.Image, data: bytes) -> None:
    """Refuse an opened image that would take too much memory or time to decode."""
    n_pixels = max(image.width * image.height, _tile_pixels(image))
    allowed = _allowed_pixels(image, data)
    if n_pixels > allowed:
        raise Unreadable(
            "too_large",
            f"at most {allowed:,} pixels. Received: {n_pixels:,}",
        )
    if image.format in ("JPEG", "MPO"):
        headers.check_scans(image, data)
    if any(tile.codec_name == "bmp_rle" for tile in image.tile):
        # Decoded by Pillow in Python: seconds, and gigabytes for one that jumps over lines.
        raise Unreadable("unsupported", "run-length encoded BMP is not read; save it as PNG")


def _allowed_pixels(image: Image.Image, data: bytes) -> int:
    if image.format in ("WEBP", "TIFF"):
        return MAX_COPIED_PIXELS
    return MAX_JPEG_PIXELS if headers.is_streamed(image, data) else MAX_PIXELS


def _tile_pixels(image: Image.Image) -> int:
    """Return how many pixels a tile of a TIFF has, which may be more than the image."""
    if image.format != "TIFF":
        return 0
    return image.tag_v2.get(_TILE_WIDTH, 0) * image.tag_v2.get(_TILE_HEIGHT, 0)


def _unknown(data: bytes) -> Unreadable:
    """Say what the bytes are, where people are known to stumble over it."""
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return Unreadable("heic", "HEIC photographs are not read; save them as JPEG")
    return Unreadable("not_an_image", f"the bytes are none of {', '.join(FORMATS)}")


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how an image is turned upright; a TIFF is by now."""
    try:
        headers.check_exif(image)
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # damaged EXIF says nothing of the pixels: they stay as they are
        return None


def _fitted(size: tuple[int, int], size_px: int) -> tuple[int, int]:
    """Return the (width, height) at which the whole image just fits the square."""
    longest = max(size)
    return tuple(max(1, round(side * size_px / longest)) for side in size)


def _square(image: Image.Image, size_px: int) -> np.ndarray:
    turn = _turn(image)
    image = _blendable(image)
    fitted = _fitted(image.size, size_px)
    if image.size != fitted:
        image = image.resize(fitted, Image.Resampling.BILINEAR, reducing_gap=2.0)
    image = _over_white(image)
    if turn is not None:
        image = image.transpose(turn)
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
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "RGBA"):
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
