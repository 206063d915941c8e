"""Seal what was trained to the round's enclave, sign its manifest, and keep both."""

import numpy as np

from edge_client.assignment import Assignment
from edge_client.key_store import DeviceIdentity
from edge_client.outbox import Outbox
from edge_client.range_sealing import seal_to_ranges
from edge_client.trainer import Tensors, TrainingOutcome
from qflare_protocol.attestation.evidence import EnclaveClaims
from qflare_protocol.errors import Refusal
from qflare_protocol.manifest import Manifest, sign_manifest
from qflare_protocol.tensors import layout_of, require_layout
from qflare_protocol.update import UpdateContext


def seal_into_outbox(
    outbox: Outbox,
    identity: DeviceIdentity,
    assignment: Assignment,
    processes: list[EnclaveClaims],
    base: Tensors,
    outcome: TrainingOutcome,
) -> None:
    """Keep the sealed difference between trained and base model with its manifest.

    Raises `Refusal`: "invalid-tensors" for a model of another layout, "update-too-large",
    "sample-count-refused", "malformed-message" for metrics that are no numbers.
    """
    require_layout(layout_of(outcome.model), layout_of(base))
    delta = {name: np.asarray(outcome.model[name] - base[name], dtype=np.float32) for name in base}
    context = UpdateContext(
        federation_id=assignment.federation_id,
        round_id=assignment.round_id,
        device_id=identity.device_id,
        enclave_key_id=processes[0].key_id,
        base_model_digest=assignment.base_model_digest,
    )
    sealed, parts = seal_to_ranges(processes, context, delta)
    if len(sealed) > processes[0].policy.maximum_update_bytes:
        raise Refusal("update-too-large", f"The sealed update has {len(sealed)} bytes, more than the policy allows.")
    digest, size = outbox.write_sealed((sealed,))
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
        parts=parts,
    )
    outbox.keep(sign_manifest(manifest, identity.signer(assignment.signature_key)))
