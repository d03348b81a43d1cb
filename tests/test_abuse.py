"""Ten thousand damaged images, headers that lie, and state that is not what was written."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo import many
from demo.doors import Upload
from jobs import plan, predict, shard, summary
from jobs.rows import Rows
from lib import bundle, headers, images, records, registry, samples, storage
from lib.failures import Broken, Unreadable
from lib.records import ErrorRow, Prediction
from tests import mutants
from tests.mutants import encoded

ROOT = Path(__file__).parents[1]
MODEL = str(ROOT / "demo" / "models" / "cnn")
N_MUTANTS = 10_000
MAX_CPU_S = 2.0
MAX_PEAK_MB = 300.0


def decoded(folder: Path) -> dict[str, dict[str, Any]]:
    """Decode every file of a folder in a process of its own, and return what it told of each."""
    told = subprocess.run(
        [sys.executable, "-m", "tests.mutants", str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=200,
    )  # fmt: skip
    assert told.returncode == 0
    found = {line["name"]: line for line in map(json.loads, told.stdout.splitlines())}
    assert set(found) == {path.name for path in folder.iterdir()}
    return found


def check_costs(found: dict[str, dict[str, Any]]) -> None:
    assert {name: told for name, told in found.items() if told["told"].startswith("!")} == {}
    assert {name: told for name, told in found.items() if told["cpu_s"] > MAX_CPU_S} == {}
    assert {name: told for name, told in found.items() if told["peak_mb"] > MAX_PEAK_MB} == {}


# ---- Damaged images ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    for name, data in mutants.mutants(N_MUTANTS):
        (folder / name).write_bytes(data)
    return folder


def test_what_is_damaged_here_is_sound_before_and_the_same_every_time() -> None:
    originals = mutants.sound()
    assert {kind for kind, _ in originals} == set(images.FORMATS)
    for kind, data in originals:
        assert images.decode(data, mutants.RULE).shape == (64, 64, 3), kind
    assert mutants.mutants(50) == mutants.mutants(50)


def test_every_damaged_image_is_pixels_or_a_reason_soon_and_in_little_memory(damaged: Path) -> None:
    found = decoded(damaged)
    check_costs(found)
    outcomes = [told["told"] for told in found.values()]
    assert outcomes.count("ok") > N_MUTANTS // 10
    assert {"damaged", "truncated", "too_large", "not_an_image"} < set(outcomes)


@pytest.mark.slow
def test_a_run_over_damaged_images_has_a_row_for_each(damaged: Path, tmp_path: Path) -> None:
    alone = {name: line["told"] for name, line in decoded(damaged).items()}
    run = subprocess.run(
        [sys.executable, "-m", "jobs.predict", str(damaged), str(tmp_path), "--model", MODEL,
         "--include", "*[05].*", "--run", "r", "--max-error-rate", "1", "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert run.returncode == 0
    told = json.loads(run.stdout)
    assert told["listed"] == N_MUTANTS
    assert told["predicted"] + told["errors"] == N_MUTANTS // 5
    rows = [
        json.loads(line)
        for kind in ("predictions", "errors")
        for path in sorted((tmp_path / "r" / kind).iterdir())
        for line in path.read_bytes().splitlines()
    ]
    outcomes = {Path(row["uri"]).name: row.get("error", {"code": "ok"})["code"] for row in rows}
    assert len(rows) == len(outcomes) == N_MUTANTS // 5
    assert outcomes.items() <= alone.items()


# ---- Headers that lie -------------------------------------------------------------------------


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, colours: int, *, more: bytes = b"") -> bytes:
    """A PNG of zeros, made row by row; `colours` is PNG's colour type."""
    n_bytes = {0: 2, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    packer, row = zlib.compressobj(9), bytes(1 + width * n_bytes)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 16 if colours == 0 else 8, colours, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256)) if colours == 3 else b""
    chunks = chunk(b"IHDR", head), palette, more, chunk(b"IDAT", pixels), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(*tags: tuple[int, int, int, int], more: bytes = b"") -> bytes:
    """A TIFF with these tags (number, type, count, value), and `more` at byte 300."""
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + table).ljust(300, b"\0") + more


