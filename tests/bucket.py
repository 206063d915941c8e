"""An S3 store for tests: moto's HTTP server, which keeps its buckets while nobody reaches it."""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from training.blob_store import s3_objects
from training.blob_store.configured import blob_store

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "only-for-tests", "AWS_SECRET_ACCESS_KEY": "only-for-tests"}


class ObjectStore:
    """A server whose port stays the same when it goes away and comes back."""

    def __init__(self) -> None:
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Answer nobody any more."""
        self._server.stop()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let nobody reach the server inside."""
        self.stop()
        try:
            yield
        finally:
            self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
            self._server.start()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """The S3 server of this test process."""
    server = ObjectStore()
    yield server
    server.stop()


@pytest.fixture
def new_bucket(
    object_store: ObjectStore, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], ObjectStore]]:
    """Return what makes an empty bucket and lets it be the site's blob store."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_objects, "ATTEMPTS", 1)  # the waits between attempts are botocore's

    def make() -> ObjectStore:
        name = f"qflare-{uuid.uuid4().hex[:12]}"
        client = boto3.client("s3", endpoint_url=object_store.endpoint, region_name="us-east-1")
        client.create_bucket(Bucket=name)
        client.close()
        settings.QFLARE_BLOB_URL = f"s3://{name}/site?endpoint={object_store.endpoint}&region=us-east-1"
        return object_store

    yield make


@pytest.fixture
def bucket(new_bucket: Callable[[], ObjectStore]) -> ObjectStore:
    """The site's blob store is an empty bucket; gives its server."""
    return new_bucket()


@pytest.fixture(params=["folder", "s3"])
def each_store(request: pytest.FixtureRequest, tmp_path: Any, settings: Any) -> str:
    """The site's blob store is empty: once a folder, once a bucket."""
    if request.param == "s3":
        request.getfixturevalue("bucket")
    else:
        settings.QFLARE_BLOB_DIR = tmp_path / "blobs"
    return str(request.param)


def stored_names() -> set[str]:
    """Return the names of all that the store holds, finished or not."""
    store = blob_store()
    if hasattr(store, "bucket"):
        parts = {f"{name}?{upload}" for name, upload, _ in store.bucket.unfinished("")}
        return parts | {seen.name for seen in store.bucket.listed("")}
    return {str(path.relative_to(store.folder)) for path in store.folder.rglob("*") if path.is_file()}  # type: ignore[attr-defined]
