"""What several rooms are tested against: a real S3 over HTTP, and both kinds of places."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs import train
from lib import samples
from tests.weed import seaweedfs

BACKBONE = str(train.SHIPPED)
"""Where trainings of the tests start: no network is needed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of storage and batch runs be repeated against a second S3."""
    told = "the S3 of the tests (default: %(default)s)"
    parser.addoption("--s3", choices=("moto", "seaweedfs"), default="moto", help=told)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what the S3 of this run cannot do, with the reason."""
    for item in items:
        for mark in item.iter_markers("only_on"):
            if mark.args[0] != config.option.s3:
                item.add_marker(pytest.mark.skip(reason=f"{mark.args[0]} alone: {mark.args[1]}"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep activations out of the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HANDFUL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def s3_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of an emulated AWS, or of another S3, one for the whole session."""
    if request.config.option.s3 == "seaweedfs":
        with seaweedfs(tmp_path_factory.mktemp("store") / "weed") as (url, _):
            yield url
        return
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up credentials, and nothing of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def _s3_client(s3_server: str) -> Any:
    import boto3

    session = boto3.Session("testing", "testing", region_name="us-east-1")
    return session.client("s3", endpoint_url=s3_server)


@pytest.fixture
def s3(
    aws_settings: None,
    s3_server: str,
    _s3_client: Any,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> Any:
    """A boto3 client of an S3 that holds one empty bucket, `photos`."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    if pytestconfig.option.s3 == "moto":
        urllib.request.urlopen(f"{s3_server}/moto-api/reset", data=b"").close()
    for bucket in _s3_client.list_buckets()["Buckets"]:
        _s3_client.delete_bucket(Bucket=bucket["Name"])  # SeaweedFS empties it, too
    _s3_client.create_bucket(Bucket="photos")
    return _s3_client


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place for objects: once a local folder, once an S3 prefix."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return "s3://photos/album"
    (tmp_path / "album").mkdir()
    return str(tmp_path / "album")


@pytest.fixture(scope="session")
def hands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn hands: 4 classes, 3 sessions."""
    folder = tmp_path_factory.mktemp("data") / "hands"
    samples.write(folder, n_images_per_class=9, seed=1)
    return folder


@pytest.fixture(scope="session")
def trained(hands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with one version of both models, trained for a moment on drawn hands."""
    folder = tmp_path_factory.mktemp("registry")
    train.main([str(hands), "--registry", str(folder), "--frozen", "--backbone", BACKBONE])
    return folder
