"""What a device calls inside its session: `work`, `global_model`, `submit_model`; and the blobs."""

import uuid
from typing import IO

from django.conf import settings
from django.http import FileResponse
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from qflare_protocol.errors import Refusal
from qflare_protocol.fields import require_map
from sessions.sealed_views import SealedView, opened_cbor
from training.blobs import blob_path, open_blob
from training.models import ModelVersion
from training.services.participation import (
    MAX_MANIFEST_BYTES,
    SubmittedUpdate,
    model_for,
    receive_update,
    record_update,
    work_for,
)

UPDATE_MEDIA_TYPE = "application/vnd.qflare.update"


class WorkView(SealedView):
    """`POST /api/work`: the round that waits for this device, or when to ask again."""

    rate_limit_scope = "work"

    def post(self, request: Request) -> Response:
        require_map(opened_cbor(request), frozenset(), "work request")
        return Response(work_for(request.user, now=timezone.now()))


class GlobalModelView(SealedView):
    """`GET /api/global_model?federation=<uuid>[&version=<n>]`: digest, blob and content key of a version."""

    rate_limit_scope = "download"

    def get(self, request: Request) -> Response:
        federation_id, version = _uuid_of(request, "federation"), request.query_params.get("version")
        if version is not None and not (version.isascii() and version.isdigit() and len(version) < 10):
            raise Refusal("malformed-message", "The version must be a whole number.")
        number = None if version is None else int(version)
        return Response(model_for(request.user, federation_id, number, now=timezone.now()))


class SubmitModelView(SealedView):
    """`POST /api/submit_model`: a framed manifest and the sealed update, answered with a receipt."""

    rate_limit_scope = "submission"

    @property
    def max_body_bytes(self) -> int:
        """The largest sealed update any policy here may allow, with its manifest."""
        limit: int = settings.QFLARE_MAX_UPDATE_BYTES
        return limit + MAX_MANIFEST_BYTES

    def prepare(self, request: Request) -> None:
        """Put the sealed update into the blob store, which may take long, before the transaction."""
        if request.auth.target.content_type != UPDATE_MEDIA_TYPE:
            raise Refusal("unsupported-media-type", f"An update travels as {UPDATE_MEDIA_TYPE}.")
        self.update = receive_update(request.user, read_submission(request.data), now=timezone.now())

    def post(self, request: Request) -> Response:
        return Response({"receipt": record_update(request.user, self.update, now=timezone.now())})


def read_submission(body: IO[bytes]) -> SubmittedUpdate:
    """Read the framed manifest; what follows it in the file is the sealed update.

    Raises `Refusal("malformed-message")` when the frame does not fit.
    """
    length = int.from_bytes(body.read(8), "big")
    if not 0 < length <= MAX_MANIFEST_BYTES:
        raise Refusal("malformed-message", f"The manifest's length must be between 1 and {MAX_MANIFEST_BYTES}.")
    manifest = body.read(length)
    if len(manifest) != length:
        raise Refusal("malformed-message", "The body ends inside the manifest.")
    return SubmittedUpdate(manifest, body)


def _uuid_of(request: Request, name: str) -> uuid.UUID:
    try:
        return uuid.UUID(request.query_params.get(name, ""))
    except ValueError as error:
        raise Refusal("malformed-message", f"The query parameter {name} must be a UUID.") from error


class BlobView(APIView):
    """`GET /api/blobs/<digest>`: an encrypted model; useless without the content key of a session."""

    authentication_classes = ()
    permission_classes = ()
    rate_limit_scope = "download"

    def get(self, request: Request, digest: str) -> FileResponse:
        blob_path(digest)  # refuses what is no digest before the database sees it
        if not ModelVersion.objects.filter(blob_digest=digest).exists():
            raise Refusal("not-found", "There is no blob of that name.")
        response = FileResponse(open_blob(digest), content_type="application/octet-stream")
        response["Cache-Control"] = "public, max-age=31536000, immutable"
        response["ETag"] = f'"{digest}"'
        return response
