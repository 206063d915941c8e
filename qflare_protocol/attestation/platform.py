"""What a verified platform report says, in one form for every vendor."""

from dataclasses import dataclass, field
from enum import Enum

from qflare_protocol.attestation.layout import refuse


class TcbStatus(Enum):
    """What is known of the platform's firmware."""

    CURRENT = "current"
    OUTDATED = "outdated"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class PlatformReport:
    """What genuine hardware vouches for.

    - attester: "sev-snp", "tdx", "sgx" or "nitro".
    - report_data: the 64 bytes that bind the report to the enclave's claims.
    - registers: measurements of what was launched, by the vendor's names.
    - security_versions: the platform's security versions by name; empty where the vendor appraises them.
    - made_at: Unix seconds where the platform states a time.
    """

    attester: str
    report_data: bytes
    registers: dict[str, bytes]
    security_versions: dict[str, int] = field(default_factory=dict)
    made_at: int | None = None

    def register(self, name: str) -> bytes:
        """Return a register by name. Raises `Refusal("evidence-refused")` where the platform has none of it."""
        if name not in self.registers:
            refuse(f"The platform {self.attester} has no register {name}.")
        return self.registers[name]
