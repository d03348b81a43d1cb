"""What may come in: pictures as the bytes that were uploaded, under caps, and no addresses."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo.quick import (
    FileData,
    ImageData,
    ListFiles,
    gr,
    processing_utils,
    queueing,
    route_utils,
    utils,
)
from lib import images
from lib.failures import Unreadable

MAX_BODY_BYTES = 8 * 2**20
"""The largest request that is no upload, in bytes; a frame of a camera has a twentieth of it."""

MAX_UPLOAD_BYTES = 2**30
"""The largest upload of many files in one request, in bytes."""

UNWANTED = tuple(
    f"/gradio_api/{route}"
    for route in (
        "proxy=",
        "file=http",
        "process_recording",
        "dev/",
        "vibe",
        "undo-vibe",
        "deep_link",
    )
)
"""Routes of Gradio that fetch addresses, convert videos or edit pages: nothing here needs them."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One file as it came: its name at the visitor's, and its bytes or where they lie."""

    name: str
    source: Path | bytes

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            Unreadable: the cache was emptied meanwhile.
        """
        if isinstance(self.source, bytes):
            return self.source
        try:
            return self.source.read_bytes()
        except FileNotFoundError as error:
            raise Unreadable("expired", "the upload has expired; send it again") from error


class Photo(gr.Image):
    """An image field that hands over the untouched upload instead of opening it."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Upload | None:
        """Return the upload, or None where the field is empty."""
        if payload is None:
            return None
        if payload.url and payload.url.startswith("data:"):
            return Upload("camera.jpg", _inline(payload.url))
        return Upload(_name(payload), _inside(payload.path))


class Classes(gr.Dropdown):
    """A list of classes that changes with the models; who uses the choice checks it."""

    is_template = True

    def preprocess(self, payload: object) -> str | None:
        """Return the class as it came."""
        return payload if isinstance(payload, str) else None


class Photos(gr.File):
    """A field for many files that hands over the untouched uploads."""

    is_template = True

    def preprocess(self, payload: ListFiles | None) -> list[Upload]:
        """Return the uploads in the order they came."""
        return [Upload(_name(file), _inside(file.path)) for file in payload or ()]


def _name(file: FileData | ImageData) -> str:
    name = PurePosixPath((file.orig_name or file.path or "").replace("\\", "/")).name
    return name or "image"


def _inside(path: str | None) -> Path:
    """Return the path of an upload; anything outside of the upload folder was never uploaded."""
    found = Path(path or "").resolve()
    if not found.is_relative_to(Path(utils.get_upload_folder()).resolve()):
        raise refusal("Upload the picture itself.")
    return found


def _inline(url: str) -> bytes:
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error as error:
        raise refusal("The picture is not valid base64.") from error


def refusal(message: str) -> gr.Error:
    """Return an error that the visitor sees as this message and the log does not see at all."""
    return gr.Error(message, print_exception=False)


async def _find_upload(url: str, cache_dir: str) -> str:
    """Return the path of an upload, which programs name by its address here; fetch nothing."""
    _, mark, path = url.partition("/gradio_api/file=")
    if not mark:
        raise refusal("Upload the picture itself; addresses are not fetched.")
    return str(_inside(unquote(path)))


# Any input of any event may carry an address, which Gradio would download from inside our network.
processing_utils.async_ssrf_protected_download = _find_upload


UNUSABLE = "This could not be answered. What each endpoint takes is listed at /?view=api"

_error_payload = utils.error_payload


def _told(error: BaseException | None, show_error: bool) -> dict[str, object]:
    """Return what a visitor is told of an error: never its text, and never nothing."""
    payload = _error_payload(error, show_error)
    return payload if payload["error"] else payload | {"error": UNUSABLE}


utils.error_payload = queueing.error_payload = _told


class Guard:
    """Refuses what Gradio would still do for strangers, and endless bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 403, 404 or 413, or hand the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = unquote(scope["path"])
        if path.startswith(UNWANTED):
            await PlainTextResponse("not offered here", 403)(scope, receive, send)
            return
        allowed = MAX_UPLOAD_BYTES if path == "/gradio_api/upload" else MAX_BODY_BYTES
        if _announced_bytes(scope) > allowed:
            message = f"at most {allowed:,} bytes are taken at once"
            await PlainTextResponse(message, 413)(scope, receive, send)
            return
        try:
            await self.app(scope, _capped(receive, allowed), send)
        except route_utils.FnIndexInferError:
            message = "there is no such endpoint; those there are stand at /?view=api"
            await PlainTextResponse(message, 404)(scope, receive, send)


def _announced_bytes(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _capped(receive: Receive, allowed: int) -> Receive:
    """Return a `receive` that hangs up on a body that announced no length and does not end."""
    n_bytes = 0

    async def receive_capped() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        return {"type": "http.disconnect"} if n_bytes > allowed else message

    return receive_capped


def size_text(size_bytes: int = images.MAX_BYTES) -> str:
    """Return a size as people write it."""
    return f"{size_bytes / 2**20:.0f} MB"
