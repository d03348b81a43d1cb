"""Images that were damaged on purpose, the same ones in every run, and what decoding them costs.

python -m tests.mutants FOLDER   decodes every file there and tells of each in a line of JSON
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib import images
from lib.failures import Unreadable
from lib.records import ImageRule

RULE = ImageRule(size_px=64)

EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 4999, 5000, 65_500)

FORMAT_ENDINGS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "GIF": "gif",
    "BMP": "bmp",
    "TIFF": "tif",
}


# ---- Sound images -----------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sound() -> list[tuple[str, bytes]]:
    """Return images of every format that may be read, and of most ways to write it."""
    noise = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((60, 45), Image.Resampling.BICUBIC)
    rgb, frames = picture.convert("RGB"), [picture.rotate(90).convert("RGB")]
    deep = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "a camera"
    several: dict[str, Any] = {"save_all": True, "append_images": frames}
    made: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("JPEG", rgb, {"exif": turned}), ("JPEG", rgb, {"progressive": True, "subsampling": 0}),
        ("JPEG", rgb.convert("CMYK"), {}), ("JPEG", rgb.convert("L"), {"comment": b"hello"}),
        ("PNG", rgb, {"exif": turned}), ("PNG", picture, {}), ("PNG", rgb.convert("P"), {}),
        ("PNG", rgb.convert("P"), {"transparency": 3}), ("PNG", deep, {}), ("PNG", rgb.convert("1"), {}),
        ("PNG", rgb, several),
        ("WEBP", rgb, {"exif": turned}), ("WEBP", picture, {"lossless": True}), ("WEBP", rgb, several),
        ("GIF", rgb, several), ("GIF", rgb.convert("P"), {"transparency": 3, "comment": b"hello"}),
        ("BMP", rgb, {}), ("BMP", rgb.convert("P"), {}), ("BMP", rgb.convert("1"), {}),
        ("TIFF", rgb, {"exif": turned}), ("TIFF", picture, {"compression": "tiff_lzw"}),
        ("TIFF", rgb, {"compression": "tiff_adobe_deflate"}), ("TIFF", deep, {"compression": "packbits"}),
        ("TIFF", rgb, {"compression": "jpeg"}), ("TIFF", rgb.convert("CMYK"), several),
        ("TIFF", rgb.convert("1"), {"compression": "group4"}), ("TIFF", rgb, {"big_tiff": True}),
    ]  # fmt: skip
    return [(kind, encoded(image, kind, **options)) for kind, image, options in made]


# ---- Damage -----------------------------------------------------------------------------------


def flipped(rng: random.Random, data: bytes, _: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes, _: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def holed(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randint(1, 200) :]


def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def repeated(rng: random.Random, data: bytes, _: bytes) -> bytes:
    start = rng.randrange(len(data))
    end = start + rng.randint(1, 100)
    return data[:end] + data[start:end] * rng.randint(1, 50) + data[end:]


def lying(rng: random.Random, data: bytes, _: bytes) -> bytes:
    """Put numbers that promise too much or too little where the sizes are, mostly."""
    changed = bytearray(data.ljust(8, b"\0"))
    for _ in range(rng.randint(1, 3)):
        format = rng.choice(("<H", ">H", "<I", ">I"))
        size_bytes = struct.calcsize(format)
        n_places = min(len(changed) - size_bytes, 60 if rng.random() < 0.7 else len(changed))
        number = rng.choice(EXTREMES) & (2 ** (8 * size_bytes) - 1)
        struct.pack_into(format, changed, rng.randrange(n_places), number)
    return bytes(changed)


DAMAGES: tuple[Callable[[random.Random, bytes, bytes], bytes], ...] = (
    flipped, flipped, cut, holed, spliced, repeated, lying, lying, lying,
)  # fmt: skip


def with_sums(data: bytes) -> bytes:
    """Return a PNG whose checksums are right again, so that its decoder believes the damage."""
    told, place = bytearray(data), 8
    while place + 12 <= len(told):
        (n_bytes,) = struct.unpack_from(">I", told, place)
        end = place + 8 + n_bytes
        if end + 4 > len(told):
            break
        struct.pack_into(">I", told, end, zlib.crc32(told[place + 4 : end]))
        place = end + 4
    return bytes(told)


def mutants(n_mutants: int, seed: int = 0) -> list[tuple[str, bytes]]:
    """Return the names and bytes of damaged images; the same numbers give the same ones."""
    rng, originals = random.Random(seed), sound()
    made = []
    for number in range(n_mutants):
        kind, data = originals[number % len(originals)]
        for _ in range(rng.randint(1, 2)):
            data = rng.choice(DAMAGES)(rng, data, rng.choice(originals)[1]) or b"\0"
        if kind == "PNG" and rng.random() < 0.7:
            data = with_sums(data)
        made.append((f"{number:05}.{FORMAT_ENDINGS[kind]}", data))
    return made


# ---- What decoding costs ----------------------------------------------------------------------


def peak_mb() -> float:
    """Return the most memory that this process ever held, not counting who started it."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def decode(path: Path) -> dict[str, Any]:
    """Return what became of one file: `ok`, the code of its row, or what should never be."""
    data = path.read_bytes()
    started_s = time.process_time()
    try:
        pixels = images.decode(data, RULE)
        is_image = pixels.shape == (RULE.size_px, RULE.size_px, 3) and pixels.dtype == np.uint8
        told = "ok" if is_image else f"!{pixels.dtype} {pixels.shape}"
    except Unreadable as error:
        told = error.code if error.message and "\n" not in error.message else f"!{error.message!r}"
    except Exception as error:
        told = f"!{type(error).__name__}: {error}"
    return {
        "name": path.name,
        "told": told,
        "cpu_s": time.process_time() - started_s,
        "peak_mb": peak_mb(),
    }


def main() -> None:
    """Decode every file of a folder."""
    for path in sorted(Path(sys.argv[1]).iterdir()):
        sys.stdout.write(json.dumps(decode(path)) + "\n")


if __name__ == "__main__":
    main()
