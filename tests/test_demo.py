"""The page as a service: a real server, plain HTTP, and everything a stranger may send it."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from demo import (
    answers,
    cells,
    feedback,
    many,
    page,
    pieces,
    server,
    tab_classify,
    tab_many,
    tab_models,
)
from demo.doors import Upload
from demo.feedback import Corrections
from demo.quick import gr
from demo.shelf import SHIPPED, Shelf
from jobs import photos, train
from lib import images, records, registry, samples, storage
from lib.bundle import Bundle
from lib.failures import Misuse, Unreadable
from lib.records import ErrorRow, ImageRule, Prediction

ROOT = Path(__file__).parents[1]
FILE_DATA = {"_type": "gradio.FileData"}
HAS_MCP = importlib.util.find_spec("mcp") is not None


def encoded(n_fingers: int = 2, seed: int = 1, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(samples.draw(n_fingers, seed).image).save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises `width` by `height` pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture(scope="session")
def models() -> list[str]:
    """Where the models to show lie: those that ship."""
    return [SHIPPED]


@pytest.fixture(scope="session")
def shelf(models: list[str]) -> Shelf:
    return Shelf(models)


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the served page keeps corrections."""
    return tmp_path_factory.mktemp("corrections")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the served page makes its cache."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="session")
def process(models: list[str], kept: Path, cache: Path) -> Iterator[tuple[str, int]]:
    """The address and the process of the page, served for the whole session."""
    arguments = ["--models", *models, "--feedback", str(kept)]
    with served(*arguments, TMPDIR=str(cache)) as (address, _, pid):
        yield address, pid
    left = [path for path in cache.rglob("*") if path.is_file()]
    assert not left, "the cache goes with the process"


@pytest.fixture(scope="session")
def url(process: tuple[str, int]) -> str:
    return process[0]


@pytest.fixture(scope="session")
def pid(process: tuple[str, int]) -> int:
    return process[1]


@contextmanager
def served(
    *arguments: str, program: tuple[str, ...] = ("-m", "demo"), **settings: str
) -> Iterator[tuple[str, list[str], int]]:
    """Run the command; gives its address, its lines as they are written, and its process."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GRADIO_", "DEMO_"))}
    process = subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=ROOT,
        env=env | settings,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(line.rstrip() for line in process.stdout))
    try:
        reader.start()
        yield found(lines, r"local address: (\S+)"), lines, process.pid
    finally:
        process.terminate()
        status = process.wait(20)
        reader.join()
        process.stdout.close()
    assert status == 143, lines


def found(lines: list[str], pattern: str, within_s: float = 60) -> str:
    """Wait for a line that matches and return its group."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        for line in list(lines):
            if match := re.search(pattern, line):
                return match[1]
        time.sleep(0.05)
    raise AssertionError(lines)


@pytest.fixture(scope="session")
def web(url: str) -> Iterator[httpx.Client]:
    limits = httpx.Limits(max_connections=64)
    with httpx.Client(base_url=url, timeout=60, limits=limits, trust_env=False) as client:
        yield client


def upload(web: httpx.Client, data: bytes, name: str = "hand.png") -> dict[str, Any]:
    path = web.post("/gradio_api/upload", files={"files": (name, data)}).json()[0]
    return {"path": path, "orig_name": name, "meta": FILE_DATA}


def call(web: httpx.Client, endpoint: str, *inputs: object) -> httpx.Response:
    return web.post(f"/gradio_api/run/{endpoint}", json={"data": list(inputs)})


# ---- Classify ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {"quality": 80}),
        (
            "JPEG",
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        ),
        ("WEBP", {"quality": 60}),
        ("GIF", {}),
        ("TIFF", {}),
    ],
)
def test_the_page_says_what_a_batch_run_says_of_the_same_bytes(
    web: httpx.Client, shelf: Shelf, kind: str, options: dict[str, Any]
) -> None:
    data = encoded(3, 2, kind, **options)
    said = call(web, "classify", upload(web, data, f"hand.{kind.lower()}")).json()["data"][0]
    for model, answer in zip(shelf.bundles, said["models"], strict=True):
        scores = model.predict(images.decode(data, model.card.image)[None])[0].tolist()
        row = asdict(records.prediction(f"hand.{kind.lower()}", answer["etag"], model.card, scores))
        assert {name: answer[name] for name in row} == row
        assert answer["threshold"] == model.card.threshold
        assert 0 < answer["milliseconds"] < 5000


def test_a_gradio_client_finds_the_documented_endpoints(url: str, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    picture = tmp_path / "hand.png"
    picture.write_bytes(encoded())
    client = Client(url, verbose=False)
    try:
        assert set(client.view_api(return_format="dict")["named_endpoints"]) == {
            "/classify",
            "/classify_many",
        }
        said = client.predict(handle_file(picture), api_name="/classify")
        assert {model["uri"] for model in said["models"]} == {"hand.png"}
        rows = client.predict([handle_file(picture)] * 2, api_name="/classify_many")
        assert [row["uri"] for row in rows["predictions"]] == ["hand.png", "hand.png"]
    finally:
        client.close()


def test_plain_http_is_enough(web: httpx.Client) -> None:
    event = web.post("/gradio_api/call/classify", json={"data": [upload(web, encoded())]}).json()
    answered = web.get(f"/gradio_api/call/classify/{event['event_id']}").text
    assert "event: complete" in answered
    assert {"agree", "models"} == set(json.loads(answered.split("data: ")[1])[0])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"hello", "not_an_image"),
        (
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "not_an_image",
        ),
        (encoded()[:5000], "truncated"),
        (b"\0\0\0\x18ftypheic" + bytes(100), "heic"),
        (png_header(20_000, 20_000), "too_large"),
    ],
)
def test_a_picture_that_cannot_be_used_is_answered_with_its_reason(
    web: httpx.Client, data: bytes, code: str
) -> None:
    for name in ("hand.png", "hand.svg"):
        said = call(web, "classify", upload(web, data, name)).json()["data"][0]
        assert said["error"]["code"] == code
        assert said["error"]["message"]


