"""The same promises for S3 and for a folder, then what each of them alone can break."""

from __future__ import annotations

import asyncio
import gzip
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lib import storage
from lib.failures import Broken, Misuse
from tests import proxy
from tests.permissions import enforced_permissions
from tests.proxy import Proxy

ODD_KEYS = [
    "plain.jpg",
    "with space.jpg",
    " space around ",
    "100%.jpg",
    "a%2Fb",
    "a+b",
    "a#b?c=d&e",
    "ünï/日本/😀.jpg",
    "e\u0301 is not \u00e9",
    pytest.param("back\\slash", marks=pytest.mark.only_on("moto", "SeaweedFS turns it round")),
    "quote\"'<>|*:;[]{}^`~$!(),@=",
    "tab\tstop",
    "bell\x07",
    "...",
    ".hidden/..two dots",
    "\u200b",
]
KEYS_OF_S3_ALONE = ["/lead", "trail/", "a//b", "./c", "a/../b", "a/.", "..", "//", "k" * 1000]


def names(place: str) -> list[str]:
    return [storage.relative(entry.uri, place) for entry in storage.entries(place)]


def race(n_threads: int, run: Callable[[int], object]) -> list[object]:
    """Let `run` start in all threads at once; return what each returned or raised."""
    start = threading.Barrier(n_threads)

    def one(number: int) -> object:
        start.wait()
        try:
            return run(number)
        except Broken as failure:
            return failure

    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(one, range(n_threads)))


# ---- Both kinds of places ---------------------------------------------------------------------


@pytest.mark.parametrize("key", ODD_KEYS)
def test_every_key_comes_back_as_it_went_in(place: str, key: str) -> None:
    uri = storage.join(place, key)
    etag = storage.write(uri, key.encode())
    assert storage.read(uri) == storage.Blob(key.encode(), etag)
    (entry,) = storage.entries(place)
    assert (entry.uri, entry.etag, entry.size_bytes) == (uri, etag, len(key.encode()))
    assert abs(entry.modified_s - time.time()) < 60


@pytest.mark.only_on("moto", "SeaweedFS does not list a//b")
def test_keys_that_differ_in_slashes_alone_are_different_objects(s3: Any) -> None:
    for key in ["a", *KEYS_OF_S3_ALONE, "a/", "/a"]:
        storage.create(f"s3://photos/{key}", key.encode())
    assert len(names("s3://photos")) == 12
    for entry in storage.entries("s3://photos"):
        key = entry.uri.removeprefix("s3://photos/")
        assert storage.read(entry.uri, entry.etag).data == key.encode()


@pytest.mark.parametrize("key", ["plain.jpg", "a b/ü+%.jpg"])
def test_stat_tells_what_a_listing_shows(place: str, key: str) -> None:
    uri = storage.join(place, key)
    storage.write(uri, b"photo")
    (entry,) = storage.entries(place)
    assert storage.stat(uri) == entry
    with pytest.raises(storage.Missing, match="/b: no such (file|object)$"):
        storage.stat(storage.join(place, "b"))


def test_stat_takes_keys_that_obstore_cannot_name(s3: Any) -> None:
    etag = storage.write("s3://photos/a//b", b"photo")
    assert storage.stat("s3://photos/a//b").etag == etag
    with pytest.raises(storage.Missing):
        storage.stat("s3://photos/a//c")


@pytest.mark.only_on("moto", "SeaweedFS lists folder by folder")
def test_a_folder_and_its_upload_list_in_the_same_order(s3: Any, tmp_path: Path) -> None:
    keys = ["a/b", "a-b", "a.b", "a0", "aa/b/c", "aa/b-c", "Z", "z", "é", "日本/a", "😀", "\uffee"]
    for key in keys:
        storage.write(storage.join(str(tmp_path), key), b"x")
        storage.write(storage.join("s3://photos", key), b"x")
    assert names(str(tmp_path)) == names("s3://photos") == sorted(keys, key=str.encode)


def test_a_prefix_is_a_folder(place: str) -> None:
    for key in ["cats/1", "cats/x/2", "cats2/3", "cat"]:
        storage.write(storage.join(place, key), b"x")
    assert names(f"{place}/cats") == names(f"{place}/cats/") == ["1", "x/2"]


