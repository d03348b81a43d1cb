"""The one door for bytes: `s3://bucket/prefix` and local folders behind one small API.

    entries   what lies below a folder, in order            read     one object, and its etag
    stat      one object as a listing would show it         create   put, only if nothing was there
    write     put, whatever was there                       swap     put, only if nothing changed
                                                                     since it was read

boto3 finds credentials, region and endpoint, lists, writes, and gives errors that can be told
apart. obstore reads, several times faster, wherever it can name the key.

    Broken
    ├── Missing        no such object, bucket or folder
    ├── Changed        another etag than the one asked for
    ├── AlreadyThere   `create` came second
    ├── Denied         no credentials, or not allowed
    └── Unreachable    nothing answers at the endpoint
    Unreadable
    └── TooLarge       more bytes than the caller wants to hold
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lib.failures import Broken, Misuse, Unreadable

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient
    from botocore.exceptions import BotoCoreError, ClientError
    from obstore import GetOptions
    from obstore.store import ClientConfig, S3Store

N_TRIES = 3
CONNECT_TIMEOUT_S = 4.0  # N_TRIES of it stay under 15 s, so that a wrong endpoint is soon told
STALL_TIMEOUT_S = 10.0  # without one byte for so long, an answer is given up and asked for again
REQUEST_TIMEOUT_S = 40.0  # one whole answer with its body, however slow
RETRY_WINDOW_S = 25.0  # obstore asks again until so long after its first request: two stalls
N_READ_RETRIES = 10  # with growing pauses; the window usually ends them
CONFLICT_PAUSES_S = (0.05, 0.2, 0.8, 2.0)  # S3 asks to repeat a write that met another one
CREDENTIALS_TTL = timedelta(minutes=10)  # botocore renews what has less than 10 minutes left
DEFAULT_REGION = "us-east-1"

_TEMP_START, _TEMP_END = ".handful-", ".tmp"

# obstore refuses keys with control characters and with empty, `.` or `..` segments, and drops a
# slash at either end without a word: `/a` and `a/` would read `a`.
_UNNAMEABLE = re.compile(r"[\x00-\x1f\x7f]|(^|/)\.{0,2}(/|\Z)")


class Missing(Broken):
    """There is no such object, bucket or folder."""


class Changed(Broken):
    """The object is not the one that the etag names."""


class AlreadyThere(Broken):
    """`create` found an object of that name."""


class Denied(Broken):
    """There are no credentials, or those in use are not allowed to do this."""


class Unreachable(Broken):
    """Nothing answers at the endpoint."""


class TooLarge(Unreadable):
    """The object has more bytes than `max_bytes`; none of them was read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed object.

    Args:
        uri: `s3://bucket/key` with the exact key, never escaped, or the folder as it was given,
            a slash and the path below it. A file name that is not UTF-8 has surrogate escapes.
        etag: opaque; other bytes have another one. A file's is made of its size and its time.
        size_bytes: at least 0.
        modified_s: Unix time.
    """

    uri: str
    etag: str
    size_bytes: int
    modified_s: float


@dataclass(frozen=True, slots=True)
class Blob:
    """The bytes of one object and the etag under which they were stored."""

    data: bytes
    etag: str


def is_s3(uri: str) -> bool:
    """Tell whether `uri` is an `s3://` address; anything else is a local path."""
    return uri.startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """Return `uri` with `parts` below it, one slash between each; nothing else is rewritten."""
    for part in parts:
        uri = f"{uri}{part}" if uri.endswith("/") else f"{uri}/{part}"
    return uri


def relative(uri: str, folder: str) -> str:
    """Return the part of `uri` below `folder`: `x/1.jpg` for `s3://b/cats/x/1.jpg`, `s3://b/cats`.

    Raises:
        ValueError: `uri` is not below `folder`.
    """
    start = join(folder, "")
    if not uri.startswith(start):
        raise ValueError(f"the uri must be below {start}. Received: {uri}")
    return uri[len(start) :]


def entries(uri: str) -> Iterator[Entry]:
    """Yield every object below the folder `uri`, in the UTF-8 byte order of their keys.

    A folder and its upload list in the same order. `s3://bucket/cats` means `cats/…`, never
    `cats2/…`; a prefix without objects yields nothing. Held in memory: one page of 1,000 keys, or
    the names in one local directory. Links to files and to directories are followed, unless they
    lead back up; what is no regular file and what vanishes meanwhile is left out.

    Raises (at the call or while it is walked):
        Missing: no such bucket or folder.
        Denied, Unreachable, Broken: the store refuses or fails.
    """
    place, path = _locate(uri)
    return place.entries(path)


def read(uri: str, etag: str | None = None, max_bytes: int | None = None) -> Blob:
    """Return the bytes of one object; many threads may read at once.

    Raises:
        Missing: no such object, bucket or file.
        Changed: `etag` is given and the object was replaced since; from S3 in the same request.
        TooLarge: the object has more than `max_bytes`; its body is not read.
        Denied, Unreachable, Broken: the store refuses or fails.
    """
    place, path = _locate_object(uri)
    return place.read(path, etag, max_bytes)


def stat(uri: str) -> Entry:
    """Return one object as a listing would show it; many threads may ask at once.

    Raises:
        Missing: no such object, bucket or file.
        Denied, Unreachable, Broken: the store refuses or fails.
    """
    place, path = _locate_object(uri)
    return place.stat(path)


def write(uri: str, data: bytes) -> str:
    """Store `data`, whole or not at all, over whatever was there, and return its etag."""
    place, path = _locate_object(uri)
    return place.write(path, data)


def create(uri: str, data: bytes) -> str:
    """Store `data`, whole or not at all, if nothing has that name yet, and return its etag.

    Of many at once, in any thread, process or machine, one wins. Where a repeated request finds
    exactly these bytes, its own first try counts as the winner: its answer may have been lost.

    Raises:
        AlreadyThere: the name is taken.
    """
    place, path = _locate_object(uri)
    return place.create(path, data)


def swap(uri: str, data: bytes, etag: str | None) -> str:
    """Replace the object that has `etag` (None: no object) with `data`, and return its new etag.

    Of many at once one wins, as with `create`. A local file is safe against other swaps and
    creates, from any process of the machine; a `write` in the same moment may be lost.

    Raises:
        Changed: the object was replaced, is gone or, for None, is there.
    """
    place, path = _locate_object(uri)
    if etag is not None:
        return place.swap(path, data, etag)
    try:
        return place.create(path, data)
    except AlreadyThere as error:
        raise Changed(str(error)) from error


def _locate(uri: str) -> tuple[_Bucket | _Files, str]:
    """Return the place that `uri` lies in, and its key or path there."""
    if is_s3(uri):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise Misuse(f"an S3 address must be s3://bucket/prefix. Received: {uri}")
        return _bucket(bucket), key
    if not uri or re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", uri):
        raise Misuse(f"a place must be s3://bucket/prefix or a folder. Received: {uri!r}")
    return _Files(), uri


def _locate_object(uri: str) -> tuple[_Bucket | _Files, str]:
    place, path = _locate(uri)
    if not path:
        raise Misuse(f"an object must be s3://bucket/key. Received: {uri}")
    return place, path


def _check(uri: str, size_bytes: int, max_bytes: int | None) -> None:
    if max_bytes is not None and size_bytes > max_bytes:
        raise TooLarge("too_large", f"at most {max_bytes:,} bytes. Received: {size_bytes:,}")


# ---- Local folders ----------------------------------------------------------------------------


class _Files:
    """Local files; a path is used as it was given."""

    def entries(self, folder: str) -> Iterator[Entry]:
        return _walk(folder, frozenset())

    def read(self, path: str, etag: str | None, max_bytes: int | None) -> Blob:
        with _file_failures(path), open(path, "rb") as file:
            _match(path, etag, os.fstat(file.fileno()))
            _check(path, os.fstat(file.fileno()).st_size, max_bytes)
            data = file.read()
            found = os.fstat(file.fileno())
        _match(path, etag, found)  # again: another program may write into an open file
        return Blob(data, _token(found))

    def stat(self, path: str) -> Entry:
        found = _file_entry(path)
        if found is None:
            raise Missing(f"{path}: no such file")
        return found

    def write(self, path: str, data: bytes) -> str:
        with _file_failures(path), _staged(path, data) as temp:
            return _replace(temp, path)

    def create(self, path: str, data: bytes) -> str:
        with _file_failures(path), _staged(path, data) as temp:
            try:
                os.link(temp, path)  # unlike a rename, refuses a name that is taken
            except FileExistsError:
                raise AlreadyThere(f"{path}: already there") from None
            return _token(os.stat(temp))

    def swap(self, path: str, data: bytes, etag: str) -> str:
        with _file_failures(path), _staged(path, data) as temp, _locked(os.path.dirname(temp)):
            try:
                _match(path, etag, os.stat(path))
            except FileNotFoundError:
                raise Changed(f"{path}: no longer there") from None
            return _replace(temp, path)


def _walk(folder: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
    """Yield the files below `folder`; `above` holds device and inode of the folders around it."""
    with _file_failures(folder, "folder"):
        found = os.stat(folder)
        names = _names(folder)
    here = (found.st_dev, found.st_ino)
    if here in above:
        return
    for name in names:
        path = join(folder, name)
        if name.endswith("/"):
            yield from _walk(path, above | {here})
        elif (entry := _file_entry(path)) is not None:
            yield entry


def _names(folder: str) -> list[str]:
    """Return the names in `folder`, folders with a slash, in the byte order of whole keys."""
    with os.scandir(folder) as found:
        names = [f"{item.name}/" if os.path.isdir(item) else item.name for item in found]
    visible = (name for name in names if not _is_temp(name))
    return sorted(visible, key=os.fsencode)


def _is_temp(name: str) -> bool:
    return name.startswith(_TEMP_START) and name.endswith(_TEMP_END)


def _file_entry(path: str) -> Entry | None:
    with _file_failures(path):
        try:
            found = os.stat(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # gone, or a link to nothing
                return None
            raise
    if not S_ISREG(found.st_mode):  # a pipe would be waited for, for ever
        return None
    return Entry(path, _token(found), found.st_size, found.st_mtime)


def _token(found: os.stat_result) -> str:
    return f"{found.st_size:x}-{found.st_mtime_ns:x}"


def _match(path: str, etag: str | None, found: os.stat_result) -> None:
    if etag is not None and etag != _token(found):
        raise Changed(f"{path}: replaced since it was listed or read")


@contextmanager
def _staged(path: str, data: bytes) -> Iterator[str]:
    """Write `data` under a hidden name beside `path`, which no listing shows, even after a kill."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    temp = os.path.join(folder, f"{_TEMP_START}{secrets.token_hex(8)}{_TEMP_END}")
    try:
        with open(temp, "xb") as file:
            file.write(data)
        yield temp
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temp)