def test_the_visitor_reads_the_reason_too(shelf: Shelf) -> None:
    said = tab_classify.answer(shelf, Upload("x.png", png_header(20_000, 20_000)), False, {})
    assert "This picture cannot be used" in said
    assert "more pixels than are allowed" in said


def test_both_models_stand_side_by_side_with_why_on_a_switch(shelf: Shelf) -> None:
    picture = Upload("x.png", encoded())
    without, with_why = (tab_classify.answer(shelf, picture, why, {}) for why in (False, True))
    for model in shelf.bundles:
        assert f"<h3>{model.card.name}</h3>" in without
    assert without.count(" ms</span>") == len(shelf.bundles)
    assert "data:image/jpeg" not in without
    assert with_why.count("data:image/jpeg") == len(shelf.bundles)


def answer_of(shelf: Shelf, name: str, *scores: float) -> answers.Answer:
    card = records.Card(
        name=name,
        version="1",
        classes=("cat", "dog"),
        image=ImageRule(),
        threshold=0.8,
        temperature=1,
        metrics={},
        data={},
        sessions={},
        config={},
        libraries={},
    )
    row = records.prediction("x", "", card, list(scores))
    return answers.Answer(card, row, 3.0, np.zeros((4, 4, 3), np.uint8), None)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ((0.9, 0.1), (0.95, 0.05), "Both models say cat."),
        ((0.9, 0.1), (0.1, 0.9), "They disagree: one says cat and two says dog."),
        ((0.9, 0.1), (0.6, 0.4), "one says cat; two is not sure."),
        ((0.5, 0.5), (0.3, 0.7), "No model is sure."),
    ],
)
def test_the_verdict_says_whether_they_agree(
    shelf: Shelf, first: tuple[float, ...], second: tuple[float, ...], verdict: str
) -> None:
    found = [answer_of(shelf, "one", *first), answer_of(shelf, "two", *second)]
    assert verdict in pieces.verdict(found)
    assert answers.agree(found) == verdict.startswith("Both")


def test_under_the_threshold_the_answer_is_not_sure(shelf: Shelf) -> None:
    unsure = pieces.answered([answer_of(shelf, "one", 0.79, 0.21)])
    sure = pieces.answered([answer_of(shelf, "one", 0.81, 0.19)])
    assert '<p class="label">Not sure</p>' in unsure
    assert '<p class="label">cat</p>' in sure


def test_pictures_without_a_hand_are_not_sure_in_nine_of_ten_tries(shelf: Shelf) -> None:
    strangers = np.stack([samples.not_a_hand(seed) for seed in range(1000, 1100)])
    for model in shelf.bundles:
        assert np.mean(model.predict(strangers).max(1) < model.card.threshold) >= 0.9


def test_of_frames_that_come_too_fast_the_newest_wins(web: httpx.Client, shelf: Shelf) -> None:
    config = web.get("/config").json()
    live = next(d for d in config["dependencies"] if d["api_name"] == "live")
    frames = [pieces.bytes_url(encoded(n % 4, n), "image/png") for n in range(12)]

    def body(frame: str) -> dict[str, Any]:
        data = [{"url": frame, "is_stream": True, "meta": FILE_DATA}, False, None]
        return {"data": data, "fn_index": live["id"], "session_hash": "frames", "event_data": None}

    event = web.post("/gradio_api/queue/join", json=body(frames[0])).json()["event_id"]
    seen = []
    with web.stream("GET", "/gradio_api/queue/data", params={"session_hash": "frames"}) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data: ") or "null")
            if message and message["msg"] in ("process_streaming", "process_completed"):
                seen.append(message)
                if len(seen) == 1:
                    for frame in frames[1:]:
                        web.post(f"/gradio_api/stream/{event}", json=body(frame))
                    expected = _said(shelf, encoded(11 % 4, 11))
                if len(seen) > 1 and expected in json.dumps(message):
                    break
    assert len(seen) <= len(frames)
    web.post(f"/gradio_api/stream/{event}/close")


def _said(shelf: Shelf, data: bytes) -> str:
    model = shelf.bundles[0]
    return f"{model.predict(images.decode(data, model.card.image)[None])[0].max():.1%}"


# ---- Safe by default --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "picture",
    [
        {"path": "/etc/passwd"},
        {"path": "/etc/passwd", "meta": FILE_DATA},
        {"path": "{cache}/../../etc/passwd", "meta": FILE_DATA},
        {"path": "{cache}/../../etc/passwd"},
        {"path": "http://169.254.169.254/latest/meta-data", "meta": FILE_DATA},
        {"path": "http://127.0.0.1/x.png", "meta": FILE_DATA},
        {"path": "https://example.com/x.png"},
        {"url": "https://example.com/x.png", "meta": FILE_DATA},
        {"url": "file:///etc/passwd"},
        {"url": "data:image/png;base64,%%%"},
        "/etc/passwd",
        17,
    ],
)
def test_what_is_no_upload_is_refused_without_a_word_of_the_machine(
    web: httpx.Client, cache: Path, picture: object
) -> None:
    if isinstance(picture, dict) and "path" in picture:
        folder = next(cache.iterdir())
        picture = picture | {"path": picture["path"].replace("{cache}", str(folder))}
    for endpoint, inputs in (("classify", [picture]), ("classify_many", [[picture], None])):
        refused = call(web, endpoint, *inputs)
        assert refused.status_code == 500
        assert not re.search(r"root:|Traceback|site-packages|\.py", refused.text)


