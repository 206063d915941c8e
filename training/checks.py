"""System checks of the blob store: a bucket that can be used, or a folder."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register

from training.blob_store.configured import s3_location
from training.blob_store.contract import BlobStoreUnavailable
from training.blob_store.location import S3Location


@register(Tags.files)
def check_blob_store(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Report a bucket without the packages that speak to it, and one that does not answer these credentials."""
    location = s3_location()
    if location is None:
        return []
    if find_spec("storages") is None or find_spec("boto3") is None:
        hint = "Install the extra: pip install 'qflare[s3]'."
        return [Error("BLOB_URL names a bucket, and no client for S3 is here.", hint=hint, id="qflare.training.E001")]
    return _check_bucket(location) + _check_addresses(location)


def _check_bucket(location: S3Location) -> list[CheckMessage]:
    from training.blob_store.s3_objects import Bucket  # the extra is there by now

    try:
        Bucket(location).reach()  # a client of its own: what is checked before a fork must not be used behind it
    except BlobStoreUnavailable as failure:
        hint = (
            "See that the bucket exists, the endpoint is right and the credentials (AWS_ACCESS_KEY_ID ...) may use it."
        )
        sentence = f"The bucket {location.bucket} cannot be reached. {failure}".strip()
        return [Error(sentence, hint=hint, id="qflare.training.E002")]
    return []


def _check_addresses(location: S3Location) -> list[CheckMessage]:
    """Devices of a server behind TLS follow no address without it."""
    plain = location.endpoint is not None and urlsplit(location.endpoint).scheme == "http"
    if not plain or not settings.QFLARE_BLOB_REDIRECT or settings.QFLARE_INSECURE_HTTP:
        return []
    hint = "Give the endpoint TLS, or set QFLARE_BLOB_REDIRECT=false: then the web processes send the models."
    message = "Devices are sent to a blob store without TLS, where they do not go."
    return [Warning(message, hint=hint, id="qflare.training.W003")]
