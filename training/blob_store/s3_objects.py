"""Objects of one bucket: what `S3Store` needs of boto3, with its failures as ours.

django-storages makes the client: credentials and profiles come from the environment as boto3 takes them.
"""

import io
import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from storages.backends.s3 import S3Storage

from training.blob_store.contract import PIECE_BYTES, BlobStoreUnavailable
from training.blob_store.location import S3Location

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 60, 3
ADDRESS_SECONDS = 300
COPY = TransferConfig(multipart_threshold=512 << 20, multipart_chunksize=256 << 20, use_threads=False)
"""Copies inside the store: a request for each 256 MiB of a large object, so that none outlasts its time."""

_ABSENT = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})

logger = logging.getLogger("qflare.blobs")


class ObjectAbsent(BlobStoreUnavailable):
    """The bucket has no object of that name; where nobody foresaw it, the store is not as it should be."""


@dataclass(frozen=True)
class ObjectSeen:
    """An object of a listing; `modified_at` is a Unix time of the store's clock."""

    name: str
    modified_at: float


class Bucket:
    """One bucket under one prefix; names are relative to it. Methods raise `BlobStoreUnavailable`."""

    def __init__(self, location: S3Location) -> None:
        # Checksums of newer protocols only where the store demands them: not every other vendor's knows them.
        checksums = "when_supported" if location.endpoint is None else "when_required"
        storage = S3Storage(
            bucket_name=location.bucket,
            location=location.prefix,
            endpoint_url=location.endpoint,
            region_name=location.region,
            client_config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
                s3={"addressing_style": location.addressing},
                signature_version="s3v4",
                request_checksum_calculation=checksums,
                response_checksum_validation=checksums,
            ),
        )
        with failures():
            self._client: Any = storage.connection.meta.client  # thread-safe, unlike the resource
        self._name = location.bucket
        self._prefix = f"{location.prefix}/" if location.prefix else ""

    def _at(self, name: str) -> dict[str, str]:
        return {"Bucket": self._name, "Key": f"{self._prefix}{name}"}

    def reach(self) -> None:
        """Ask for the bucket itself. Raises `ObjectAbsent` where there is none."""
        with failures():
            self._client.head_bucket(Bucket=self._name)

    def size_of(self, name: str) -> int | None:
        """Return an object's size; None where there is none."""
        try:
            with failures():
                return int(self._client.head_object(**self._at(name))["ContentLength"])
        except ObjectAbsent:
            return None

    def modified_at(self, name: str) -> float | None:
        """Return when an object was last written, as a Unix time; None where there is none."""
        try:
            with failures():
                return float(self._client.head_object(**self._at(name))["LastModified"].timestamp())
        except ObjectAbsent:
            return None

    def put(self, name: str, content: bytes | BinaryIO, *, length: int) -> None:
        """Write an object whole."""
        with failures():
            self._client.put_object(**self._at(name), Body=content, ContentLength=length)

    def open(self, name: str, positions: range | None = None) -> "ObjectReader":
        """Open an object, or these bytes of it, for reading once. Raises `ObjectAbsent`."""
        asked = {} if positions is None else {"Range": f"bytes={positions.start}-{positions.stop - 1}"}
        with failures():
            return ObjectReader(self._client.get_object(**self._at(name), **asked)["Body"])

    def download(self, name: str) -> BinaryIO:
        """Return an object as a file without a name, in the folder for temporary files. Raises `ObjectAbsent`."""
        with self.open(name) as reader, ExitStack() as unless_whole:
            file = unless_whole.enter_context(tempfile.TemporaryFile())
            while piece := reader.read(PIECE_BYTES):
                file.write(piece)
            file.flush()
            file.seek(0)
            unless_whole.pop_all()
            return file

    def copy(self, name: str, target: str) -> None:
        """Copy an object inside the bucket; onto itself it looks as if it were written now. Raises `ObjectAbsent`."""
        written_anew = {"MetadataDirective": "REPLACE"}
        with failures():
            place = self._at(target)
            self._client.copy(self._at(name), place["Bucket"], place["Key"], ExtraArgs=written_anew, Config=COPY)

    def remove(self, name: str) -> None:
        """Delete an object, if it is there."""
        with failures():
            self._client.delete_object(**self._at(name))

    def listed(self, folder: str) -> Iterator[ObjectSeen]:
        """Yield the objects whose names begin with `folder`."""
        pages = self._client.get_paginator("list_objects_v2")
        with failures():
            for page in pages.paginate(Bucket=self._name, Prefix=f"{self._prefix}{folder}"):
                for seen in page.get("Contents", ()):
                    yield ObjectSeen(seen["Key"].removeprefix(self._prefix), seen["LastModified"].timestamp())

    def begin_parts(self, name: str) -> str:
        """Begin an object that comes in parts; return the name of its upload at the store."""
        with failures():
            return str(self._client.create_multipart_upload(**self._at(name))["UploadId"])

    def put_part(self, name: str, upload: str, number: int, part: bytes) -> dict[str, Any]:
        """Write a part, numbered from 1, and return what names it at the end."""
        with failures():
            answer = self._client.upload_part(**self._at(name), UploadId=upload, PartNumber=number, Body=part)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def finish_parts(self, name: str, upload: str, parts: list[dict[str, Any]]) -> None:
        """Make the parts the object."""
        with failures():
            self._client.complete_multipart_upload(**self._at(name), UploadId=upload, MultipartUpload={"Parts": parts})

    def abandon_parts(self, name: str, upload: str) -> None:
        """Throw the parts away."""
        with failures():
            self._client.abort_multipart_upload(**self._at(name), UploadId=upload)

    def unfinished(self, folder: str) -> Iterator[tuple[str, str, float]]:
        """Yield name, upload and beginning, as a Unix time, of objects under `folder` that came in part only."""
        pages = self._client.get_paginator("list_multipart_uploads")
        with failures():
            for page in pages.paginate(Bucket=self._name, Prefix=f"{self._prefix}{folder}"):
                for seen in page.get("Uploads", ()):
                    yield seen["Key"].removeprefix(self._prefix), seen["UploadId"], seen["Initiated"].timestamp()

    def address_to_get(self, name: str) -> str:
        """Return a presigned address that serves the object for five minutes; nothing is asked of the store."""
        return self._address("get_object", self._at(name))

    def address_to_put(self, name: str, length: int) -> str:
        """Return a presigned address that takes an object of exactly `length` bytes for five minutes."""
        return self._address("put_object", {**self._at(name), "ContentLength": length})

    def _address(self, call: str, parameters: dict[str, Any]) -> str:
        with failures():
            return str(self._client.generate_presigned_url(call, Params=parameters, ExpiresIn=ADDRESS_SECONDS))


class ObjectReader(io.RawIOBase):
    """An object's bytes as they come; a stream that breaks off is no end but raises `BlobStoreUnavailable`."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        with failures():
            return bytes(self._body.read(None if size is None or size < 0 else size))

    def readall(self) -> bytes:
        return self.read()

    def close(self) -> None:
        self._body.close()
        super().close()


@contextmanager
def failures() -> Iterator[None]:
    """Raise what boto3 raises inside as `ObjectAbsent` or `BlobStoreUnavailable`, and write it to the log."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in _ABSENT:
            raise ObjectAbsent from error
        logger.error("The blob store refused %s: %s", error.operation_name, code)
        raise BlobStoreUnavailable(f"{error.operation_name} was refused with {code}.") from error
    except BotoCoreError as error:
        logger.error("The blob store is out of reach: %s", type(error).__name__)
        raise BlobStoreUnavailable(f"It is out of reach: {type(error).__name__}.") from error
