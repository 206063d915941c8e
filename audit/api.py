"""The log for everybody, as C2SP tlog-tiles: `/log/checkpoint`, tiles, entries, and proofs as JSON.

What entries disclose is not here: entries hold commitments only.
"""

import re
from collections.abc import Sequence
from typing import Any

from django.http import HttpResponse
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit.models import Checkpoint, Entry
from audit.proofs import encoded_hashes
from audit.sequencing import last_hash
from audit.services import consistency_proof, current_checkpoint, inclusion_proof
from audit.tree import StoredTree, root_at
from qflare_protocol.errors import Refusal
from qflare_protocol.log_tiles import TILE_HEIGHT, TILE_WIDTH, frame_entry

IMMUTABLE = "public, max-age=31536000, immutable"
CHECKPOINT_FRESH = "public, max-age=2"
"""A checkpoint is as old as the sequencer's rhythm at most."""
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_PLACE = re.compile(r"((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")
_MAX_TILE_LEVEL = 7


class _AnyAccept(BaseContentNegotiation):
    """Clients of tlog-tiles ask for files, with whatever Accept header their library sends."""

    def select_parser(self, request: Request, parsers: Sequence[Any]) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Sequence[Any], format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class LogView(APIView):
    """Public: anybody may watch the log."""

    authentication_classes = ()
    permission_classes = ()
    content_negotiation_class = _AnyAccept
    rate_limit_scope = "log"


class CheckpointView(LogView):
    """`GET /log/checkpoint`: the current signed note."""

    answers = ("text/plain", "text")

    def get(self, request: Request) -> HttpResponse:
        answer = HttpResponse(_head().note, content_type="text/plain; charset=utf-8")
        answer["Cache-Control"] = CHECKPOINT_FRESH
        return answer


class TileView(LogView):
    """`GET /log/tile/<level>/<place>`: a full tile, or a partial one that the current checkpoint covers."""

    answers = ("application/octet-stream", "bytes")

    def get(self, request: Request, level: str, place: str) -> HttpResponse:
        index, width = _tile_place(place)
        if level == "entries":
            return _tile(_entry_bundle(index, width))
        if not re.fullmatch("[0-9]", level) or int(level) > _MAX_TILE_LEVEL:
            raise _no_tile()
        _require_covered(int(level), index, width)
        return _tile(b"".join(StoredTree(_head().size).hashes(int(level), index, 0, width)))


class InclusionProofView(LogView):
    """`GET /log/proof/inclusion?index=&size=`: that an entry is in the log of so many entries."""

    answers, numbers = ("application/json", "object"), ("index", "size")

    def get(self, request: Request) -> Response:
        head = _head()
        index, size = _number(request, "index"), _number(request, "size", head.size)
        if size > head.size:
            raise _not_so_long(head)
        if index >= size:
            raise Refusal("malformed-message", "The index must be below the size: entries are counted from 0.")
        leaf = bytes(Entry.objects.values_list("leaf_hash", flat=True).get(index=index))
        proof = encoded_hashes(inclusion_proof(index, size))
        root, leaf_hash = encoded_hashes([root_at(size), leaf])
        return _proof(request, {"index": index, "size": size, "leaf_hash": leaf_hash, "root": root, "proof": proof})


class ConsistencyProofView(LogView):
    """`GET /log/proof/consistency?from=&to=`: that the log of `to` entries continues that of `from`."""

    answers, numbers = ("application/json", "object"), ("from", "to")

    def get(self, request: Request) -> Response:
        head = _head()
        old, new = _number(request, "from"), _number(request, "to", head.size)
        if new > head.size:
            raise _not_so_long(head)
        if not 1 <= old <= new:
            raise Refusal("malformed-message", "`from` must be 1 or more and not above `to`.")
        proof = encoded_hashes(consistency_proof(old, new))
        roots = encoded_hashes([root_at(old), root_at(new)])
        return _proof(request, {"from": old, "to": new, "from_root": roots[0], "to_root": roots[1], "proof": proof})


def _head() -> Checkpoint:
    head = current_checkpoint()
    if head is None:
        raise Refusal("not-found", "The log is empty and not signed yet.")
    return head


def _tile_place(place: str) -> tuple[int, int]:
    """Return index and width of `x001/x234/067` or `067.p/12`, in its one form. Raises `Refusal("not-found")`."""
    parts = _PLACE.fullmatch(place)
    if parts is None or len(place) > 40:
        raise _no_tile()
    groups, last, width = parts.groups()
    index = int(groups.replace("x", "").replace("/", "") + last)
    if groups.startswith("x000") or (width is not None and int(width) >= TILE_WIDTH):
        raise _no_tile()
    return index, TILE_WIDTH if width is None else int(width)


def _require_covered(level: int, index: int, width: int) -> None:
    """Raise `Refusal("not-found")` for hashes that no checkpoint covers."""
    if index * TILE_WIDTH + width > _head().size >> (TILE_HEIGHT * level):
        raise _no_tile()


def _entry_bundle(index: int, width: int) -> bytes:
    _require_covered(0, index, width)
    first = index * TILE_WIDTH
    previous, bundle = last_hash(first), bytearray()
    for entry in Entry.objects.filter(index__gte=first, index__lt=first + width).order_by("index"):
        bundle += frame_entry(entry.canonical_bytes(previous))
        previous = bytes(entry.entry_hash)
    return bytes(bundle)


def _number(request: Request, name: str, default: int | None = None) -> int:
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not _NUMBER.fullmatch(text):
        raise Refusal("malformed-message", f"The parameter {name} must be a whole number, written in digits.")
    return int(text)


def _tile(content: bytes) -> HttpResponse:
    answer = HttpResponse(content, content_type="application/octet-stream")
    answer["Cache-Control"] = IMMUTABLE
    return answer


def _proof(request: Request, members: dict[str, Any]) -> Response:
    """Return a proof; one between sizes that the request names never changes."""
    explicit = request.query_params.get("size", request.query_params.get("to")) is not None
    return Response(members, headers={"Cache-Control": IMMUTABLE if explicit else CHECKPOINT_FRESH})


def _no_tile() -> Refusal:
    return Refusal("not-found", "There is no such tile in the log as its checkpoint covers it.")


def _not_so_long(head: Checkpoint) -> Refusal:
    return Refusal("not-found", f"The log has {head.size} entries; ask for a proof up to its checkpoint.")