@pytest.mark.parametrize("inputs", [[], ["x.png"], [17], [[{"path": "x"}]], [True]])
def test_what_is_of_the_wrong_kind_is_answered_with_a_sentence(
    web: httpx.Client, inputs: list[object]
) -> None:
    for endpoint in ("classify", "classify_many"):
        refused = call(web, endpoint, *inputs)
        assert refused.status_code == 500
        assert len(refused.json()["error"]) > 20


def test_no_picture_is_no_answer_and_a_name_with_html_stays_a_name(web: httpx.Client) -> None:
    assert call(web, "classify", None).json()["data"][0]["error"]["code"] == "empty"
    nothing = {"predictions": [], "errors": [], "skipped": {}}
    for files in ([], None):
        assert call(web, "classify_many", files, None).json()["data"] == [nothing]
    evil = "<img src=x onerror=alert(1)>.png"
    answered = call(web, "classify", upload(web, encoded(), evil))
    assert answered.headers["content-type"] == "application/json"
    assert {model["uri"] for model in answered.json()["data"][0]["models"]} == {evil}


def test_an_endpoint_that_is_not_there_is_404(web: httpx.Client) -> None:
    assert call(web, "no_such_thing").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=..%2F..%2F..%2Fetc%2Fpasswd",
        "/gradio_api/file={cache}/../../etc/passwd",
        "/gradio_api/file={root}/demo/app.py",
        "/gradio_api/file={root}/requirements.txt",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=http://169.254.169.254/latest/meta-data",
        "/gradio_api/file=https:/example.com/",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/monitoring",
        "/monitoring/summary",
        "/gradio_api/runs",
        "/gradio_api/dev/reload",
        "/gradio_api/deep_link?session_hash=x",
        "/gradio_api/vibe-code",
    ],
)
def test_nothing_else_can_be_read_over_the_web(web: httpx.Client, cache: Path, path: str) -> None:
    path = path.replace("{cache}", str(next(cache.iterdir()))).replace("{root}", str(ROOT))
    answered = httpx.get(httpx.URL(str(web.base_url).rstrip("/") + path), trust_env=False)
    assert answered.status_code in (403, 404)
    assert "root:" not in answered.text


def test_a_file_of_60_mb_is_refused_while_it_comes(web: httpx.Client) -> None:
    refused = web.post("/gradio_api/upload", files={"files": ("large.png", bytes(60 * 2**20))})
    assert refused.status_code == 413


def test_a_request_that_is_no_upload_may_not_be_large(web: httpx.Client) -> None:
    inline = {"url": "data:image/png;base64," + "A" * 9 * 2**20, "meta": FILE_DATA}
    assert call(web, "classify", inline).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 2**20

    try:
        answered = web.post("/gradio_api/run/classify", content=endless())
    except httpx.TransportError:
        return
    assert answered.status_code >= 400


def test_nothing_is_told_to_others_and_nothing_is_recorded(web: httpx.Client) -> None:
    config = web.get("/config").json()
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert config["show_error"] is False
    shown = {d["api_name"] for d in config["dependencies"] if d["api_visibility"] == "public"}
    assert shown == {"classify", "classify_many"}


def test_two_hundred_uploads_at_once_leave_the_page_well(web: httpx.Client) -> None:
    data = encoded()

    def one(number: int) -> int:
        picture = upload(web, data, f"{number}.png")
        return call(web, "classify", picture).status_code

    with ThreadPoolExecutor(50) as pool:
        assert Counter(pool.map(one, range(200))) == {200: 200}
    assert web.get("/health").json()["status"] == "ok"


def test_html_in_a_file_name_or_class_stays_text(shelf: Shelf) -> None:
    evil = "<img src=x onerror=alert(1)>"
    rows = [ErrorRow(evil, "", {"code": "damaged", "message": evil})]
    assert evil not in tab_many._unreadable(many.Outcome([], rows, {}))
    assert evil not in tab_many._tally(many.Outcome([], rows, {evil: 1}))
    assert evil not in pieces.failed(evil)
    answer = answer_of(shelf, evil, 0.9, 0.1)
    hostile = answers.Answer(
        answer.card,
        records.prediction("x", "", _renamed(answer.card, evil), [0.9, 0.1]),
        1,
        answer.image,
        np.zeros((2, 2), np.float32),
    )
    assert evil not in pieces.answered([hostile])


def _renamed(card: records.Card, name: str) -> records.Card:
    return records.Card(**asdict(card) | {"classes": (name, "dog"), "image": card.image})


def test_nobody_else_of_the_machine_reads_the_cache(web: httpx.Client, cache: Path) -> None:
    folder = Path(upload(web, encoded())["path"]).parents[1]
    assert folder.parent == cache
    assert folder.stat().st_mode & 0o077 == 0


# ---- Many -------------------------------------------------------------------------------------


