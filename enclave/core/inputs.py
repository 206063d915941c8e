"""The input checks that come before any mathematics; a failing update drops out and disturbs no other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enclave.core.requests import AggregateRequest, SubmittedManifest
from qflare_protocol.carried_rows import carried_digest
from qflare_protocol.cose import Verifier
from qflare_protocol.encoding import digest, encode
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import Manifest, manifest_digest, verify_manifest
from qflare_protocol.round_result import roster_digest
from qflare_protocol.round_verdicts import MAX_DETAIL, Scores, UpdateVerdict
from qflare_protocol.staleness import older_bases_to_list


@dataclass(frozen=True)
class Candidate:
    """An update whose manifest holds: its place in the request, its manifest, and that manifest's digest.

    `staleness` is how many versions old its base model is.
    """

    source: int
    manifest: Manifest
    manifest_digest: bytes
    staleness: int = 0

    @property
    def device_id(self) -> bytes:
        """The device that made the update."""
        return self.manifest.device_id

    def verdict(self, reason: str | None, detail: str | None, scores: Scores | None) -> UpdateVerdict:
        """Return the verdict on this update; no reason means accepted."""
        return UpdateVerdict(
            self.device_id,
            self.manifest_digest,
            self.manifest.ciphertext_digest,
            accepted=reason is None,
            reason=reason,
            detail=detail,
            scores=scores,
            staleness=self.staleness,
        )


def check_manifests(request: AggregateRequest, key_ids: Sequence[bytes]) -> tuple[list[Candidate], list[UpdateVerdict]]:
    """Return the candidates in order of device id, and a verdict for each update that is none.

    `key_ids` are those of the processes that share the model, in the order of their ranges.

    Of two updates of one device, the one with the smaller manifest digest stands: an order that
    does not depend on arrival.

    Raises `Refusal("policy-refused")` for a request with older base models than the policy allows.
    """
    staleness = _staleness(request)
    verifiers = {entry.device_id: entry.verifier for entry in request.roster}
    candidates: dict[bytes, Candidate] = {}
    verdicts = []
    for source, submitted in _in_fixed_order(request.updates):
        try:
            manifest = _checked_manifest(submitted, request, key_ids, verifiers)
            if manifest.base_model_digest not in staleness:
                raise Refusal("base-model-mismatch", "The update was trained from another model than the round's.")
            if manifest.device_id in candidates:
                raise Refusal("already-submitted", "The device has another update in this round.")
        except Refusal as refusal:
            verdicts.append(_refused(submitted, refusal))
        else:
            named, age = manifest_digest(submitted.manifest), staleness[manifest.base_model_digest]
            candidates[manifest.device_id] = Candidate(source, manifest, named, age)
    return list(candidates.values()), verdicts


def round_inputs(request: AggregateRequest, key_ids: Sequence[bytes]) -> bytes:
    """Return the digest of what all processes of a round work on, in an order that does not depend on arrival."""
    return digest(
        "round inputs",
        request.federation_id,
        request.round_id,
        encode(list(key_ids)),
        request.policy.digest(),
        roster_digest(request.roster),
        request.base_model_digest,
        encode(older_bases_to_list(request.older_bases)),
        encode(sorted([update.device_id, manifest_digest(update.manifest)] for update in request.updates)),
    )


def _staleness(request: AggregateRequest) -> dict[bytes, int]:
    """Return how many versions old each model is to which updates are taken."""
    oldest = max((base.staleness for base in request.older_bases), default=0)
    if oldest > request.policy.maximum_staleness:
        raise Refusal("policy-refused", f"The policy takes updates at most {request.policy.maximum_staleness} old.")
    return {request.base_model_digest: 0} | {base.digest: base.staleness for base in request.older_bases}


def range_inputs(request: AggregateRequest, inputs: bytes, index: int) -> bytes:
    """Return the digest of what one process works on: the round's inputs, its range, and the carried rows it is given.

    One process alone works on range 0.
    """
    return digest("range inputs", inputs, index.to_bytes(8, "big"), carried_digest(request.carried))


def detail_of(refusal: Refusal) -> str:
    """Return the refusal's sentence as it may stand in a verdict: printable and short."""
    printable = "".join(character if character.isprintable() else "?" for character in refusal.detail)
    return printable[:MAX_DETAIL]


def _in_fixed_order(updates: tuple[SubmittedManifest, ...]) -> list[tuple[int, SubmittedManifest]]:
    return sorted(enumerate(updates), key=lambda item: (item[1].device_id, manifest_digest(item[1].manifest)))


def _checked_manifest(
    submitted: SubmittedManifest,
    request: AggregateRequest,
    key_ids: Sequence[bytes],
    verifiers: Mapping[bytes, Verifier],
) -> Manifest:
    if submitted.device_id not in verifiers:
        raise Refusal("not-invited", "The device does not stand in the round's roster.")
    manifest = verify_manifest(submitted.manifest, verifiers[submitted.device_id])
    if manifest.device_id != submitted.device_id:
        raise Refusal("not-invited", "The manifest names another device.")
    if (manifest.round_id, manifest.federation_id) != (request.round_id, request.federation_id):
        raise Refusal("round-closed", "The manifest is for another round or federation.")
    if manifest.key_ids != tuple(key_ids):
        raise Refusal("enclave-key-mismatch", "The update is sealed to another enclave key than the round's.")
    if manifest.form != request.policy.form.name:
        raise Refusal("policy-refused", f"The policy demands updates of the form {request.policy.form.name}.")
    _check_amounts(manifest, request)
    return manifest


def _check_amounts(manifest: Manifest, request: AggregateRequest) -> None:
    if manifest.sample_count > request.policy.maximum_sample_count:
        raise Refusal("sample-count-refused", f"More than {request.policy.maximum_sample_count} samples are claimed.")
    if manifest.ciphertext_bytes > request.policy.maximum_update_bytes:
        raise Refusal("update-too-large", f"The update has more than {request.policy.maximum_update_bytes} bytes.")


def _refused(submitted: SubmittedManifest, refusal: Refusal) -> UpdateVerdict:
    return UpdateVerdict(
        submitted.device_id,
        manifest_digest(submitted.manifest),
        ciphertext_digest=None,
        accepted=False,
        reason=refusal.code,
        detail=detail_of(refusal),
    )