GREY = (
    (256, 3, 1, 8),
    (257, 3, 1, 8),
    (258, 3, 1, 8),
    (259, 3, 1, 8),
    (262, 3, 1, 1),
    (277, 3, 1, 1),
)


def greedy_tags(kind: int, count: int, n_bytes: int) -> bytes:
    """EXIF in which many tags name the same bytes."""
    n_tags = n_bytes // 13
    table = b"".join(struct.pack("<HHLL", 1000 + k % 9000, kind, count, 8) for k in range(n_tags))
    return (b"II*\0\x08\0\0\0" + struct.pack("<H", n_tags) + table).ljust(n_bytes, b"\0")


def jpeg(*segments: tuple[int, bytes], size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    data = encoded(Image.new("RGB", size, (9, 88, 7)), "JPEG", **options)
    heads = (struct.pack(">BBH", 255, n, len(body) + 2) + body for n, body in segments)
    return data[:2] + b"".join(heads) + data[20:]


def gif(more: bytes) -> bytes:
    data = encoded(Image.new("P", (8, 8)), "GIF")
    start = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:start] + more + data[start:]


def rle_bmp(pixels: bytes) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, 25_000_000, 1, 1, 8, 1, 0, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + bytes(1024) + pixels


def endless_scans() -> bytes:
    data = encoded(Image.new("RGB", (5000, 5000)), "JPEG", progressive=True, subsampling=0)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 1000 + data[-2:]


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


TURNED = chunk(b"eXIf", exif_of(6).tobytes().removeprefix(b"Exif\0\0"))
SEGMENTED = greedy_tags(7, 600_000, 650_000)

LIES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "jpeg: EXIF of 650 kB that unpacks to 30 GB": ("too_large", lambda: jpeg(
        *((0xE1, b"Exif\0\0" + SEGMENTED[k : k + 65_000]) for k in range(0, 650_000, 65_000)))),
    "jpeg: an index of pictures that unpacks to 10 GB": ("too_large", lambda: jpeg(
        (0xE2, b"MPF\0" + greedy_tags(3, 30_000, 65_000)))),
    "jpeg: 20,000 comments": ("too_large", lambda: jpeg(*[(0xFE, b"")] * 20_000)),
    "jpeg: 1,010 scans of 25 megapixels": ("too_large", endless_scans),
    "jpeg: 49 megapixels that are held whole": ("too_large", lambda: jpeg(
        size=(7000, 7000), progressive=True, subsampling=0)),
    "jpeg: 49 megapixels in one scan": ("ok", lambda: jpeg(size=(7000, 7000), exif=exif_of(6))),
    "png: 20,000 chunks": ("too_large", lambda: png(8, 8, 2, more=chunk(b"abCd", b"") * 20_000)),
    "png: EXIF that unpacks to 30 GB": ("ok", lambda: png(8, 8, 2, more=chunk(b"eXIf", SEGMENTED))),
    "png: 25 megapixels, alpha": ("ok", lambda: png(5000, 5000, 6, more=TURNED)),
    "png: 25 megapixels, grey and alpha": ("ok", lambda: png(5000, 5000, 4, more=TURNED)),
    "png: 25 megapixels, transparent palette": ("ok", lambda: png(5000, 5000, 3, more=TURNED)),
    "png: 25 megapixels, 16 bits": ("ok", lambda: png(5000, 5000, 0, more=TURNED)),
    "gif: a comment in a million pieces": ("too_large", lambda: gif(
        b"\x21\xfe" + b"\x01a" * 1_000_000 + b"\0")),
    "gif: 20,000 comments": ("too_large", lambda: gif(b"\x21\xfe\x01a\0" * 20_000)),
    "webp: 16 megapixels": ("ok", lambda: encoded(
        Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)), "WEBP", lossless=True, quality=0, method=0)),
    "bmp: run lengths that jump over 2 GB": ("unsupported", lambda: rle_bmp(b"\0\2\0\x50" * 50)),
    "bmp: run lengths of one, without end": ("unsupported", lambda: rle_bmp(b"\1\5" * 2_000_000)),
    "tiff: 16 megapixels in one strip, turned": ("ok", lambda: encoded(
        Image.new("RGBA", (4000, 4000)), "TIFF", compression="tiff_deflate",
        tiffinfo={274: 6, 278: 4000})),
    "tiff: a strip for each of 7 million lines": ("too_large", lambda: tiff(
        (256, 3, 1, 1), (257, 4, 1, 7_000_000), *GREY[2:], (273, 4, 7_000_000, 300), (278, 3, 1, 1),
        more=bytes(28_000_000))),
    "tiff: 15 million numbers where one is due": ("too_large", lambda: tiff(
        *GREY[:2], (258, 3, 15_000_000, 300), *GREY[3:], more=bytes(30_000_000))),
    "tiff: the same below a tag": ("too_large", lambda: tiff(
        *GREY, (34665, 4, 1, 300),
        more=struct.pack("<HHHII", 1, 37510, 3, 15_000_000, 400) + bytes(30_000_100))),
    "tiff: a tile of 4 gigapixels": ("too_large", lambda: tiff(
        *GREY, (322, 4, 1, 65_536), (323, 4, 1, 65_536), (324, 4, 1, 300), (325, 4, 1, 1000),
        more=zlib.compress(bytes(1_000_000)))),
}  # fmt: skip