def _replace(temp: str, path: str) -> str:
    """Rename `temp` to `path` and return its token, which differs from that of the old file."""
    with suppress(FileNotFoundError):
        # A file system's clock stands still for some milliseconds; two swaps may fit in.
        newest_ns = os.stat(path).st_mtime_ns + 1
        if os.stat(temp).st_mtime_ns < newest_ns:
            os.utime(temp, ns=(newest_ns, newest_ns))
    token = _token(os.stat(temp))
    os.replace(temp, path)
    return token


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Keep other threads and processes out of `folder`; the kernel unlocks it if we are killed."""
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _file_failures(path: str, kind: str = "file") -> Iterator[None]:
    """Turn what the file system raises into one line that names `path`."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Missing(f"{path}: no such {kind}") from error
    except IsADirectoryError as error:
        raise Missing(f"{path}: is a folder, not a file") from error
    except PermissionError as error:
        raise Denied(f"{path}: permission denied") from error
    except OSError as error:
        raise Broken(f"{path}: {error.strerror}") from error


# ---- S3 ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bucket:
    """One bucket; `client` takes every key, `reader` is faster."""

    name: str
    client: BaseClient
    reader: S3Store

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def entries(self, prefix: str) -> Iterator[Entry]:
        folder = join(prefix, "") if prefix else ""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=folder
        )
        with _s3_failures(self.uri(prefix).removesuffix("/")):
            for page in pages:
                for found in page.get("Contents", ()):
                    # Consoles draw an empty folder by an empty object whose key ends in a slash:
                    # no bytes of anybody's, and no file in the folder that it stands for.
                    if found["Size"] or not found["Key"].endswith("/"):
                        yield self._entry(found)

    def _entry(self, found: dict[str, Any]) -> Entry:
        modified_s = found["LastModified"].timestamp()
        return Entry(self.uri(found["Key"]), found["ETag"], found["Size"], modified_s)

    def read(self, key: str, etag: str | None, max_bytes: int | None) -> Blob:
        with _s3_failures(self.uri(key)):
            if _UNNAMEABLE.search(key):
                return self._read_exactly(key, etag, max_bytes)
            import obstore

            condition: GetOptions = {} if etag is None else {"if_match": etag}
            answer = obstore.get(self.reader, key, options=condition)
            _check(self.uri(key), answer.meta["size"], max_bytes)
            return Blob(answer.bytes().to_bytes(), answer.meta["e_tag"] or "")

    def _read_exactly(self, key: str, etag: str | None, max_bytes: int | None) -> Blob:
        """Read through boto3, which repeats lost requests but never the reading of a body."""
        from botocore.exceptions import (
            IncompleteReadError,
            ReadTimeoutError,
            ResponseStreamingError,
        )

        condition = {} if etag is None else {"IfMatch": etag}
        n_left = N_TRIES
        while True:
            answer = self.client.get_object(Bucket=self.name, Key=key, **condition)
            # Its own `with` would give the raw stream, which takes a cut body for the whole.
            with closing(answer["Body"]) as body:
                _check(self.uri(key), answer["ContentLength"], max_bytes)
                try:
                    return Blob(body.read(), answer["ETag"])
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    n_left -= 1
                    if not n_left:
                        raise

    def stat(self, key: str) -> Entry:
        with _s3_failures(self.uri(key)):
            if _UNNAMEABLE.search(key):
                found = self.client.head_object(Bucket=self.name, Key=key)
                return self._entry({"Key": key, "Size": found["ContentLength"], **found})
            import obstore

            meta = obstore.head(self.reader, key)
            modified_s = meta["last_modified"].timestamp()
            return Entry(self.uri(key), meta["e_tag"] or "", meta["size"], modified_s)

    def write(self, key: str, data: bytes) -> str:
        return self._put(key, data)

    def create(self, key: str, data: bytes) -> str:
        try:
            return self._put(key, data, IfNoneMatch="*")
        except Changed as error:
            raise AlreadyThere(f"{self.uri(key)}: already there") from error

    def swap(self, key: str, data: bytes, etag: str) -> str:
        try:
            return self._put(key, data, IfMatch=etag)
        except Missing as error:
            raise Changed(f"{self.uri(key)}: no longer there") from error

    def _put(self, key: str, data: bytes, **condition: str) -> str:
        """Write through boto3: obstore gives 409 (ask again) and 412 (lost) the same exception."""
        from botocore.exceptions import ClientError

        with _s3_failures(self.uri(key)):
            for pause_s in CONFLICT_PAUSES_S:
                try:
                    return self._put_once(key, data, condition)
                except ClientError as error:
                    if _status_and_code(error)[1] != "ConditionalRequestConflict":
                        raise
                time.sleep(pause_s)
            return self._put_once(key, data, condition)

    def _put_once(self, key: str, data: bytes, condition: dict[str, str]) -> str:
        from botocore.exceptions import ClientError

        put = {"Bucket": self.name, "Key": key, "Body": data, **condition}
        try:
            return self.client.put_object(**put)["ETag"]
        except ClientError as error:
            n_repeats = error.response["ResponseMetadata"].get("RetryAttempts", 0)
            if _status_and_code(error)[0] != 412 or not n_repeats:
                raise
            # The answer to the first try may have been lost, and what won may be our own bytes.
            stored = self.read(key, None, None)
            if stored.data != data:
                raise
            return stored.etag


