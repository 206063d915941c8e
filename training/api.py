"""What a device calls inside its session, from `work` to `submit_model` and the uploads; and the blobs."""

import uuid
from typing import IO, Any

from django.conf import settings
from django.db import transaction
from django.http import HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from structlog.contextvars import bind_contextvars

from qflare_protocol.device_evaluation import DeviceEvaluation
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field, require_map
from qflare_protocol.progress import FAILED, ProgressReport
from sessions.sealed_views import SealedView, opened_cbor
from training.blob_store.configured import blob_store
from training.blob_store.contract import absent, checked_name
from training.byte_ranges import requested_range
from training.dispatch import hint_if_due
from training.models import ModelVersion
from training.services.device_evaluation import record_evaluation
from training.services.late_updates import round_closed
from training.services.participation import (
    MAX_MANIFEST_BYTES,
    SubmittedUpdate,
    model_for,
    receive_update,
    record_update,
    work_for,
)
from training.services.presence import FLEET_SIZE
from training.services.progress import report_progress
from training.services.uploads import (
    begin_upload,
    piece_bytes,
    receive_piece,
    record_piece,
    upload_of,
    upload_status,
)

UPDATE_MEDIA_TYPE = "application/vnd.qflare.update"
BLOB_MEDIA_TYPE = "application/octet-stream"
PIECE_MEDIA_TYPE = "application/vnd.qflare.update-piece"
MAX_WHOLE_UPDATE_BYTES = 255 << 20  # what fits beside its manifest into the allowance of a session's keys


class WorkView(SealedView):
    """`POST /api/work`: the round that waits for this device, or when to ask again."""

    rate_limit_scope = "work"

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Learn the fleet's size before the transaction, which sees the rows of one device."""
        super().initial(request, *args, **kwargs)
        self.active_devices = FLEET_SIZE.get()

    def post(self, request: Request) -> Response:
        require_map(opened_cbor(request), frozenset(), "work request")
        return Response(work_for(request.user, active_devices=self.active_devices, now=timezone.now()))


class ProgressView(SealedView):
    """`POST /api/progress`: how far the device's training is, answered with whether to go on."""

    rate_limit_scope = "work"

    def post(self, request: Request) -> Response:
        report = ProgressReport.from_map(opened_cbor(request))
        bind_contextvars(round_id=str(uuid.UUID(bytes=report.round_id)))
        if report.state == FAILED:
            _hint_after_commit(uuid.UUID(bytes=report.round_id))
        return Response(report_progress(request.user, report, now=timezone.now()))


class EvaluationView(SealedView):
    """`POST /api/evaluation`: what a version is worth on the data that the device holds out."""

    rate_limit_scope = "work"

    def post(self, request: Request) -> Response:
        report = DeviceEvaluation.from_map(opened_cbor(request))
        return Response({"recorded": record_evaluation(request.user, report, now=timezone.now())})


class GlobalModelView(SealedView):
    """`GET /api/global_model?federation=<uuid>[&version=<n>|&released=1]`: where a version lies, and its key."""

    rate_limit_scope = "download"

    def get(self, request: Request) -> Response:
        federation_id, version = _uuid_of(request, "federation"), request.query_params.get("version")
        if version is not None and not (version.isascii() and version.isdigit() and len(version) < 10):
            raise Refusal("malformed-message", "The version must be a whole number.")
        number = None if version is None else int(version)
        released = request.query_params.get("released")
        if released not in (None, "1") or (released and version is not None):
            raise Refusal("malformed-message", "The query parameter released is 1 and stands without a version.")
        answer = model_for(request.user, federation_id, number, now=timezone.now(), released=released is not None)
        return Response(answer)


class SubmitModelView(SealedView):
    """`POST /api/submit_model`: a framed manifest and the sealed update, answered with a receipt."""

    rate_limit_scope = "submission"

    @property
    def max_body_bytes(self) -> int:
        """The largest sealed update that may come in one request, with its manifest."""
        return int(min(settings.QFLARE_MAX_UPDATE_BYTES, MAX_WHOLE_UPDATE_BYTES)) + MAX_MANIFEST_BYTES

    def prepare(self, request: Request) -> None:
        """Put the sealed update into the blob store, which may take long, before the transaction."""
        if request.auth.target.content_type != UPDATE_MEDIA_TYPE:
            raise Refusal("unsupported-media-type", f"An update travels as {UPDATE_MEDIA_TYPE}.")
        self.update = receive_update(request.user, read_submission(request.data), now=timezone.now())
        bind_contextvars(round_id=str(self.update.part.round_id))

    def post(self, request: Request) -> Response:
        receipt = record_update(request.user, self.update, now=timezone.now())
        _hint_after_commit(self.update.part.round_id)
        return Response({"receipt": receipt})


