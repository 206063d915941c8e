"""An update: sealed to a round key, its manifest signed by the device, its receipt by the server."""

from typing import Any

import numpy as np
from blake3 import blake3

from qflare_protocol import hpke
from qflare_protocol.attestation import enclave_key_id
from qflare_protocol.cose import Signer, sign1, unverified_payload, verify1
from qflare_protocol.manifest import Manifest, manifest_digest, sign_manifest, verify_manifest
from qflare_protocol.tensors import decode_tensors, encode_tensors
from qflare_protocol.update import UpdateContext, open_update, seal_update
from tests.vectors.parties import DEVICE_ID, FEDERATION_ID, NOW, ROUND_ID, new_signer, signer_values, verifier_of
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

NAME = "an update of two tensors"
BASE_MODEL = bytes(range(150, 182))
CONTEXT = ["federation_id", "round_id", "device_id", "enclave_key_id", "base_model_digest"]


def make() -> VectorFile:
    """Make the file."""
    device, server, result = new_signer(), new_signer(), new_signer()
    round_key = hpke.generate()
    tensors = {"bias": np.array([0.5, -1.0], np.float32), "weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    values = {"signature_algorithm": device.algorithm, "federation_id": FEDERATION_ID, "round_id": ROUND_ID}
    values |= {"device_id": DEVICE_ID, "base_model_digest": BASE_MODEL, "plaintext": encode_tensors(tensors)}
    values |= signer_values("device", device) | signer_values("server_identity", server)
    values |= {"hpke_private": round_key.private, "hpke_public": round_key.public, "result_public": result.public}
    values["enclave_key_id"] = enclave_key_id(round_key.public, result.public)
    values["blob"] = b"".join(seal_update(round_key.public, _context(values), values["plaintext"]))
    values |= {"sample_count": 120, "received_at": NOW}
    manifest = _manifest(values)
    values["manifest"] = sign_manifest(manifest, device)
    values["receipt"] = sign1(server, _receipt(values), purpose="update receipt")
    case = Case(NAME, values)
    _add_blob(case)
    _add_signatures(case)
    purpose = "A sealed update with its context and content key, the manifest, the request body and the receipt."
    return VectorFile(purpose, "11 Updates", [case], _refusals(values))


def _add_blob(case: Case) -> None:
    case.step("digest", "enclave_key_id", label="enclave key", inputs=["hpke_public", "result_public"], length=32)
    case.step("labelled frame", "info", label="update content key", inputs=CONTEXT)
    case.step("slice", "sealed_key", input="blob", begin=12, end=1725, stored=False)
    case.step("open HPKE", "content_key", private="hpke_private", info="info", sealed="sealed_key")
    case.step("digest", "stream_context", label="update stream", inputs=["info", "sealed_key"])
    case.step("slice", "prefix", input="blob", begin=1729, end=1736)
    case.step("labelled frame", "stream_info", label="chunked stream", inputs=["prefix", "stream_context"])
    case.step("HKDF-SHA3-512", "material", key="content_key", info="stream_info", length=64)
    case.step("slice", "aead_key", input="material", begin=0, end=32)
    case.step("slice", "commitment", input="material", begin=32, end=64)
    case.values |= {"magic": b"QF1U", "stream_magic": b"QF1S", "last": b"\x00\x00\x00\x00\x01"}
    case.step("concatenate", "stream_header", inputs=["stream_magic", "prefix", "commitment"])
    case.step("concatenate", "nonce", inputs=["prefix", "last"])
    sealing = {"key": "aead_key", "nonce": "nonce", "plaintext": "plaintext", "aad": "stream_header"}
    case.step("AES-256-GCM", "chunk", **sealing)
    case.step("frame", "framed_key", inputs=["sealed_key"], stored=False)
    case.step("concatenate", "blob", inputs=["magic", "framed_key", "stream_header", "chunk"])


def _add_signatures(case: Case) -> None:
    algorithm = case.values["signature_algorithm"]
    case.step("BLAKE3", "ciphertext_digest", input="blob")
    signed = {"label": "update manifest", "algorithm": algorithm, "key": "device_public"}
    case.step("sign1", structure="manifest", **signed)
    case.step("digest", "manifest_digest", label="signed update manifest", inputs=["manifest"])
    case.step("frame", "framed_manifest", inputs=["manifest"], stored=False)
    case.step("concatenate", "request_body", inputs=["framed_manifest", "blob"], stored=False)
    signed = {"label": "update receipt", "algorithm": algorithm, "key": "server_identity_public"}
    case.step("sign1", structure="receipt", **signed)


def _context(values: dict[str, Any]) -> UpdateContext:
    return UpdateContext(**{name: values[name] for name in CONTEXT})


def _manifest(values: dict[str, Any]) -> Manifest:
    named = ("round_id", "federation_id", "device_id", "base_model_digest", "sample_count", "enclave_key_id")
    return Manifest(
        **{name: values[name] for name in named}, ciphertext_digest=blake3(values["blob"]).digest(),
        ciphertext_bytes=len(values["blob"]), metrics={"loss": 0.25, "epochs": 2},
    )  # fmt: skip


def _receipt(values: dict[str, Any]) -> dict[str, Any]:
    return {
        "round_id": values["round_id"],
        "device_id": values["device_id"],
        "manifest_digest": manifest_digest(values["manifest"]),
        "ciphertext_digest": blake3(values["blob"]).digest(),
        "received_at": values["received_at"],
    }


def _refusals(values: dict[str, Any]) -> list[Refused]:
    blob, other = values["blob"], new_signer()
    device = Signer(values["signature_algorithm"], values["device_private"], values["device_public"])
    manifest = unverified_payload(values["manifest"], purpose="update manifest")

    def signed(signer: Signer = device, **changes: Any) -> dict[str, Any]:
        return {"manifest": sign1(signer, manifest | changes, purpose="update manifest")}

    receipt = {"receipt": sign1(other, _receipt(values), purpose="update receipt")}
    cut = {"blob": blob[:-1]}
    contexts = [(f"another {name}", "enclave opens the blob", "decryption-failed", {name: bytes(len(values[name]))})
                for name in CONTEXT]  # fmt: skip
    rows = [
        *contexts,
        ("another magic", "enclave opens the blob", "decryption-failed", {"blob": b"QF2U" + blob[4:]}),
        ("a blob cut short", "enclave opens the blob", "decryption-failed", cut),
        ("a manifest of another key", "server reads the manifest", "invalid-signature", signed(other)),
        ("no samples", "server reads the manifest", "sample-count-refused", signed(sample_count=0)),
        ("half a sample", "server reads the manifest", "sample-count-refused", signed(sample_count=0.5)),
        ("another form", "server reads the manifest", "malformed-message", signed(form="gradient")),
        ("a digest cut short", "server reads the manifest", "malformed-message", signed(ciphertext_digest=bytes(31))),
        ("a receipt of another key", "device reads the receipt", "invalid-signature", receipt),
    ]
    return [Refused(*row, of=NAME) for row in rows]


def _enclave_opens(values: dict[str, Any]) -> None:
    opened = b"".join(bytes(part) for part in open_update(values["hpke_private"], _context(values), [values["blob"]]))
    assert opened == values["plaintext"]
    assert encode_tensors(decode_tensors(opened)) == opened


def _server_reads_manifest(values: dict[str, Any]) -> None:
    assert verify_manifest(values["manifest"], verifier_of(values, "device")) == _manifest(values)
    assert manifest_digest(values["manifest"]) == values["manifest_digest"]


def _device_reads_receipt(values: dict[str, Any]) -> None:
    receipt = verify1(verifier_of(values, "server_identity"), values["receipt"], purpose="update receipt")
    assert receipt == _receipt(values)


RECEIVERS: dict[str, Receiver] = {
    "enclave opens the blob": _enclave_opens,
    "server reads the manifest": _server_reads_manifest,
    "device reads the receipt": _device_reads_receipt,
}
