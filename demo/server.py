"""Serving the page: safe by default, open to the world only when asked, and then saying so."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import secrets
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from demo.doors import Guard
from demo.look import CSS, THEME
from demo.quick import gr, mcp, tunneling, utils
from demo.shelf import Shelf
from lib import images
from lib.commands import say
from lib.failures import Misuse

MCP_PATH = "/gradio_api/mcp/"


@dataclass(frozen=True, slots=True)
class Options:
    """How the page is served.

    Raises:
        Misuse: MCP is asked for and its package is missing, or a password is asked for as well.
    """

    share: bool = False
    """Whether to make a public link."""
    user: str | None = None
    """Who may come in; everybody if None. The password is in DEMO_PASSWORD, or made up."""
    port: int | None = None
    """The port; if None, GRADIO_SERVER_PORT or the first free one from 7860."""
    mcp: bool = False
    """Whether programs that speak MCP may call the endpoints."""

    @property
    def is_shared(self) -> bool:
        """Whether there is to be a public link, by the flag or by GRADIO_SHARE."""
        return self.share or os.environ.get("GRADIO_SHARE", "").lower() == "true"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the page."""
        host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
        return not self.is_shared and host in ("127.0.0.1", "localhost", "::1")

    def __post_init__(self) -> None:
        if self.mcp and importlib.util.find_spec("mcp") is None:
            raise Misuse("--mcp needs the package mcp. Install it with: pip install 'gradio[mcp]'")
        if self.mcp and self.user:
            raise Misuse("--mcp must go without --auth: programs that speak MCP cannot log in")


def start(page: gr.Blocks, shelf: Shelf, options: Options) -> str:
    """Serve the page in the background and return its local address.

    Raises:
        Misuse: the port is taken.
    """
    password = _password() if options.user else ""
    mcp.DEFAULT_TEMP_DIR = utils.get_upload_folder()  # read before the page had its own cache
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            page.launch(
                share=options.is_shared,
                auth=(options.user, password) if options.user else None,
                server_port=options.port,
                mcp_server=options.mcp,
                prevent_thread_lock=True,
                quiet=True,
                show_error=False,
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                pwa=False,
                max_file_size=images.MAX_BYTES,
                footer_links=["api"],
                theme=THEME,
                css_paths=CSS,
                app_kwargs={
                    "routes": [Route("/health", _health(shelf))],
                    "middleware": [Middleware(Guard)],
                },
            )
    except OSError as error:
        raise Misuse(f"the page cannot be served there: {error}") from error
    if options.mcp and page.mcp_error:
        page.close()
        raise Misuse(f"--mcp cannot be served: {page.mcp_error}")
    _tell(page, options)
    return page.local_url


def serve(page: gr.Blocks, shelf: Shelf, options: Options) -> NoReturn:
    """Serve the page until the process is told to end."""
    signal.signal(signal.SIGTERM, _end)
    start(page, shelf, options)
    shelf.watch()
    page.block_thread()
    sys.exit(0)


def _end(*_: object) -> NoReturn:
    sys.exit(143)  # so that the cache is emptied on the way out


def _health(shelf: Shelf) -> object:
    def health(_: Request) -> JSONResponse:
        shown = [{"model": b.card.name, "version": b.card.version} for b in shelf.bundles]
        return JSONResponse({"status": "ok", "models": shown})

    return health


def _password() -> str:
    password = os.environ.get("DEMO_PASSWORD")
    if not password:
        password = secrets.token_urlsafe(9)
        say(f"password, made up for this run: {password}")
    return password


def _tell(page: gr.Blocks, options: Options) -> None:
    address = page.share_url or _address(page)
    say(f"local address: {page.local_url}")
    if options.mcp:
        say(
            f"for programs that speak MCP: {page.share_url or page.local_url.rstrip('/')}{MCP_PATH}"
        )
    if page.share_url:
        say(f"public link, for a week at the most: {page.share_url}")
        if not options.user:
            say(
                "WARNING: THE LINK IS OPEN TO EVERYBODY WHO HAS IT; --auth USER asks for a password"
            )
    elif options.is_shared:
        say(f"no public link: {_why_no_tunnel()}; the local address goes on working")
    if sys.stderr.isatty():
        draw_code(address)


def _why_no_tunnel() -> str:
    if not Path(tunneling.BINARY_PATH).exists():
        return "the tunnel program could not be downloaded (is there an internet connection?)"
    return "the tunnel service did not answer (https://status.gradio.app)"


def _address(page: gr.Blocks) -> str:
    """Return the address under which a phone in the same network finds the page."""
    if page.server_name not in ("0.0.0.0", "::"):  # nosec B104
        return page.local_url
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(
            ("192.0.2.1", 9)
        )  # sends nothing; it only tells which interface would be used
        return f"http://{probe.getsockname()[0]}:{page.server_port}/"


def draw_code(address: str) -> None:
    """Draw an address as a QR code on the terminal, for phones."""
    import segno

    segno.make(address, error="m").terminal(out=sys.stderr, compact=True)
    say(address)
