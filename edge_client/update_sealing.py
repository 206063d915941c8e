"""Seal what was trained to the round's enclave, sign its manifest, and keep both."""

from contextlib import ExitStack

from edge_client.assignment import Assignment
from edge_client.key_store import DeviceIdentity
from edge_client.outbox import Outbox
from edge_client.range_sealing import RangeSealing
from edge_client.rounding_rest import RoundingRest
from edge_client.trainer import Tensors, TrainingOutcome
from edge_client.update_coding import coded_blocks
from qflare_protocol.attestation.evidence import EnclaveClaims
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import Manifest, sign_manifest
from qflare_protocol.tensors import Tensor, TensorLayout, layout_of, require_layout
from qflare_protocol.update import UpdateContext
from qflare_protocol.update_forms import INT8_BLOCKS
from qflare_protocol.update_shape import UpdateShape


def seal_into_outbox(
    outbox: Outbox,
    identity: DeviceIdentity,
    assignment: Assignment,
    processes: list[EnclaveClaims],
    base: Tensors,
    outcome: TrainingOutcome,
) -> None:
    """Keep the sealed update of the trained model, in the form of the enclave's policy, with its manifest.

    It is coded, sealed and written block by block. Raises `Refusal`: "invalid-tensors" for a model of another layout
    or values that the form cannot write, "policy-refused" for parameters that the model does not have,
    "update-too-large", "sample-count-refused", "malformed-message" for metrics that are no numbers.
    """
    require_layout(layout_of(outcome.model), layout_of(base))
    shape = _shape_of(assignment, processes[0], base)
    context = UpdateContext(
        federation_id=assignment.federation_id,
        round_id=assignment.round_id,
        device_id=identity.device_id,
        enclave_key_id=processes[0].key_id,
        base_model_digest=assignment.base_model_digest,
    )
    sealing = RangeSealing(processes, context, shape)
    _require_allowed(shape, processes[0])
    with ExitStack() as stack:
        rest = _rest_of(outbox, assignment, processes[0], shape)
        if rest is not None:
            stack.enter_context(rest)
        digest, size = outbox.write_sealed(sealing.pieces(coded_blocks(shape, base, outcome.model, rest)))
        manifest = Manifest(
            round_id=assignment.round_id,
            federation_id=assignment.federation_id,
            device_id=identity.device_id,
            base_model_digest=assignment.base_model_digest,
            sample_count=outcome.sample_count,
            metrics=outcome.metrics,
            ciphertext_digest=digest,
            ciphertext_bytes=size,
            enclave_key_id=processes[0].key_id,
            form=shape.form.name,
            parts=sealing.parts,
        )
        if rest is not None:
            rest.commit()  # before the update is kept: a pending rest without one is overwritten by the next
        outbox.keep(sign_manifest(manifest, identity.signer(assignment.signature_key)))


def _shape_of(assignment: Assignment, process: EnclaveClaims, base: Tensors) -> UpdateShape:
    """Return the shape of an update to the base model, whose tensors are in the order of its container."""
    layout = TensorLayout(tuple(Tensor(name, "F32", base[name].shape) for name in base))
    place = {"federation_id": assignment.federation_id, "round_id": assignment.round_id}
    return UpdateShape.of(process.policy, layout, **place)


def _require_allowed(shape: UpdateShape, process: EnclaveClaims) -> None:
    """Refuse before anything is written what the policy does not allow."""
    sealed = sum(shape.sealed_bytes(process.policy.ranges))
    if sealed > process.policy.maximum_update_bytes:
        raise Refusal("update-too-large", f"The sealed update has {sealed} bytes, more than the policy allows.")


def _rest_of(outbox: Outbox, assignment: Assignment, process: EnclaveClaims, shape: UpdateShape) -> RoundingRest | None:
    if shape.form.name != INT8_BLOCKS:
        return None
    return RoundingRest(outbox.home, assignment.federation_id, process.policy.digest(), shape.size)
