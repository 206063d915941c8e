"""Rounds on paper whose updates are in any form: sealed by the device's own code, by one process or by ranges."""

from collections import namedtuple

import numpy as np

from edge_client.range_sealing import RangeSealing
from edge_client.update_coding import coded_blocks
from enclave.core.requests import SubmittedManifest
from qflare_protocol.manifest import Manifest, sign_manifest
from qflare_protocol.tensors import decode_tensors, layout_of, model_digest
from qflare_protocol.update import UpdateContext
from qflare_protocol.update_shape import UpdateShape
from tests.enclave_core.rounds import FEDERATION, ROUND, Round, device_id, new_signer
from tests.enclave_core.shared_rounds import SharedRound

Process = namedtuple("Process", "policy hpke_public_key key_id")


class FormRound(Round):
    """A round of one process whose model is `base`, a map of tensors."""

    @property
    def processes(self):
        return [Process(self.policy, self.hpke_public, self.key_id)]

    def new_model(self):
        return self.aggregate()[1]


class SharedFormRound(SharedRound):
    """A round of several processes whose model is `base`, one array."""

    @property
    def processes(self):
        return [Process(self.policy, one.hpke_public, one.key_id) for one in self.keys]

    def new_model(self):
        return decode_tensors(self.aggregate()[1])


def shape_of(entry):
    base = decode_tensors(entry.base_bytes)
    return UpdateShape.of(entry.policy, layout_of(base), federation_id=FEDERATION, round_id=ROUND)


def train(entry, *, step=0.01, count=5, seed=3):
    """Return that many trained models around the round's base, near one another."""
    base, generator = decode_tensors(entry.base_bytes), np.random.default_rng(seed)
    common = {name: generator.normal(size=value.shape) for name, value in base.items()}
    return [
        {
            name: (value + step * (common[name] + 0.3 * generator.normal(size=value.shape))).astype(np.float32)
            for name, value in base.items()
        }
        for _ in range(count)
    ]


def hand_in(entry, trained, *, blocks=None, **claims):
    """Submit a trained model as a device does; `blocks` stand for what it would code, `claims` for its manifest's."""
    base, shape = decode_tensors(entry.base_bytes), shape_of(entry)
    name = device_id(len(entry.submitted) + 1)
    signer = entry.signers.setdefault(name, new_signer())
    digest = model_digest(entry.base_bytes)
    context = UpdateContext(FEDERATION, ROUND, name, entry.processes[0].key_id, digest)
    sealing = RangeSealing(entry.processes, context, shape)
    sealed = b"".join(sealing.pieces(coded_blocks(shape, base, trained) if blocks is None else blocks))
    members = {
        "round_id": ROUND, "federation_id": FEDERATION, "device_id": name, "base_model_digest": digest,
        "sample_count": 100, "ciphertext_digest": model_digest(sealed), "ciphertext_bytes": len(sealed),
        "enclave_key_id": entry.processes[0].key_id, "form": shape.form.name, "parts": sealing.parts,
    }  # fmt: skip
    entry.submitted.append(SubmittedManifest(name, sign_manifest(Manifest(**(members | claims)), signer)))
    entry.blobs.append(sealed)
    return sealed