_buckets: dict[tuple[str, frozenset[tuple[str, str]]], Future[_Bucket]] = {}
_buckets_lock = threading.Lock()


def _bucket(name: str) -> _Bucket:
    """Return the bucket, opened once for each set of AWS_* variables, however many threads ask."""
    settings = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    with _buckets_lock:
        opened = _buckets.get((name, settings))
        if is_first := opened is None:
            opened = _buckets[name, settings] = Future()
    if is_first:
        try:
            opened.set_result(_open(name))
        except BaseException as error:
            del _buckets[name, settings]  # the next call tries again; those who wait hear of this
            opened.set_exception(error)
    return opened.result()


def _open(name: str) -> _Bucket:
    import boto3

    uri = f"s3://{name}"
    with _s3_failures(uri):
        session = boto3.Session()
        if session.get_credentials() is None:
            raise Denied(
                f"{uri}: no AWS credentials found; set AWS_PROFILE, a role or AWS_ACCESS_KEY_ID"
            )
        client = _client(session)
        address, region = _find(client, name)
        return _Bucket(name, client, _reader(session, name, address, region))


def _client(session: boto3.Session) -> BaseClient:
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=STALL_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": N_TRIES},
    )
    try:
        return session.client(
            "s3", region_name=session.region_name or DEFAULT_REGION, config=config
        )
    except ValueError as error:
        raise Misuse(f"the AWS endpoint must be a URL. Received: {error}") from error