def test_many_pictures_give_exactly_the_rows_of_a_batch_run(shelf: Shelf) -> None:
    model = shelf.bundles[0]
    data = {f"{n}.png": encoded(n % 4, n) for n in range(5)}
    uploads = [Upload(name, picture) for name, picture in data.items()]
    found = many.find(
        [*uploads, Upload("more.zip", zipped({f"in/{n}": d for n, d in data.items()}))]
    )
    outcome = many.outcome(found, [seen.row for seen in many.classify(found, model)])
    assert [row.uri for row in outcome.predictions] == [
        *data,
        *(f"more.zip/in/{name}" for name in data),
    ]
    lines = many.to_jsonl(outcome.predictions).splitlines()
    for line, picture in zip(lines, [*data.values()] * 2, strict=True):
        row = Prediction(**json.loads(line))
        scores = model.predict(images.decode(picture, model.card.image)[None])[0].tolist()
        assert row == records.prediction(row.uri, row.etag, model.card, scores)
    header, *rows = many.to_csv(outcome.predictions).decode().splitlines()
    assert header == "uri,etag,model,version,label,score,confident,scores"
    assert len(rows) == len(lines)


def test_what_is_not_read_is_listed_with_its_reason(shelf: Shelf) -> None:
    archive = zipped(
        {
            "../../etc/cron.d/x.png": encoded(),
            "/abs.png": encoded(),
            "notes.txt": b"hello",
            "__MACOSX/._1.png": b"x",
            ".hidden.png": b"x",
            "bomb.png": bytes(40 * 2**20),
            "broken.png": b"broken",
        }
    )
    found = many.find(
        [Upload("a.zip", archive), Upload("b.zip", b"no archive"), Upload("c.zip", archive[:-30])]
    )
    rows = [seen.row for seen in many.classify(found, shelf.bundles[0])]
    errors = {row.uri: row.error["code"] for row in many.outcome(found, rows).errors}
    assert errors == {
        "a.zip/../../etc/cron.d/x.png": "unsafe_name",
        "a.zip//abs.png": "unsafe_name",
        "a.zip/bomb.png": "too_large",
        "a.zip/broken.png": "not_an_image",
        "b.zip": "not_an_archive",
        "c.zip": "not_an_archive",
    }
    assert found.skipped == {".txt": 1, "hidden": 2}


def test_an_archive_with_endless_names_is_refused_before_they_are_read() -> None:
    archive = bytearray(zipped({"a.png": b"x"}))
    struct.pack_into("<L", archive, archive.rfind(b"PK\5\6") + 12, 2**31)
    found = many.find([Upload("names.zip", bytes(archive))])
    assert found.refused[0].error["code"] == "too_large"


def test_archives_may_not_unpack_to_more_than_is_allowed(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many, "MAX_UNPACKED_BYTES", 5000)
    found = many.find([Upload("a.zip", zipped({f"{n}.png": bytes(2000) for n in range(5)}))])
    codes = [seen.row.error["code"] for seen in many.classify(found, shelf.bundles[0])]
    assert codes == ["not_an_image"] * 2 + ["too_large"] * 3


def test_a_locked_or_damaged_member_does_not_end_the_rest(shelf: Shelf) -> None:
    archive = bytearray(zipped({"a.png": encoded(), "b.png": encoded()}))
    archive[60:80] = bytes(20)
    found = many.find([Upload("a.zip", bytes(archive))])
    kinds = [type(seen.row).__name__ for seen in many.classify(found, shelf.bundles[0])]
    assert kinds == ["ErrorRow", "Prediction"]


def test_only_so_many_pictures_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "MAX_IMAGES", 3)
    found = many.find([Upload(f"{n}.png", b"") for n in range(5)])
    assert len(found.pictures) == 3
    assert [row.error["code"] for row in found.refused] == ["too_many"] * 2


@pytest.mark.parametrize(
    ("members", "skipped"), [({}, {}), ({"in/": b"", "a.txt": b"hello"}, {".txt": 1})]
)
def test_an_archive_without_a_picture_is_told_so(
    shelf: Shelf, members: dict[str, bytes], skipped: dict[str, int]
) -> None:
    files = [Upload("a.zip", zipped(members))]
    *_, last = tab_many.run(shelf, files, None, {}, tab_many.Go())
    outcome = last[1].outcome
    assert [row.error["code"] for row in outcome.errors] == ["empty"]
    assert outcome.skipped == skipped
    assert "0 classified; 1 unreadable" in last[0]
    assert "there is no picture in the archive" in last[5]


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", "\nx", "＝1"])
def test_no_file_name_becomes_a_formula(shelf: Shelf, name: str) -> None:
    card = shelf.bundles[0].card
    row = records.prediction(name, "", card, [1.0] + [0.0] * (len(card.classes) - 1))
    assert many.to_csv([row]).decode().splitlines()[1].strip('"').startswith("'")


def test_cancelling_ends_the_work(shelf: Shelf) -> None:
    n_read = 0

    def read() -> bytes:
        nonlocal n_read
        n_read += 1
        return encoded()

    found = many.Found([many.Picture(f"{n}.png", read) for n in range(200)])
    rows = many.classify(found, shelf.bundles[0])
    next(rows)
    rows.close()
    assert n_read < 20


def test_the_page_tells_how_far_it_is_and_then_shows_all(shelf: Shelf) -> None:
    files = [Upload(f"{n}.png", encoded(n % 4, n)) for n in range(6)] + [Upload("x.png", b"x")]
    first, *_, last = tab_many.run(shelf, files, shelf.bundles[0].card.name, {}, tab_many.Go())
    assert "0 of 7 pictures" in first[0]
    assert "6 classified" in last[0]
    assert "1 unreadable" in last[0]
    album = last[1]
    by_class = [tab_many.pick(album, f"is {label}") for label in shelf.classes({})]
    unsure = tab_many.pick(album, tab_many.NOT_SURE)
    assert sum(map(len, by_class)) + len(unsure) == len(tab_many.pick(album, tab_many.ALL)) == 6