@pytest.mark.slow
def test_a_file_that_promises_more_than_it_holds_costs_little(tmp_path: Path) -> None:
    for name, (_, make) in LIES.items():
        (tmp_path / name).write_bytes(make())
    found = decoded(tmp_path)
    assert {name: told["told"] for name, told in found.items()} == {
        name: outcome for name, (outcome, _) in LIES.items()
    }
    check_costs(found)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_metadata_of_usual_size_costs_nobody_the_image(kind: str) -> None:
    exif = exif_of(1)
    exif[0x010E], exif[0x927C] = "a long story " * 2000, bytes(20_000)
    options = {} if kind in ("GIF", "BMP") else {"exif": exif}
    data = encoded(Image.new("RGB", (64, 64), "lime"), kind, **options)
    assert images.decode(data, mutants.RULE).shape == (64, 64, 3)
    headers.check(data)


# ---- Archives ---------------------------------------------------------------------------------


def test_a_damaged_archive_is_pictures_or_reasons() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.png", "ünï/b.jpg", "c.txt", "d/e.webp"):
            archive.writestr(name, b"no picture, only bytes " * 20)
    rng, data = random.Random(2), file.getvalue()
    for _ in range(3000):
        damaged = rng.choice(mutants.DAMAGES)(rng, data, data)
        found = many.find([Upload("a.zip", damaged)])
        for picture in found.pictures:
            assert ".." not in Path(picture.name).parts
            with contextlib.suppress(Unreadable):
                picture.read()


# ---- State ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two shards, a registry with a champion, and the claim of a schedule."""
    folder = tmp_path_factory.mktemp("state")
    samples.write(folder / "photos", n_images_per_class=3, seed=1)
    (folder / "photos" / "0" / "bad.png").write_bytes(b"not a picture")
    place, version = str(folder / "registry"), "20260101T000000Z-aaaaaaaa"
    shutil.copytree(MODEL, folder / "registry" / "cnn" / version)
    card = folder / "registry" / "cnn" / version / "card.json"
    card.write_bytes(
        records.to_file(replace(records.parse_card(card.read_bytes(), "card"), version=version))
    )
    registry.promote(place, "cnn", version, "it is sound")
    registry.claim(place, "monday", "job-1")
    asked = [str(folder / "photos"), str(folder / "out"), "--model", f"{place}/cnn", "--run", "r"]
    predict.main([*asked, "--shards", "2"])
    predict.main(asked)
    return folder


def root_of(folder: Path) -> str:
    return str(folder / "out" / "r")


def parts_of(folder: Path) -> list[plan.Part]:
    found = plan.find(root_of(folder))
    return [part for index in range(2) for part in plan.parts(found, root_of(folder), index)]


