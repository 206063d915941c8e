"""The enclaves' signed round results, for an auditor's export of the log."""

from collections.abc import Iterator
from pathlib import PurePosixPath

from enclave.models import EnclaveInstance
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.cose import unverified_payload
from qflare_protocol.encoding import encode
from qflare_protocol.errors import Refusal
from qflare_protocol.fields import bytes_field
from qflare_protocol.round_result import MAX_BYTES, PURPOSE, result_digest
from training.models import ModelVersion
from training.verdict_proofs import verdict_proofs_of


def export_results() -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield `results/<digest>`: the CBOR list of the signed result, both keys of its enclave, their algorithm and
    the list of the verdicts that the result names.

    The digest is the one by which the log's entry `round.completed` names the result (protocol section 12).
    """
    made = ModelVersion.objects.filter(restored_from=None).exclude(provenance=None)
    for version in made.order_by("id").iterator(chunk_size=10):
        signed = bytes(version.provenance or b"")
        instance = EnclaveInstance.objects.filter(key_id=_enclave_of(signed)).first()
        if instance is None:
            continue
        keys = [bytes(instance.hpke_public_key), bytes(instance.result_public_key)]
        verdicts = [proof.leaf for proof in verdict_proofs_of(version.maker_id())]
        content = encode([signed, *keys, SIGNATURE_ALGORITHM, verdicts])
        yield PurePosixPath("results", result_digest(signed).hex()), content


def _enclave_of(signed: bytes) -> bytes:
    """Return the key id that a result names; none where the row was damaged, which the verifier then tells."""
    try:
        return bytes_field(unverified_payload(signed, purpose=PURPOSE, maximum_bytes=MAX_BYTES), "enclave_key_id", 32)
    except Refusal:
        return b""