def test_a_slash_at_the_end_of_a_place_changes_nothing(place: str) -> None:
    storage.write(storage.join(f"{place}/", "a"), b"x")
    assert [entry.uri for entry in storage.entries(f"{place}/")] == [f"{place}/a"]


def test_an_empty_place_lists_nothing(place: str) -> None:
    assert list(storage.entries(place)) == []


def test_a_read_with_an_etag_sees_that_the_object_was_replaced(place: str) -> None:
    uri = storage.join(place, "a")
    etag = storage.write(uri, b"one")
    assert storage.read(uri, etag).data == b"one"
    storage.write(uri, b"two")
    with pytest.raises(storage.Changed, match="/a: replaced since it was listed or read$"):
        storage.read(uri, etag)


@pytest.mark.parametrize("size_bytes", [0, 1, 6 * 2**20])
def test_bytes_of_any_size_come_back(place: str, size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    uri = storage.join(place, "a")
    assert storage.read(uri, storage.create(uri, data)).data == data


def test_an_object_that_is_too_large_is_refused(place: str) -> None:
    uri = storage.join(place, "a")
    storage.write(uri, b"12345")
    assert storage.read(uri, max_bytes=5).data == b"12345"
    with pytest.raises(storage.TooLarge, match="at most 4 bytes. Received: 5$"):
        storage.read(uri, max_bytes=4)


def test_what_is_not_there_is_missing(place: str) -> None:
    with pytest.raises(storage.Missing, match="/a: no such (file|object)$"):
        storage.read(f"{place}/a")
    with pytest.raises(storage.Missing):
        storage.read(f"{place}/a", etag="x")


def test_create_keeps_what_is_there(place: str) -> None:
    uri = storage.join(place, "deep/er/a")
    storage.create(uri, b"first")
    with pytest.raises(storage.AlreadyThere, match="deep/er/a: already there$"):
        storage.create(uri, b"second")
    assert storage.read(uri).data == b"first"


def test_of_eight_creates_one_wins_and_its_bytes_stay(place: str) -> None:
    for turn in range(5):
        uri = storage.join(place, str(turn))
        outcomes = race(8, lambda number, uri=uri: (storage.create(uri, b"%d" % number), number))
        (winner,) = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
        assert sum(isinstance(outcome, storage.AlreadyThere) for outcome in outcomes) == 7
        assert storage.read(uri) == storage.Blob(b"%d" % winner[1], winner[0])


def test_of_eight_swaps_one_wins_and_its_bytes_stay(place: str) -> None:
    uri = storage.join(place, "champion.json")
    etag = storage.swap(uri, b"start", None)
    for turn in range(5):
        outcomes = race(
            8,
            lambda number, etag=etag, turn=turn: storage.swap(uri, b"%d%d" % (turn, number), etag),
        )
        (etag,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert sum(isinstance(outcome, storage.Changed) for outcome in outcomes) == 7
        assert storage.read(uri).etag == etag


def test_a_swap_for_what_is_absent_is_a_create(place: str) -> None:
    uri = storage.join(place, "a")
    with pytest.raises(
        storage.Changed, match="/a: (no longer there|replaced since it was listed or read)$"
    ):
        storage.swap(uri, b"two", '"0123"')
    storage.swap(uri, b"one", None)
    with pytest.raises(storage.Changed, match="/a: already there$"):
        storage.swap(uri, b"two", None)
    assert storage.read(uri).data == b"one"


@pytest.mark.parametrize("uri", ["", "s3://", "s3:///key", "gs://bucket/a", "https://host/a"])
def test_other_addresses_are_misuse(uri: str) -> None:
    with pytest.raises(Misuse, match=r"must be .*\. Received: "):
        storage.entries(uri)


@pytest.mark.parametrize("uri", ["s3://photos", "s3://photos/"])
def test_a_bucket_is_no_object(s3: Any, uri: str) -> None:
    with pytest.raises(Misuse, match=f"an object must be s3://bucket/key. Received: {uri}$"):
        storage.read(uri)


@pytest.mark.parametrize(
    ("uri", "folder", "below"),
    [
        ("s3://b/cats/x/1.jpg", "s3://b/cats", "x/1.jpg"),
        ("s3://b/cats/x/1.jpg", "s3://b/cats/", "x/1.jpg"),
        ("s3://b//a", "s3://b", "/a"),
        ("/home/a", "/", "home/a"),
        ("photos/a", "photos", "a"),
    ],
)
def test_relative_undoes_join(uri: str, folder: str, below: str) -> None:
    assert storage.relative(uri, folder) == below
    assert storage.join(folder, below) == uri


def test_relative_refuses_a_neighbour() -> None:
    with pytest.raises(ValueError, match="must be below s3://b/cats/. Received: s3://b/cats2/1"):
        storage.relative("s3://b/cats2/1", "s3://b/cats")


def test_importing_storage_and_using_a_folder_loads_no_client(tmp_path: Path) -> None:
    program = (
        "import sys; from lib import storage\n"
        f"storage.create({str(tmp_path / 'a')!r}, b'x'); list(storage.entries({str(tmp_path)!r}))\n"
        "print({'boto3', 'botocore', 'obstore', 'numpy', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("set()\n", "")


# ---- Folders ----------------------------------------------------------------------------------


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(storage.Missing, match="/nowhere: no such folder$"):
        list(storage.entries(str(tmp_path / "nowhere")))


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(storage.Missing, match="/file: no such folder$"):
        list(storage.entries(str(tmp_path / "file")))
    with pytest.raises(storage.Missing, match="is a folder, not a file$"):
        storage.read(str(tmp_path))
    with pytest.raises(Broken, match="/file/below: File exists$"):
        storage.create(str(tmp_path / "file" / "below"), b"x")


@pytest.mark.skipif(os.geteuid() == 0, reason="root is denied nothing")
def test_a_folder_without_permission_is_denied(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(storage.Denied, match="/closed: permission denied$"):
        list(storage.entries(str(tmp_path)))


def test_links_are_followed_but_never_in_circles_and_special_files_are_left_out(
    tmp_path: Path,
) -> None:
    elsewhere, photos = tmp_path / "elsewhere", tmp_path / "photos"
    elsewhere.mkdir()
    photos.mkdir()
    (elsewhere / "far.jpg").write_bytes(b"far")
    (photos / ".DS_Store").touch()
    (photos / "a.jpg").symlink_to(elsewhere / "far.jpg")
    (photos / "class").symlink_to(elsewhere)
    (photos / "up").symlink_to(photos)
    (photos / "self").symlink_to(photos / "self")
    (photos / "nowhere").symlink_to(tmp_path / "nothing")
    os.mkfifo(photos / "pipe")
    assert names(str(photos)) == [".DS_Store", "a.jpg", "class/far.jpg"]


def test_a_name_that_is_not_utf8_can_be_read(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    (entry,) = storage.entries(str(tmp_path))
    assert storage.read(entry.uri, entry.etag).data == b"x"


def test_a_path_is_listed_under_the_folder_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write("a", b"x")
    storage.write("photos/b", b"x")
    assert [entry.uri for entry in storage.entries(".")] == ["./a", "./photos/b"]
    assert [entry.uri for entry in storage.entries("photos")] == ["photos/b"]


def test_a_replaced_file_has_another_etag_within_one_tick_of_the_clock(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    etags = [storage.write(path, b"%04d" % turn) for turn in range(200)]
    assert len(set(etags)) == 200


def test_a_replaced_file_is_newer_even_if_the_clock_stands_still_or_goes_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a"
    storage.write(str(path), b"one")
    ahead_ns = time.time_ns() + 3600 * 10**9
    os.utime(path, ns=(ahead_ns, ahead_ns))
    storage.write(str(path), b"two")
    assert path.stat().st_mtime_ns == ahead_ns + 1
    storage.swap(str(path), b"six", storage.read(str(path)).etag)
    assert path.stat().st_mtime_ns == ahead_ns + 2


def test_files_are_made_as_the_umask_says(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    storage.create(str(tmp_path / "made"), b"x")
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def add_one(path: str, n_turns: int) -> None:
    while n_turns:
        seen = storage.read(path)
        with suppress(storage.Changed):
            storage.swap(path, b"%d" % (int(seen.data) + 1), seen.etag)
            n_turns -= 1


def test_four_processes_swap_without_losing_a_turn(tmp_path: Path) -> None:
    path = str(tmp_path / "count")
    storage.create(path, b"1000")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=add_one, args=(path, 100)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert storage.read(path).data == b"1400"
    assert os.listdir(tmp_path) == ["count"]


@pytest.mark.parametrize("verb", ["write", "create"])
def test_a_kill_in_the_middle_of_a_write_leaves_nothing_to_see(tmp_path: Path, verb: str) -> None:
    program = f"from lib import storage; storage.{verb}({str(tmp_path / 'a')!r}, bytes(2**28))"
    for _ in range(20):
        child = subprocess.Popen([sys.executable, "-c", program])
        while not os.listdir(tmp_path):
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        left = os.listdir(tmp_path)
        if left != ["a"]:  # else the child was faster than the kill
            break
        os.unlink(tmp_path / "a")
    assert len(left) == 1
    assert left[0].startswith(".")
    assert list(storage.entries(str(tmp_path))) == []
    storage.create(str(tmp_path / "a"), b"again")
    assert names(str(tmp_path)) == ["a"]


def test_a_failed_write_cleans_up(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="File name too long$"):
        storage.create(str(tmp_path / ("k" * 300)), b"x")
    assert os.listdir(tmp_path) == []


# ---- S3 ---------------------------------------------------------------------------------------


@pytest.mark.only_on("moto", "the length of a page is a setting of moto")
def test_a_listing_is_walked_page_by_page(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    keys = [f"{number:02}" for number in range(25)]
    for key in keys:
        s3.put_object(Bucket="photos", Key=f"a b/{key}")
    assert names("s3://photos/a b") == keys
    listing = storage.entries("s3://photos")
    first = [next(listing) for _ in range(10)]
    for entry in first:
        s3.delete_object(Bucket="photos", Key=entry.uri.removeprefix("s3://photos/"))
    s3.put_object(Bucket="photos", Key="a b/99")
    assert [entry.uri[-2:] for entry in listing] == [*keys[10:], "99"]


@pytest.mark.only_on("moto", "SeaweedFS keeps no bytes in a folder")
def test_folder_markers_of_consoles_are_not_listed(s3: Any) -> None:
    s3.put_object(Bucket="photos", Key="cats/")
    s3.put_object(Bucket="photos", Key="cats/empty")
    s3.put_object(Bucket="photos", Key="dogs/", Body=b"bytes, for once")
    assert names("s3://photos") == ["cats/empty", "dogs/"]


def test_stored_bytes_are_not_unpacked_on_the_way(s3: Any) -> None:
    packed = gzip.compress(b"photo" * 100)
    for key in ["a", "a//b"]:
        s3.put_object(Bucket="photos", Key=key, Body=packed, ContentEncoding="gzip")
        assert storage.read(f"s3://photos/{key}").data == packed


@pytest.mark.parametrize("verb", [storage.read, lambda uri: list(storage.entries(uri))])
def test_a_missing_bucket_is_one_clear_line(s3: Any, verb: Callable[[str], object]) -> None:
    with pytest.raises(storage.Missing, match="^s3://holidays: no such bucket$"):
        verb("s3://holidays/a")


@pytest.mark.only_on("moto", "SeaweedFS makes the bucket again")
def test_a_bucket_that_goes_away_is_missing(s3: Any) -> None:
    s3.create_bucket(Bucket="holidays")
    storage.create("s3://holidays/a", b"x")
    s3.delete_object(Bucket="holidays", Key="a")
    s3.delete_bucket(Bucket="holidays")
    for verb in (storage.read, lambda uri: storage.write(uri, b"x")):
        with pytest.raises(storage.Missing, match="^s3://holidays: no such bucket$"):
            verb("s3://holidays/a")


def test_a_bucket_name_that_cannot_be_is_misuse(s3: Any) -> None:
    with pytest.raises(Misuse, match="^s3://my photos: .*Invalid bucket name"):
        storage.read("s3://my photos/a")


def test_a_bucket_with_dots_works(s3: Any) -> None:
    s3.create_bucket(Bucket="my.photos")
    storage.write("s3://my.photos/a", b"x")
    assert storage.read("s3://my.photos/a").data == b"x"


@pytest.mark.only_on("seaweedfs", "moto takes any digest")
@pytest.mark.parametrize("verb", [storage.write, storage.create])
def test_bytes_that_change_on_the_way_are_refused_and_not_stored(
    s3: Any, s3_server: str, monkeypatch: pytest.MonkeyPatch, verb: Callable[[str, bytes], str]
) -> None:
    pass_on = proxy._body

    async def spoiled(reader: asyncio.StreamReader, head: bytes) -> bytes:
        return (await pass_on(reader, head)).replace(b"photo", b"phota")

    monkeypatch.setattr(proxy, "_body", spoiled)
    with Proxy(s3_server) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        with pytest.raises(
            Broken, match="s3://photos/a: the store answers 400 (BadDigest|Invalid)"
        ):
            verb("s3://photos/a", b"a photo of a hand")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    with pytest.raises(storage.Missing):
        storage.read("s3://photos/a")


@pytest.mark.only_on("moto", "moto has IAM")
def test_denied_is_one_clear_line(s3: Any, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    session = boto3.Session("testing", "testing", region_name="us-east-1")
    iam = session.client("iam", endpoint_url=s3_server)
    iam.create_user(UserName="guest")
    key = iam.create_access_key(UserName="guest")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    verbs: list[Callable[[str], object]] = [
        storage.read,
        lambda uri: storage.read(f"{uri}//b"),
        lambda uri: storage.create(uri, b"x"),
        lambda uri: list(storage.entries(uri)),
    ]
    line = r"^s3://photos/a(//b)?: access denied \(403 AccessDenied\) for the credentials in use$"
    with enforced_permissions(s3_server):
        for verb in verbs:
            with pytest.raises(storage.Denied, match=line):
                verb("s3://photos/a")


def test_no_credentials_is_one_clear_line(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(storage.Denied, match="^s3://photos: no AWS credentials found; set "):
        storage.read("s3://photos/a")


def test_an_unknown_profile_is_one_clear_line(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(Broken, match=r"^s3://photos: The config profile \(nobody\) could not"):
        storage.read("s3://photos/a")


def test_endpoint_and_credentials_may_come_from_a_profile(
    s3: Any, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        f"[profile hands]\nendpoint_url = {s3_server}\naws_access_key_id = testing\n"
        "aws_secret_access_key = testing\nregion = eu-west-1\n"
    )
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "hands")
    storage.write("s3://photos/a", b"x")
    assert storage.read("s3://photos/a").data == b"x"


def test_the_endpoint_for_s3_alone_wins(
    s3: Any, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    storage.write("s3://photos/a", b"x")
    assert storage.read("s3://photos/a").data == b"x"


def test_an_endpoint_that_is_no_url_is_misuse(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio")
    with pytest.raises(Misuse, match="^the AWS endpoint must be a URL. Received: .*minio"):
        storage.read("s3://photos/a")


def test_a_wrong_endpoint_is_told_soon_and_in_one_line(
    aws_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    start_s = time.monotonic()
    with pytest.raises(
        storage.Unreachable, match=r"^http://127.0.0.1:9: cannot be reached \(\w+\)$"
    ):
        list(storage.entries("s3://photos"))
    assert time.monotonic() - start_s < 10


def test_a_host_that_never_picks_up_is_given_up(
    aws_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full:
        port = full.getsockname()[1]
        callers = [socket.socket() for _ in range(4)]
        for caller in callers:  # nobody accepts: the queue fills and further calls hang
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        outcomes = race(4, lambda _: storage.read("s3://photos/a"))
        for caller in callers:
            caller.close()
    line = f"http://127.0.0.1:{port}: cannot be reached (ConnectTimeoutError)"
    assert [str(outcome) for outcome in outcomes] == [line] * 4


# ---- An S3 that fails on purpose --------------------------------------------------------------


@dataclass
class Answer:
    """What the failing S3 says once: `n_sent` bytes of the body, then a pause, then it hangs up."""

    status: int = 200
    body: bytes = b""
    etag: str = '"e1"'
    n_sent: int | None = None
    stall_s: float = 0.0
    is_lost: bool = False


@dataclass
class FailingS3:
    """What the server does now: it answers from `answers`, the last one for ever."""

    url: str
    region: str = "us-east-1"
    answers: list[Answer] = field(default_factory=list)
    asked: list[tuple[str, Message]] = field(default_factory=list)
    n_bucket_checks: int = 0

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]


class FailingServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    s3: FailingS3


class FailingHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # botocore waits for its "100 Continue"
    server: FailingServer

    def do_HEAD(self) -> None:
        self.server.s3.n_bucket_checks += 1
        self.send_response(200)
        self.send_header("x-amz-bucket-region", self.server.s3.region)
        self.send_header("Connection", "close")
        self.end_headers()

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        s3 = self.server.s3
        s3.asked.append((self.command, self.headers))
        self.tell(s3.answers.pop(0) if len(s3.answers) > 1 else s3.answers[0])

    def do_PUT(self) -> None:
        self.do_GET()

    def tell(self, answer: Answer) -> None:
        self.close_connection = True
        if answer.is_lost:
            return
        wanted = self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else answer.status)
        self.send_header("Connection", "close")
        self.send_header("ETag", answer.etag)
        self.send_header("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT")
        self.send_header("Content-Length", str(len(answer.body) - first))
        if wanted:
            n_bytes = len(answer.body)
            self.send_header("Content-Range", f"bytes {first}-{n_bytes - 1}/{n_bytes}")
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(answer.body[first : answer.n_sent])
        time.sleep(answer.stall_s)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def failing_server() -> Iterator[FailingServer]:
    with FailingServer(("127.0.0.1", 0), FailingHandler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def failing_s3(
    aws_settings: None, failing_server: FailingServer, monkeypatch: pytest.MonkeyPatch
) -> FailingS3:
    failing_server.s3 = FailingS3(f"http://127.0.0.1:{failing_server.server_port}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", failing_server.s3.url)
    for name in ("STALL_TIMEOUT_S", "RETRY_WINDOW_S"):
        monkeypatch.setattr(storage, name, getattr(storage, name) * 0.03)
    monkeypatch.setattr(storage, "CONFLICT_PAUSES_S", (0.01, 0.01))
    return failing_server.s3


def error_body(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()


PHOTO = os.urandom(300_000)
CUT = Answer(body=PHOTO, n_sent=100_000)
STALLED = Answer(body=PHOTO, n_sent=100_000, stall_s=1.0)
WHOLE = Answer(body=PHOTO)
CONFLICT = Answer(409, error_body("ConditionalRequestConflict"))
LOST_RACE = Answer(412, error_body("PreconditionFailed"))
LOST_ANSWER = Answer(is_lost=True)


@pytest.mark.parametrize("key", ["a", "a//b"])
@pytest.mark.parametrize("first", [CUT, STALLED, LOST_ANSWER, Answer(503), Answer(500)])
def test_a_read_that_breaks_off_is_asked_for_again(
    failing_s3: FailingS3, first: Answer, key: str
) -> None:
    failing_s3.answers = [first, WHOLE]
    assert storage.read(f"s3://photos/{key}", '"e1"') == storage.Blob(PHOTO, '"e1"')
    assert failing_s3.verbs == ["GET", "GET"]
    assert all(asked["If-Match"] == '"e1"' for _, asked in failing_s3.asked)


@pytest.mark.parametrize("key", ["a", "a//b"])
@pytest.mark.parametrize("always", [CUT, STALLED, Answer(200, PHOTO, stall_s=9, n_sent=0)])
def test_a_read_that_always_breaks_off_ends_in_one_line(
    failing_s3: FailingS3, always: Answer, key: str
) -> None:
    failing_s3.answers = [always]
    start_s = time.monotonic()
    with pytest.raises(Broken) as failure:
        storage.read(f"s3://photos/{key}")
    assert time.monotonic() - start_s < 5
    assert str(failure.value) == f"s3://photos/{key}: broke off while it was read"


@pytest.mark.parametrize("etag", [None, '"e1"'])
def test_a_read_never_mixes_two_versions_of_an_object(
    failing_s3: FailingS3, etag: str | None
) -> None:
    replaced = Answer(body=bytes(300_000), etag='"e2"')
    failing_s3.answers = [CUT, replaced]
    with suppress(Broken):
        assert storage.read("s3://photos/a", etag).data in (PHOTO, replaced.body)


@pytest.mark.parametrize("key", ["a", "a//b"])
def test_the_body_of_a_huge_object_is_never_fetched(failing_s3: FailingS3, key: str) -> None:
    huge = Answer(body=bytes(2**27))
    failing_s3.answers = [huge]
    with pytest.raises(storage.TooLarge, match="at most 1,000 bytes. Received: 134,217,728$"):
        storage.read(f"s3://photos/{key}", max_bytes=1000)
    assert failing_s3.verbs == ["GET"]


@pytest.mark.parametrize("etag", [None, '"e0"'])
def test_a_conditional_write_that_met_another_is_repeated(
    failing_s3: FailingS3, etag: str | None
) -> None:
    failing_s3.answers = [CONFLICT, CONFLICT, Answer(etag='"e2"')]
    assert storage.swap("s3://photos/a", b"x", etag) == '"e2"'
    assert failing_s3.verbs == ["PUT", "PUT", "PUT"]
    condition = ("If-None-Match", "*") if etag is None else ("If-Match", etag)
    assert all(condition in asked.items() for _, asked in failing_s3.asked)


def test_a_conflict_without_end_is_told(failing_s3: FailingS3) -> None:
    failing_s3.answers = [CONFLICT]
    line = "^s3://photos/a: the store answers 409 ConditionalRequestConflict$"
    with pytest.raises(Broken, match=line) as failure:
        storage.create("s3://photos/a", b"x")
    assert not isinstance(failure.value, storage.AlreadyThere)
    assert failing_s3.verbs == ["PUT", "PUT", "PUT"]


@pytest.mark.parametrize("etag", [None, '"e0"'])
def test_a_write_whose_answer_was_lost_is_known_by_its_bytes(
    failing_s3: FailingS3, etag: str | None
) -> None:
    failing_s3.answers = [LOST_ANSWER, LOST_RACE, WHOLE]
    assert storage.swap("s3://photos/a", PHOTO, etag) == '"e1"'
    assert failing_s3.verbs == ["PUT", "PUT", "GET"]


def test_a_race_that_was_truly_lost_is_lost_after_a_retry_too(failing_s3: FailingS3) -> None:
    failing_s3.answers = [LOST_ANSWER, LOST_RACE, WHOLE]
    with pytest.raises(storage.AlreadyThere):
        storage.create("s3://photos/a", b"other bytes")
    failing_s3.answers = [LOST_RACE, WHOLE]
    with pytest.raises(storage.AlreadyThere):
        storage.create("s3://photos/a", PHOTO)


def test_expired_credentials_are_denied(failing_s3: FailingS3) -> None:
    failing_s3.answers = [Answer(400, error_body("ExpiredToken"))]
    line = r"^s3://photos/a: access denied \(400 ExpiredToken\) for the credentials in use$"
    for verb in (storage.read, lambda uri: storage.write(uri, b"x")):
        with pytest.raises(storage.Denied, match=line):
            verb("s3://photos/a")


def test_reads_are_signed_for_the_region_of_the_bucket(failing_s3: FailingS3) -> None:
    failing_s3.region = "ap-south-1"
    failing_s3.answers = [WHOLE]
    storage.read("s3://photos-in-india/a")
    ((_, asked),) = failing_s3.asked
    assert "/ap-south-1/s3/aws4_request" in asked["Authorization"]


def test_many_threads_open_a_bucket_once_and_read(failing_s3: FailingS3) -> None:
    failing_s3.answers = [WHOLE]
    blobs = race(16, lambda _: storage.read("s3://photos-of-many/a"))
    assert blobs == [storage.Blob(PHOTO, '"e1"')] * 16
    assert failing_s3.n_bucket_checks == 1


def test_other_settings_of_the_process_are_another_store(
    s3: Any, s3_server: str, failing_s3: FailingS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_s3.answers = [WHOLE]
    assert storage.read("s3://photos/a").data == PHOTO
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    with pytest.raises(storage.Missing):
        storage.read("s3://photos/a")