def test_each_choice_counts_the_pictures_that_it_shows(shelf: Shelf) -> None:
    files = [Upload(f"{n}.png", encoded(n % 4, n)) for n in range(4)]
    for seed in range(6):
        data = io.BytesIO()
        Image.fromarray(samples.not_a_hand(seed, 224)).save(data, "PNG")
        files.append(Upload(f"nothing{seed}.png", data.getvalue()))
    *_, last = tab_many.run(shelf, files, shelf.bundles[0].card.name, {}, tab_many.Go())
    shown = {name: len(tab_many.pick(last[1], wanted)) for name, wanted in last[2].choices}
    assert all(name.endswith(f" ({n})") for name, n in shown.items()), shown
    assert any(name.startswith("Not sure (") for name in shown)
    assert sum(shown.values()) == 2 * len(files)


def test_what_is_cancelled_says_so_last(shelf: Shelf) -> None:
    go = tab_many.Go()
    tab_many.prepare(go)
    said = tab_many.run(shelf, [Upload("x.png", encoded())] * 200, None, {}, go)
    assert "0 of 200" in next(said)[0]
    assert "1 of 200" in next(said)[0]
    assert tab_many.cancel(go) == gr.skip()
    assert [shown[0] for shown in said] == [tab_many.CANCELLED]


def test_what_is_cancelled_before_its_turn_does_not_begin(shelf: Shelf) -> None:
    go = tab_many.Go()
    assert "Waiting" in tab_many.prepare(go)
    assert tab_many.cancel(go) == tab_many.CANCELLED
    shown = list(tab_many.run(shelf, [Upload("x.png", encoded())], None, {}, go))
    assert [said for said, *_ in shown] == [tab_many.CANCELLED]
    tab_many.prepare(go)
    *_, last = tab_many.run(shelf, [Upload("x.png", encoded())], None, {}, go)
    assert "1 classified" in last[0]


def test_the_service_gives_rows_and_errors(web: httpx.Client) -> None:
    files = [
        upload(web, encoded()),
        upload(web, b"x", "<b>.png"),
        upload(web, zipped({"1.png": encoded(1)}), "a.zip"),
    ]
    said = call(web, "classify_many", files, None).json()["data"][0]
    assert [row["uri"] for row in said["predictions"]] == ["hand.png", "a.zip/1.png"]
    assert [row["uri"] for row in said["errors"]] == ["<b>.png"]


# ---- Corrections ------------------------------------------------------------------------------


def test_fifty_corrections_at_once_are_fifty_objects_that_a_training_reads(place: str) -> None:
    corrections = Corrections(storage.join(place, "corrections"))
    rule = ImageRule()
    pictures = [encoded(n % 4, n, "JPEG") for n in range(8)]

    def send(number: int) -> str:
        picture = Upload("same name.jpg", pictures[number % 8])
        return corrections.add(picture, str(number % 4), rule)

    with ThreadPoolExecutor(50) as pool:
        uris = list(pool.map(send, range(50)))
    assert len(set(uris)) == 50
    found = photos.find([corrections.uri])
    assert Counter(example.label for example in found.examples) == {
        "0": 13,
        "1": 13,
        "2": 12,
        "3": 12,
    }
    assert not found.ignored
    folders = {example.key.split("/")[1] for example in found.examples}
    assert all(re.fullmatch(r"demo-\d{4}-\d\d-\d\d", name) for name in folders)
    train.main([corrections.uri, "--registry", "unused", "--dry-run"])
    for number, uri in enumerate(uris[:8]):
        stored = images.decode(storage.read(uri).data, rule)
        np.testing.assert_array_equal(stored, images.decode(pictures[number], rule))


def test_a_correction_keeps_nothing_but_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A secret camera"
    data = encoded(1, 1, "JPEG", exif=exif, comment=b"at home")
    uri = Corrections(str(tmp_path)).add(Upload("x.jpg", data), "1", ImageRule())
    stored = Path(uri).read_bytes()
    assert b"secret" not in stored
    assert b"at home" not in stored
    assert len(stored) < 250_000


@pytest.mark.parametrize("label", ["", "..", "a/b", "../x", "a\\b", ".hidden"])
def test_a_correction_cannot_leave_its_place(tmp_path: Path, label: str) -> None:
    with pytest.raises(Misuse, match="class must be"):
        Corrections(str(tmp_path)).add(Upload("x.png", encoded()), label, ImageRule())
    assert not list(tmp_path.iterdir())


def test_corrections_are_capped_and_must_be_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback, "MAX_PER_DAY", 2)
    corrections = Corrections(str(tmp_path))
    with pytest.raises(Unreadable):
        corrections.add(Upload("x.png", b"x"), "1", ImageRule())
    for _ in range(2):
        corrections.add(Upload("x.png", encoded()), "1", ImageRule())
    with pytest.raises(Misuse, match="at most 2"):
        corrections.add(Upload("x.png", encoded()), "1", ImageRule())


def test_the_page_stores_a_correction_under_its_class(
    web: httpx.Client, shelf: Shelf, kept: Path
) -> None:
    label = shelf.classes({})[0]
    before = len(list(kept.rglob("*.png")))
    said = call(web, "correct", upload(web, encoded()), label, None).json()["data"][0]
    assert said.startswith("Thank you")
    assert len(list((kept / label).rglob("*.png"))) == before + 1
    refused = call(web, "correct", upload(web, encoded()), "../escape", None)
    assert refused.status_code == 500
    assert len(list(kept.rglob("*.png"))) == before + 1


def test_without_feedback_nothing_is_stored_and_nothing_asks(shelf: Shelf) -> None:
    async def built() -> dict[str, Any]:  # Gradio makes and forgets an event loop where none runs
        return page.build(shelf).get_config_file()

    config = asyncio.run(built())
    assert "correct" not in {d["api_name"] for d in config["dependencies"]}
    assert "That's wrong" not in json.dumps(config, default=str)