READERS: dict[str, Callable[[Path], object]] = {
    "out/r/plan.json": lambda folder: plan.find(root_of(folder)),
    "out/r/plan/shard-00001.jsonl": parts_of,
    "out/r/done/shard-00001.json": lambda folder: shard.find_done(root_of(folder), 1),
    "out/r/summary.json": lambda folder: summary.find(root_of(folder)),
    "registry/cnn/champion.json": lambda folder: registry.champion(f"{folder}/registry", "cnn"),
    "registry/cnn/20260101T000000Z-aaaaaaaa/card.json": lambda folder: registry.card(
        f"{folder}/registry", "cnn", "20260101T000000Z-aaaaaaaa"
    ),
    "registry/runs/monday.json": lambda folder: registry.claim(
        f"{folder}/registry", "monday", "job-1"
    ),
}


def refused(read: Callable[[], object], name: str) -> object:
    """Return what is read, or None where it is refused in one line that names the file."""
    try:
        return read()
    except Broken as failure:
        told = str(failure)
    assert name in told
    assert "\n" not in told
    return None


@pytest.mark.parametrize("name", READERS)
def test_damaged_state_is_refused_by_name_or_says_the_same_as_before(
    state: Path, name: str
) -> None:
    file, read = state / name, READERS[name]
    sound, before = file.read_bytes(), read(state)
    others = b"".join((state / other).read_bytes() for other in READERS)
    rng, n_refused = random.Random(name), 0
    try:
        for _ in range(600):
            file.write_bytes(rng.choice(mutants.DAMAGES)(rng, sound, others))
            found = refused(lambda: read(state), str(file))
            assert found in (None, before)
            n_refused += found is None
    finally:
        file.write_bytes(sound)
    assert n_refused > 500


@pytest.mark.parametrize(
    "damage", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"NaN", b"1" * 5000]
)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_json_of_ours_is_refused(state: Path, name: str, damage: bytes) -> None:
    file = state / name
    sound = file.read_bytes()
    file.write_bytes(damage)
    try:
        with pytest.raises(Broken, match=file.name):
            READERS[name](state)
    finally:
        file.write_bytes(sound)


@pytest.mark.parametrize("format", ["jsonl", "jsonl.gz", "csv", "parquet"])
@pytest.mark.parametrize("kind", [Prediction, ErrorRow])
def test_a_damaged_part_is_refused_by_name_or_has_rows(format: str, kind: type) -> None:
    scores = {"cat": 0.75, "dog": 0.25}
    rows: list[Any] = [
        Prediction(f"s3://b/{k}.jpg", "e", "cnn", "v1", "cat", 0.75, True, scores) for k in range(5)
    ]
    if kind is ErrorRow:
        rows = [
            ErrorRow(f"s3://b/{k}.jpg", "e", {"code": "empty", "message": "it is"})
            for k in range(5)
        ]
    shape = Rows(format, ("cat", "dog"))
    sound, rng = shape.write(kind, rows), random.Random(format)
    for _ in range(600):
        damaged = rng.choice(mutants.DAMAGES)(rng, sound, sound)
        found = refused(lambda damaged=damaged: shape.read(kind, damaged, "part-7"), "part-7")
        for row in found or ():
            assert isinstance(row, kind)
            if kind is Prediction:
                assert row.score == row.scores[row.label] == max(row.scores.values())
            else:
                assert isinstance(row.error["code"], str)


@pytest.fixture
def own_state(state: Path, tmp_path: Path) -> Path:
    """A copy of the state that a test may change for good."""
    return Path(shutil.copytree(state, tmp_path / "state"))


def test_a_plan_whose_counts_disagree_with_its_shards_is_refused(own_state: Path) -> None:
    root = root_of(own_state)
    found = plan.find(root)
    storage.write(f"{root}/plan.json", records.to_file(replace(found, n_images=found.n_images + 2)))
    with pytest.raises(Broken, match="shard-00000.jsonl: must have 7 images. Received: 6"):
        parts_of(own_state)


