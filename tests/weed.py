"""SeaweedFS, a second S3 beside moto's: it checks digests, and its races are those of a real server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEY = "testing"
"""The access key that it knows, and the secret."""


@contextmanager
def seaweedfs(folder: Path) -> Iterator[tuple[str, int]]:
    """Start SeaweedFS and yield the URL of its S3 and its process id."""
    folder.mkdir()
    (folder / "s3.json").write_text(
        json.dumps({"identities": [{
            "name": KEY, "credentials": [{"accessKey": KEY, "secretKey": KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }]})
    )  # fmt: skip
    s3, master, volume, filer, admin = free_ports(5)
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    server = subprocess.Popen(
        [weed or "weed", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
         "-master.telemetry=false", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0",
         "-webdav=false", "-admin.ui=false", f"-master.port={master}", f"-volume.port={volume}",
         f"-filer.port={filer}", f"-admin.port={admin}", f"-s3.config={folder / 's3.json'}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{s3}/healthz")
        yield f"http://127.0.0.1:{s3}", server.pid
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def free_ports(n_ports: int) -> list[int]:
    """Return ports that nobody uses, low enough for SeaweedFS to add 10,000 for gRPC."""
    found = []
    for port in range(18_000 + os.getpid() % 1000, 40_000, 7):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        found.append(port)
        if len(found) == n_ports:
            break
    return found


def wait_for(url: str) -> None:
    """Wait until something answers at `url`."""
    for _ in range(300):
        try:
            urllib.request.urlopen(url).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nothing answers at {url}")
