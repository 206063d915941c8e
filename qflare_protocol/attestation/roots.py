"""The vendors' root certificates, pinned by the SHA-256 of their DER encoding.

Every one of them signs with RSA or ECDSA: whoever has a quantum computer can forge what hangs on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

CLASSICAL_REASON = (
    "The vendor's signature is classical: whoever breaks ECDSA, with a quantum computer say, can forge such evidence."
)

AMD_ROOTS = {
    bytes.fromhex("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"): "Milan",
    bytes.fromhex("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"): "Genoa",
    bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"): "Turin",
}
"""AMD root keys (ARK) by product line, from https://kdsintf.amd.com/vcek/v1/<product line>/cert_chain."""

INTEL_ROOTS = {
    bytes.fromhex("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"): "Intel SGX Root CA",
}
"""The root of PCK certificates and of collateral for SGX and TDX."""

AWS_ROOTS = {
    bytes.fromhex("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"): "AWS Nitro Enclaves Root-G1",
}
"""The root of attestation documents of AWS Nitro Enclaves."""


@dataclass(frozen=True)
class VendorRoots:
    """The roots a verifier trusts, each set from SHA-256 fingerprint (32 bytes) to name; for AMD the product line."""

    amd: Mapping[bytes, str] = field(default_factory=lambda: AMD_ROOTS)
    intel: Mapping[bytes, str] = field(default_factory=lambda: INTEL_ROOTS)
    aws: Mapping[bytes, str] = field(default_factory=lambda: AWS_ROOTS)