@pytest.mark.parametrize("change", [
    lambda line: line.replace(b'"etag"', b'"surprise"'), lambda line: b'{"uri": "a"}', lambda line: b"5",
])  # fmt: skip
def test_a_line_of_a_shard_that_lacks_a_field_is_refused(
    own_state: Path, change: Callable[[bytes], bytes]
) -> None:
    root = root_of(own_state)
    uri, found = f"{root}/plan/shard-00001.jsonl", plan.find(root)
    first, *rest = storage.read(uri).data.splitlines()
    data = b"\n".join([change(first), *rest])
    storage.write(uri, data)
    with pytest.raises(Broken, match="shard-00001.jsonl: damaged, it is not the file"):
        parts_of(own_state)
    digest = hashlib.sha256(data).hexdigest()[: plan.NAME_DIGITS]
    sealed = replace(found, shards=(found.shards[0], digest))
    storage.write(f"{root}/plan.json", records.to_file(sealed))
    with pytest.raises(Broken, match="shard-00001.jsonl: damaged"):
        parts_of(own_state)


def test_the_counts_of_another_shard_are_refused(own_state: Path) -> None:
    done = Path(root_of(own_state), "done")
    shutil.copy(done / "shard-00000.json", done / "shard-00001.json")
    with pytest.raises(
        Broken, match="shard-00001.json: must be the counts of shard 1. Received: 0"
    ):
        shard.find_done(root_of(own_state), 1)


@pytest.mark.parametrize("version", ["../../elsewhere", "a/b", "..", ".hidden", "a\\b", "a\nb", ""])
def test_a_champion_never_points_out_of_its_model(own_state: Path, version: str) -> None:
    change = {"version": version, "at": "2026-01-01T00:00:00+00:00", "reason": "why not"}
    pointer = own_state / "registry" / "cnn" / registry.POINTER
    pointer.write_bytes(records.to_file(registry.Champion(version, [change])))
    for read in (lambda: registry.champion(f"{own_state}/registry", "cnn"),
                 lambda: registry.resolve(f"{own_state}/registry/cnn")):  # fmt: skip
        with pytest.raises(Broken, match="champion.json: damaged, a version must be a plain name"):
            read()


@pytest.mark.parametrize("changes", [
    {"name": "../cnn"}, {"version": "a/b"}, {"files": {"../../etc/passwd": "0" * 64}},
    {"files": {"/etc/passwd": "0" * 64}}, {"image": {"size_px": 0, "resize": "fit"}},
    {"image": {"size_px": 10**9, "resize": "fit"}}, {"threshold": float("nan")},
    {"temperature": float("inf")}, {"classes": ["a", 5]}, {"metrics": []}, {"sessions": None},
])  # fmt: skip
def test_a_card_that_leads_elsewhere_or_nowhere_is_refused(
    own_state: Path, changes: dict[str, Any]
) -> None:
    (card,) = (own_state / "registry" / "cnn").glob("*/card.json")
    fields = json.loads(card.read_text("utf-8"))
    fields.pop(records.SEAL)
    card.write_text(json.dumps(fields | changes), "utf-8")
    with pytest.raises(Broken, match="card.json"):
        bundle.load(str(card.parent))


def test_a_damaged_bundle_never_loads(own_state: Path) -> None:
    (card,) = (own_state / "registry" / "cnn").glob("*/card.json")
    rng = random.Random(3)
    for file in sorted(card.parent.iterdir()):
        sound = file.read_bytes()
        for _ in range(8):
            damaged = rng.choice(mutants.DAMAGES)(rng, sound, sound)
            file.write_bytes(damaged)
            if damaged != sound:
                assert refused(lambda: bundle.load(str(card.parent)), str(file)) is None
        file.write_bytes(sound)
    assert bundle.load(str(card.parent)).predict(np.zeros((1, 224, 224, 3), np.uint8)).shape == (
        1,
        4,
    )


def test_a_damaged_correction_is_a_row_of_the_next_training(tmp_path: Path) -> None:
    from demo.feedback import Corrections

    uri = Corrections(str(tmp_path)).add(
        Upload("a.png", mutants.sound()[4][1]), "cat", mutants.RULE
    )
    sound, rng = Path(uri).read_bytes(), random.Random(4)
    for _ in range(200):
        with contextlib.suppress(Unreadable):
            pixels = images.decode(rng.choice(mutants.DAMAGES)(rng, sound, sound), mutants.RULE)
            assert pixels.shape == (64, 64, 3)
    assert sorted(os.listdir(tmp_path)) == ["cat"]