# ---- The models on show -----------------------------------------------------------------------


@pytest.fixture
def two_versions(tmp_path: Path, shelf: Shelf) -> tuple[str, Bundle]:
    """A registry of one model with two versions, the older one champion, and that one's bundle."""
    model = shelf.bundles[0]
    old, new = "20260101T000000Z-aaaaaaaa", "20260202T000000Z-bbbbbbbb"
    for version in (old, new):
        folder = tmp_path / model.card.name / version
        shutil.copytree(model.uri, folder)
        card = json.loads((folder / "card.json").read_text()) | {"version": version}
        card.pop("seal", None)
        (folder / "card.json").write_text(json.dumps(card))
    registry.promote(str(tmp_path), model.card.name, old, "first")
    return str(tmp_path), model


def test_a_new_champion_is_on_show_without_a_restart(two_versions: tuple[str, Bundle]) -> None:
    place, model = two_versions
    shown = Shelf([place])
    assert shown.bundles[0].card.version.startswith("20260101")
    shown.watch(every_s=0.05)
    registry.promote(place, model.card.name, "20260202T000000Z-bbbbbbbb", "better")
    until_s = time.monotonic() + 10
    while time.monotonic() < until_s and not shown.bundles[0].card.version.startswith("20260202"):
        time.sleep(0.05)
    assert shown.bundles[0].card.version.startswith("20260202")


def renamed(folder: Path, *classes: str) -> None:
    """Give the model of a bundle other classes, as a training with them would."""
    card = json.loads((folder / "card.json").read_text())
    names = dict(zip(card["classes"], classes, strict=True))
    card["classes"] = list(classes)
    card["metrics"]["per_class"] = {
        names[name]: row for name, row in card["metrics"]["per_class"].items()
    }
    (folder / "card.json").write_text(json.dumps(card))


def test_the_classes_to_correct_with_follow_the_models(
    two_versions: tuple[str, Bundle], tmp_path: Path
) -> None:
    place, model = two_versions
    new = "20260202T000000Z-bbbbbbbb"
    folder = Path(place) / model.card.name
    renamed(folder / new, "fist", "one", "two", "three")
    shown, kept = Shelf([place]), Corrections(str(tmp_path / "kept"))
    picture = Upload("x.png", encoded())

    def offered(chosen: dict[str, str]) -> list[str]:
        _, classes, _ = tab_classify.offer(shown, picture, chosen)
        return [name for name, _ in classes.choices]

    assert offered({}) == list(model.card.classes)
    with pytest.raises(gr.Error, match="other classes"):
        tab_classify.correct(shown, kept, picture, "fist", {})
    mine = {model.card.name: str(folder / new)}
    assert offered(mine) == ["fist", "one", "two", "three"]
    tab_classify.correct(shown, kept, picture, "one", mine)
    registry.promote(place, model.card.name, new, "better")
    shown.refresh()
    assert offered({}) == ["fist", "one", "two", "three"]
    assert "(fist, one, two or three)" in page._masthead(shown, {})
    tab_classify.correct(shown, kept, picture, "fist", {})
    with pytest.raises(gr.Error, match="other classes"):
        tab_classify.correct(shown, kept, picture, "0", {})
    assert {path.parents[1].name for path in Path(kept.uri).rglob("*.png")} == {"fist", "one"}


def test_many_answers_with_the_version_that_the_visitor_chose(
    two_versions: tuple[str, Bundle],
) -> None:
    place, model = two_versions
    name, new = model.card.name, "20260202T000000Z-bbbbbbbb"
    chosen, files = {name: f"{place}/{name}/{new}"}, [Upload("x.png", encoded())]
    *_, last = tab_many.run(Shelf([place]), files, name, chosen, tab_many.Go())
    assert [row.version for row in last[1].outcome.predictions] == [new]