def _find(client: BaseClient, name: str) -> tuple[str, str]:
    """Return the URL under which boto3 reaches the bucket, and the bucket's own region.

    The URL holds all that boto3 knows of endpoints, host or path addressing, dots in names,
    partitions and dual stack. A key that may read objects need not be allowed to ask for the
    bucket, so a refusal is no failure: S3 names the region even then.
    """
    from botocore.exceptions import ClientError

    addresses: list[str] = []
    client.meta.events.register(
        "before-send.s3.HeadBucket", lambda request, **_: addresses.append(request.url)
    )
    try:
        answer = client.head_bucket(Bucket=name)
    except ClientError as error:
        if _status_and_code(error)[0] == 404:
            raise Missing(f"s3://{name}: no such bucket") from error
        answer = error.response
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    return addresses[-1], headers.get("x-amz-bucket-region", client.meta.region_name)


def _reader(session: boto3.Session, name: str, address: str, region: str) -> S3Store:
    from obstore.auth.boto3 import Boto3CredentialProvider
    from obstore.store import S3Store

    options: ClientConfig = {
        "allow_http": address.startswith("http://"),  # only where the user named such an endpoint
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
        "read_timeout": timedelta(seconds=STALL_TIMEOUT_S),
        "timeout": timedelta(seconds=REQUEST_TIMEOUT_S),
    }
    if authorities := os.environ.get("AWS_CA_BUNDLE"):
        options["root_certificate"] = Path(authorities).read_bytes()
    return S3Store(
        name,
        # obstore reads AWS_ENDPOINT_URL_S3 itself and lets it win over `endpoint`. "Virtual
        # hosted" means here: the bucket is already in the address.
        aws_endpoint_url_s3=address.removesuffix("/"),
        virtual_hosted_style_request=True,
        region=region,
        client_options=options,
        retry_config={
            "max_retries": N_READ_RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_WINDOW_S),
        },
        credential_provider=Boto3CredentialProvider(session, ttl=CREDENTIALS_TTL),
    )