class UploadsView(SealedView):
    """`POST /api/uploads`: begins the upload of a manifest's update, or says how far it is."""

    rate_limit_scope = "submission"
    max_body_bytes = MAX_MANIFEST_BYTES + 64

    def post(self, request: Request) -> Response:
        members = opened_cbor(request)
        direct = isinstance(members, dict) and "direct" in members
        expected = frozenset({"manifest", "direct"} if direct else {"manifest"})
        members = require_map(members, expected, "upload request")
        if direct and members["direct"] is not True:
            raise Refusal("malformed-message", "The member direct of an upload request is true or not there.")
        manifest = bytes_field(members, "manifest", maximum=MAX_MANIFEST_BYTES)
        return Response(begin_upload(request.user, manifest, now=timezone.now(), direct=direct))


class UploadView(SealedView):
    """`PATCH /api/uploads/<upload_id>?offset=<n>` takes a piece; `GET` says how far the upload is.

    With `&stored=<length>` and no body the piece lies in the blob store, where the device has put it.
    """

    rate_limit_scope = "upload"

    @property
    def max_body_bytes(self) -> int:
        """The largest piece."""
        return piece_bytes()

    def prepare(self, request: Request) -> None:
        """Put a piece on stable storage, which may take long, before the transaction."""
        if request.method != "PATCH":
            return
        target, direct = request.auth.target, "stored" in request.query_params
        if target.content_type != PIECE_MEDIA_TYPE:
            raise Refusal("unsupported-media-type", f"A piece of an update travels as {PIECE_MEDIA_TYPE}.")
        if direct == bool(target.length):
            raise Refusal("malformed-message", "A piece has at least one byte, and none here if it is stored.")
        self.piece = receive_piece(
            request.user,
            _uuid(self.kwargs["upload_id"]),
            None if direct else request.data,
            offset=_whole_parameter(request, "offset"),
            length=_whole_parameter(request, "stored") if direct else target.length,
            now=timezone.now(),
        )

    def patch(self, request: Request, upload_id: str) -> Response:
        recorded = record_piece(request.user, self.piece, now=timezone.now())
        if self.piece.update is not None:
            bind_contextvars(round_id=str(self.piece.update.part.round_id))
            _hint_after_commit(self.piece.update.part.round_id)
        return Response(recorded)

    def get(self, request: Request, upload_id: str) -> Response:
        upload = upload_of(request.user, _uuid(upload_id))
        if not upload.participation.round.takes_updates_at(timezone.now()):
            raise round_closed(upload.participation.round)
        return Response(upload_status(upload))


def _hint_after_commit(round_id: uuid.UUID) -> None:
    """Let the round go on at once where this request was what it waited for; see `hint_if_due`."""
    transaction.on_commit(lambda: hint_if_due(round_id, now=timezone.now()), robust=True)


def _uuid(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError as error:
        raise Refusal("not-found", "There is no such upload; begin it again with its manifest.") from error


def _whole_parameter(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Refusal("malformed-message", f"The query parameter {name} must be a whole number.")
    return int(text)


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
    """`GET /api/blobs/<digest>`: an encrypted model, or a range of it; useless without the content key of a session.

    Where the blob store has addresses of its own, the device is sent there.
    """

    authentication_classes = ()
    permission_classes = ()
    rate_limit_scope = "download"
    answers = (BLOB_MEDIA_TYPE, "bytes")

    def get(self, request: Request, digest: str) -> HttpResponseBase:
        checked_name(digest)  # refuses what is no digest before the database sees it
        if not ModelVersion.objects.filter(blob_digest=digest).exists():
            raise absent()
        address = blob_store().download_address(digest) if settings.QFLARE_BLOB_REDIRECT else None
        if address is not None:
            return _by_store(address)
        etag = f'"{digest}"'
        if settings.QFLARE_BLOB_ACCEL:
            response: HttpResponseBase = _by_proxy(digest)
        else:
            whole = request.headers.get("If-Range", etag) != etag
            response = _from_store(digest, "" if whole else request.headers.get("Range", ""))
        response["Cache-Control"] = "public, max-age=31536000, immutable"
        response["ETag"] = etag
        return response


def _by_store(address: str) -> HttpResponse:
    """Send the device to the store; the address works for a short time only, so nobody keeps this answer."""
    response = HttpResponseRedirect(address, preserve_request=True)
    response["Cache-Control"] = "no-store"
    return response


def _by_proxy(digest: str) -> HttpResponse:
    """Leave bytes and ranges to nginx, which reads the blob itself (`X-Accel-Redirect`)."""
    response = HttpResponse(content_type=BLOB_MEDIA_TYPE)
    response["X-Accel-Redirect"] = f"{settings.QFLARE_BLOB_ACCEL}{digest[:2]}/{digest}"
    return response


def _from_store(digest: str, range_header: str) -> StreamingHttpResponse:
    size = blob_store().size_of(digest)
    if size is None:
        raise absent()
    positions = requested_range(range_header, size)
    sent = range(size) if positions is None else positions
    response = StreamingHttpResponse(
        blob_store().pieces_between(digest, sent),
        status=200 if positions is None else 206,
        content_type=BLOB_MEDIA_TYPE,
    )
    if positions is not None:
        response["Content-Range"] = f"bytes {positions.start}-{positions.stop - 1}/{size}"
    response["Content-Length"] = str(len(sent))
    response["Accept-Ranges"] = "bytes"
    return response