def test_a_damaged_champion_leaves_the_old_one_on_show(
    two_versions: tuple[str, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    place, model = two_versions
    shown = Shelf([place])
    before = shown.bundles
    registry.promote(place, model.card.name, "20260202T000000Z-bbbbbbbb", "better")
    (Path(place) / model.card.name / "20260202T000000Z-bbbbbbbb" / "model.tflite").write_bytes(b"x")
    shown.refresh()
    assert shown.bundles == before
    assert "warning" in capsys.readouterr().err


def test_a_visitor_chooses_a_version(two_versions: tuple[str, Bundle]) -> None:
    place, model = two_versions
    shown = Shelf([place])
    dropdown, sheets = tab_models.show(shown, {})
    assert [name.endswith("champion") for name, _ in dropdown.choices] == [True, False]
    assert "20260101T000000Z" in sheets
    chosen, sheets = tab_models.choose(shown, dropdown.choices[1][1], {})
    assert "20260202T000000Z" in sheets
    assert shown.pick(chosen)[0].card.version == "20260202T000000Z-bbbbbbbb"
    back, sheets = tab_models.choose(shown, dropdown.choices[0][1], chosen)
    assert back == {}
    assert shown.pick(back) == shown.bundles


def test_the_sheet_says_what_the_card_says(shelf: Shelf) -> None:
    for model in shelf.bundles:
        sheet = tab_models._sheet(model)
        card = model.card
        assert card.version in sheet
        assert f"{card.metrics['accuracy']['value']:.1%}" in sheet
        assert f"{card.data['n_images']:,} images" in sheet
        assert sheet.count("data-truth=") == len(card.classes) ** 2
        assert ("How it learned" in sheet) == ("curves.png" in card.files)
        for source in card.data.get("sources", []):
            assert source not in sheet


def figures(metrics: dict[str, Any], warning: str = "") -> str:
    """What a visitor reads of a card with these metrics."""
    card = answer_of(Shelf(), "one", 0.9, 0.1).card
    card = dataclasses.replace(card, metrics=metrics, sessions={"warning": warning})
    return " ".join(re.sub(r"<[^>]+>", " ", tab_models._figures(card)).split())


HONEST = {"value": 0.989, "low": 0.976, "high": 0.995, "n_images": 535}
RANDOM = {"value": 1.0, "low": 0.986, "high": 1.0, "n_images": 276, "twin_share": 0.95}


def test_the_honest_accuracy_stands_before_the_optimistic_one_and_both_are_explained() -> None:
    said = figures({"accuracy": HONEST, "twin_share": 0.004, "random_split": RANDOM})
    assert said.startswith(
        "98.9% right on sessions it never saw: pictures of another time than those it learned from "
        "(535 pictures, likely between 97.6% and 99.5%). "
        "0% of them are nearly the same as one it learned from. "
        "100.0% right on a random split of all pictures "
        "(276 pictures, likely between 98.6% and 100.0%). "
        "Too optimistic: 95% of them are nearly the same as one it learned from. "
    )


@pytest.mark.parametrize(
    ("metrics", "absent"),
    [
        ({}, "right on"),
        ({"accuracy": HONEST}, "random split"),
        ({"accuracy": HONEST}, "nearly the same"),
        ({"accuracy": {"value": 0.9}}, "pictures,"),
        ({"accuracy": {"value": 0.9}}, "between"),
        ({"random_split": {"value": 1.0}}, "nearly the same"),
        ({"random_split": {"value": 1.0, "low": None, "high": None}}, "None"),
    ],
)
def test_what_the_card_does_not_know_is_not_shown(metrics: dict[str, Any], absent: str) -> None:
    said = figures(metrics)
    assert absent not in said
    assert "None" not in said
    assert "80% is the score" in said


def test_where_no_session_was_held_out_the_figure_does_not_say_so() -> None:
    assert "sessions it never saw" in figures({"accuracy": HONEST})
    assert "sessions it never saw" not in figures({"accuracy": HONEST}, "one session only")


@pytest.fixture
def with_data(tmp_path: Path, shelf: Shelf) -> tuple[Shelf, Path]:
    """A model whose card says that it was measured on drawn hands that lie here."""
    model = shelf.bundles[-1]
    hands = tmp_path / "hands"
    samples.write(hands, 3, seed=1)
    pixels = [images.decode(p.read_bytes(), ImageRule()) for p in sorted(hands.rglob("*.png"))]
    folder = tmp_path / "bundle"
    shutil.copytree(model.uri, folder)
    digests = np.array([hashlib.sha256(image).hexdigest() for image in pixels])
    np.savez(folder / "measured.npz", digests=digests, scores=model.predict(np.stack(pixels)))
    card = json.loads((folder / "card.json").read_text())
    card.pop("seal", None)
    card["data"]["sources"] = [str(hands)]
    kept = (folder / "measured.npz").read_bytes()
    card["files"]["measured.npz"] = hashlib.sha256(kept).hexdigest()
    (folder / "card.json").write_text(json.dumps(card))
    return Shelf([str(folder)]), hands


def test_the_cells_of_the_confusion_show_their_images(with_data: tuple[Shelf, Path]) -> None:
    shown, hands = with_data
    model = shown.bundles[0]
    classes = model.card.classes
    held_out = [cells.pictures(model, truth, said) for truth in classes for said in classes]
    assert sum(map(len, held_out)) == 12
    line, gallery = tab_models.open_cell(shown, {}, model.card.name, classes[0], classes[0])
    assert line.startswith(f"{len(held_out[0])} images of")
    shutil.rmtree(hands)
    assert cells.pictures(model, classes[0], classes[0]) is None
    line, gallery = tab_models.open_cell(shown, {}, model.card.name, classes[0], classes[0])
    assert "not at hand" in line
    assert not gallery.visible


@pytest.mark.parametrize(
    ("options", "settings", "is_local"),
    [
        ({}, {}, True),
        ({"share": True}, {}, False),
        ({}, {"GRADIO_SHARE": "true"}, False),
        ({}, {"GRADIO_SERVER_NAME": "0.0.0.0"}, False),
    ],
)
def test_training_photos_are_shown_on_the_own_machine_alone(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, bool],
    settings: dict[str, str],
    is_local: bool,
) -> None:
    for name in ("GRADIO_SHARE", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert server.Options(**options).is_local is is_local


@pytest.mark.parametrize("kind", ["bundle", "model", "registry"])
def test_models_are_named_by_bundle_model_or_registry(
    two_versions: tuple[str, Bundle], kind: str
) -> None:
    place, model = two_versions
    uri = {"bundle": model.uri, "model": f"{place}/{model.card.name}", "registry": place}[kind]
    assert [b.card.name for b in Shelf([uri]).bundles] == [model.card.name]


def test_a_model_is_not_shown_twice(two_versions: tuple[str, Bundle]) -> None:
    place, model = two_versions
    with pytest.raises(Misuse, match="each model once"):
        Shelf([place, model.uri]).open()


# ---- The command ------------------------------------------------------------------------------


def command(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo", *arguments],
        cwd=ROOT,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    done = command("--models", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "there is neither card.json nor champion.json" in done.stderr


def test_gradio_is_imported_at_one_place_and_leaves_no_files_there() -> None:
    rooms = [path for path in (ROOT / "demo").glob("*.py") if path.name != "quick.py"]
    importing = [
        path.name
        for path in rooms
        if re.search(r"^\s*(from|import) gradio", path.read_text(), re.MULTILINE)
    ]
    assert importing == []
    assert not list((ROOT / "demo").glob("*.pyi"))


def test_the_served_page_has_no_tensorflow_in_its_process(web: httpx.Client, pid: int) -> None:
    call(web, "classify", upload(web, encoded()))
    loaded = Path(f"/proc/{pid}/maps").read_text()
    assert "ai_edge_litert" in loaded
    assert "/tensorflow/" not in loaded


def test_a_password_is_made_up_and_asked_for(models: list[str]) -> None:
    with served("--models", *models, "--auth", "alice", GRADIO_SERVER_PORT="7923") as (
        url,
        lines,
        _,
    ):
        assert url == "http://127.0.0.1:7923/"
        password = found(lines, "password.*: (.*)")
        with httpx.Client(base_url=url, trust_env=False) as stranger:
            assert stranger.get("/health").status_code == 200
            assert stranger.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
            assert (
                stranger.post("/gradio_api/run/classify", json={"data": [None]}).status_code == 401
            )
            assert stranger.get("/config").status_code == 401
            wrong = stranger.post("/login", data={"username": "alice", "password": "guess"})
            assert wrong.status_code == 400
            right = stranger.post("/login", data={"username": "alice", "password": password})
            right.raise_for_status()
            assert stranger.get("/config").status_code == 200


@pytest.mark.slow
def test_without_a_tunnel_the_local_address_goes_on_working(models: list[str]) -> None:
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    settings = nowhere | {"NO_PROXY": "127.0.0.1", "GRADIO_SHARE": "True"}
    with served("--models", *models, **settings) as (url, lines, _):
        assert found(lines, "^(no public link: the tunnel.*local address goes on working)$")
        assert len(lines) == 2
        assert httpx.get(f"{url}health", trust_env=False).status_code == 200


def test_a_link_open_to_all_is_said_loudly(capsys: pytest.CaptureFixture[str]) -> None:
    shared = SimpleNamespace(
        share_url="https://x.gradio.live", local_url="http://127.0.0.1:1/", server_name="127.0.0.1"
    )
    server._tell(shared, server.Options(share=True))
    assert "OPEN TO EVERYBODY" in capsys.readouterr().err
    server._tell(shared, server.Options(share=True, user="alice"))
    assert "OPEN" not in capsys.readouterr().err


def test_the_address_is_drawn_as_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    server.draw_code("https://x.gradio.live")
    drawn = capsys.readouterr().err
    assert drawn.count("\n") > 10
    assert drawn.endswith("https://x.gradio.live\n")


@pytest.mark.skipif(HAS_MCP, reason="the extra gradio[mcp] is installed")
def test_mcp_without_its_extra_is_one_clear_line() -> None:
    done = command("--mcp")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "pip install 'gradio[mcp]'" in done.stderr


def test_mcp_does_not_go_around_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(Misuse, match="without --auth"):
        server.Options(mcp=True, user="alice")


def test_the_address_of_an_upload_is_as_good_as_the_upload(web: httpx.Client, cache: Path) -> None:
    sent = upload(web, encoded())["path"]
    address = {"path": f"{web.base_url}gradio_api/file={sent}", "meta": FILE_DATA}
    assert "models" in call(web, "classify", address).json()["data"][0]
    for path in ("/etc/passwd", f"{sent}/../../../etc/passwd", "", "..%2F..%2Fetc%2Fpasswd"):
        stolen = address | {"path": f"{web.base_url}gradio_api/file={path}"}
        refused = call(web, "classify", stolen)
        assert refused.status_code == 500
        assert "root:" not in refused.text


@pytest.mark.skipif(not HAS_MCP, reason="the extra gradio[mcp] is not installed")
def test_programs_that_speak_mcp_call_the_tools(models: list[str], tmp_path: Path) -> None:
    with served("--models", *models, "--mcp", TMPDIR=str(tmp_path)) as (url, lines, _):
        address = found(lines, r"speak MCP: (\S+)")
        with httpx.Client(base_url=url, trust_env=False) as web:
            sent = f"{url}gradio_api/file={upload(web, encoded())['path']}"
        inline = pieces.bytes_url(encoded(), "image/png")
        names, *said = asyncio.run(mcp_calls(address, inline, sent, "http://127.0.0.1:1/x.png"))
        outside = [path for path in (tmp_path / "gradio").rglob("*") if path.is_file()]
        assert not outside, "pictures lie in the private cache alone"
    assert names == ["classify", "classify_many"]
    for result in said[:2]:
        assert not result.isError
        assert "'agree': " in result.content[0].text
    assert said[2].isError
    assert "addresses are not fetched" in said[2].content[0].text


async def mcp_calls(address: str, *pictures: str) -> list[Any]:
    """Return the names of the tools, and what `classify` answers to each picture."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async with (
        streamable_http_client(address) as (receive, send, *_),
        ClientSession(receive, send) as session,
    ):
        await session.initialize()
        names = [tool.name for tool in (await session.list_tools()).tools]
        return [names, *[await session.call_tool("classify", {"image": p}) for p in pictures]]


@pytest.mark.slow
def test_a_taken_port_is_one_line(url: str, models: list[str]) -> None:
    done = command("--models", *models, "--port", str(httpx.URL(url).port))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be served" in done.stderr


def test_it_runs_as_a_space_does() -> None:
    settings = {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": "7924"}
    with served(program=("demo/app.py",), **settings):
        shown = httpx.get("http://127.0.0.1:7924/health", trust_env=False).json()
    assert {model["model"] for model in shown["models"]} == {"cnn", "mobilenet"}
