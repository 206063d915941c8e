"""The form of `BLOB_URL`: a folder, or a bucket of an S3 store with a prefix and where the store is."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_ADDRESSING = ("path", "virtual")


@dataclass(frozen=True)
class S3Location:
    """A bucket, and a prefix of the names in it; without an endpoint it is at Amazon."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    addressing: str = "virtual"


def parse_location(url: str) -> Path | S3Location:
    """Return the folder or bucket that a URL names. Raises `ValueError` with a sentence that does not repeat it."""
    if url.startswith("s3://"):
        return _s3_location(url)
    if url.startswith("file:///") or url.startswith("/"):
        return Path(url.removeprefix("file://"))
    raise ValueError("Must be an absolute folder path, a file:/// URL or s3://bucket/prefix.")


def _s3_location(url: str) -> S3Location:
    parts = urlsplit(url)
    bucket, prefix = parts.netloc, parts.path.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError("Must name a bucket; credentials come from AWS_ACCESS_KEY_ID and the like, never from here.")
    if (prefix and not _PREFIX.fullmatch(prefix)) or {".", ".."} & set(prefix.split("/")) or parts.fragment:
        raise ValueError("The prefix in the bucket has words of letters, digits, dots, dashes and underscores.")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if set(options) - {"endpoint", "region", "addressing"}:
        raise ValueError("Behind the question mark stand endpoint, region and addressing.")
    endpoint = options.get("endpoint")
    if endpoint is not None and (urlsplit(endpoint).scheme not in ("https", "http") or not urlsplit(endpoint).hostname):
        raise ValueError("The endpoint is a URL that begins with https:// or http://.")
    addressing = options.get("addressing", "path" if endpoint else "virtual")
    if addressing not in _ADDRESSING:
        raise ValueError("The addressing is path or virtual.")
    return S3Location(bucket, prefix, endpoint, options.get("region"), addressing)
