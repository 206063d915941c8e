"""`GET /api/enclave/status`: the evidence and keys of the enclaves that serve rounds now."""

import base64
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from enclave.models import EnclaveInstance
from qflare_protocol.attestation.evidence import SIGNATURE_ALGORITHM
from qflare_protocol.attestation.limits import left_open
from qflare_protocol.cose import key_fingerprint


class EnclaveStatusView(APIView):
    """Public: evidence is there to be checked by whoever wants to."""

    authentication_classes = ()
    permission_classes = ()
    rate_limit_scope = "download"
    answers = ("application/json", "object")

    def get(self, request: Request) -> Response:
        live = EnclaveInstance.objects.filter(retired_at=None)
        return Response({"enclaves": [describe_instance(instance) for instance in live]})


def describe_instance(instance: EnclaveInstance) -> dict[str, Any]:
    """Return what anyone may know of an enclave, as JSON values; binary members are base64."""
    attestation_key = bytes(instance.attestation_key)
    return {
        "round_id": str(instance.round_id),
        "attester": instance.attester,
        "tier": instance.tier,
        "not_protected_against": " ".join(left_open(instance.attester)),
        "key_id": bytes(instance.key_id).hex(),
        "measurement": bytes(instance.measurement).hex(),
        "policy_digest": bytes(instance.policy_digest).hex(),
        "protections": instance.protections,
        "appraisal": instance.appraisal,
        "attestation_key_fingerprint": key_fingerprint(SIGNATURE_ALGORITHM, attestation_key).hex(),
        "hpke_public_key": base64.b64encode(bytes(instance.hpke_public_key)).decode(),
        "result_public_key": base64.b64encode(bytes(instance.result_public_key)).decode(),
        "attestation_key": base64.b64encode(attestation_key).decode(),
        "evidence": base64.b64encode(bytes(instance.evidence)).decode(),
        "prepared_at": instance.prepared_at.isoformat(),
    }
