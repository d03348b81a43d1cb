"""A proxy between a job and its store that adds latency and, when asked, breaks things."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

FAULTS = ("500", "503", "cut", "reset", "lost", "409")
"""Two answers of a store in trouble; a body cut in half; a connection reset before the store heard
of the request, and one reset after it was carried out; a write that met another one."""

CONFLICT = b"<?xml version='1.0'?><Error><Code>ConditionalRequestConflict</Code></Error>"

STALL_S = 60.0
"""Longer than any client waits for the next byte."""


class Proxy:
    """Passes HTTP on to `target`, a URL, from a port of its own.

    The first time that a method and path are asked for, the next fault of `faults` happens, round
    and round; every further time the request is passed on: a client that tries again gets through.
    The first `n_stalls` objects that are read stall instead, in the middle of the body.

    Args:
        delay_s: added to every request.
    """

    def __init__(
        self, target: str, *, delay_s: float = 0.0, faults: Sequence[str] = (), n_stalls: int = 0
    ) -> None:
        address = urlsplit(target)
        self._host, self._port = address.hostname, address.port
        self._faults, self._n_stalls = faults, n_stalls
        self._asked = Counter[bytes]()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.delay_s = delay_s
        self.is_down = False
        self.n_requests = 0
        self.happened = Counter[str]()
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**20)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # what was closed is taken down by the loop itself

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection until it closes or breaks."""
        store = None
        try:
            store = await asyncio.open_connection(self._host, self._port, limit=2**20)
            while await self._answer(reader, writer, *store):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for stream in (writer, store and store[1]):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        store: asyncio.StreamReader,
        to_store: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request and tell whether the connection goes on."""
        head = await reader.readuntil(b"\r\n\r\n")
        fault = self._fault(head)
        if fault == "reset":
            return _reset(writer)
        if b"expect: 100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await _body(reader, head)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if fault.isdecimal():
            told = CONFLICT if fault == "409" else b""
            reply = b"HTTP/1.1 %s Trouble\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
            writer.write(reply % (fault.encode(), len(told), told))
            await writer.drain()
            return False
        to_store.write(_without_expectation(head) + body)
        told = await store.readuntil(b"\r\n\r\n")
        content = b"" if head.startswith(b"HEAD ") else await _body(store, told)
        if fault == "lost":
            return _reset(writer)
        if fault in ("cut", "stall"):
            writer.write(told + content[: len(content) // 2])
            await writer.drain()
            await asyncio.sleep(STALL_S if fault == "stall" else 0)
            return False
        writer.write(told + content)
        await writer.drain()
        return b"connection: close" not in told.lower() and told.startswith(b"HTTP/1.1")

    def _fault(self, head: bytes) -> str:
        """Return the fault of a request, or nothing."""
        self.n_requests += 1
        if self.is_down:
            return "reset"
        asked = b" ".join(head.split(b" ", 2)[:2])
        self._asked[asked] += 1
        if not self._faults or self._asked[asked] > 1:
            return ""
        fault = self._faults[(len(self._asked) - 1) % len(self._faults)]
        if (
            head.startswith(b"GET ")
            and b".png" in asked
            and self.happened["stall"] < self._n_stalls
        ):
            fault = "stall"
        if fault == "409" and not head.startswith(b"PUT "):
            fault = "503"
        self.happened[fault] += 1
        return fault


def _reset(writer: asyncio.StreamWriter) -> bool:
    linger = struct.pack("ii", 1, 0)  # close() then sends a reset instead of an orderly end
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    return False


def _without_expectation(head: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(b"expect:"))


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """Return the body that a head announces, as it is on the wire."""
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    if b"chunked" not in fields.get(b"transfer-encoding", b""):
        if head.split(b" ")[1] in (b"204", b"304"):
            return b""
        return await reader.readexactly(int(fields.get(b"content-length", 0)))
    chunks = []
    while not chunks or not chunks[-1].startswith(b"0\r\n"):
        size = await reader.readuntil(b"\r\n")
        chunks.append(size + await reader.readexactly(int(size.split(b";")[0], 16) + 2))
    return b"".join(chunks)