@contextmanager
def _s3_failures(uri: str) -> Iterator[None]:
    """Turn what boto3 and obstore raise into one line that names `uri` or the endpoint."""
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
    from obstore.exceptions import BaseError

    try:
        yield
    except ClientError as error:
        raise _refusal(uri, *_status_and_code(error)) from error
    except ParamValidationError as error:
        raise Misuse(f"{uri}: {_one_line(error)}") from error
    except BotoCoreError as error:
        raise _boto_failure(uri, error) from error
    except (BaseError, FileNotFoundError) as error:
        raise _obstore_failure(uri, str(error)) from error


def _status_and_code(error: ClientError) -> tuple[int, str]:
    return error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]


def _refusal(uri: str, status: int, code: str) -> Broken:
    """Name the failure behind an HTTP status and S3's word for it, such as `NoSuchKey`."""
    if code == "NoSuchBucket":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        return Missing(f"s3://{bucket}: no such bucket")
    if status == 404:
        return Missing(f"{uri}: no such object")
    if status == 412:
        return Changed(f"{uri}: replaced since it was listed or read")
    answer = f"{status} {code}" if code not in ("", str(status)) else str(status)
    if status in (401, 403) or code == "ExpiredToken":
        return Denied(f"{uri}: access denied ({answer}) for the credentials in use")
    return Broken(f"{uri}: the store answers {answer}")


def _boto_failure(uri: str, error: BotoCoreError) -> Broken:
    from botocore.exceptions import ConnectionError, HTTPClientError

    if not isinstance(error, (ConnectionError, HTTPClientError)):
        return Broken(f"{uri}: {_one_line(error)}")
    address = urlsplit(error.kwargs.get("endpoint_url") or "")
    if not address.netloc:
        return Unreachable(f"{uri}: broke off while it was read")
    endpoint = f"{address.scheme}://{address.netloc}"
    return Unreachable(f"{endpoint}: cannot be reached ({type(error).__name__})")


def _obstore_failure(uri: str, text: str) -> Broken:
    """Read the failure out of obstore's text, the only place where it tells status and code."""
    if answer := re.search(r"status code: (\d{3})(?:.*?<Code>(\w+)</Code>)?", text, re.DOTALL):
        return _refusal(uri, int(answer[1]), answer[2] or "")
    if "error sending request" in text:
        endpoint = re.search(r"https?://[^/\s]+", text)
        return Unreachable(f"{endpoint[0] if endpoint else uri}: cannot be reached")
    if "body error" in text:
        return Unreachable(f"{uri}: broke off while it was read")
    return Broken(f"{uri}: {text.partition('Debug source')[0].strip()}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
