"""Pins of platforms: which launched images, and of what least firmware, a verifier accepts.

A pin is one line of text, as operators exchange it and `qflare-edge trust --platform` takes it:

    sev-snp/MEASUREMENT=<hex>/min-bootloader=4/min-tee=0/min-snp=23/min-microcode=213
    tdx/MRTD=<hex>/RTMR1=<hex>/RTMR2=<hex>
    sgx/MRENCLAVE=<hex>
    nitro/PCR0=<hex>/PCR1=<hex>/PCR2=<hex>
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qflare_protocol.attestation.platform import PlatformReport
from qflare_protocol.errors import Refusal

REQUIRED_REGISTERS = {
    "sev-snp": ("MEASUREMENT",),
    "tdx": ("MRTD", "RTMR1", "RTMR2"),
    "sgx": ("MRENCLAVE",),
    "nitro": ("PCR0", "PCR1", "PCR2"),
}
"""The registers that a pin must name, by attester: with fewer of them other code could have been launched."""

SECURITY_VERSIONS = ("fmc", "bootloader", "tee", "snp", "microcode")

_CODE = "malformed-message"
_REGISTER = re.compile(r"([A-Z][A-Z0-9]{2,15})=([0-9a-f]{64}|[0-9a-f]{96})")
_MINIMUM = re.compile(r"min-([a-z]{3,10})=(0|[1-9][0-9]{0,2})")


@dataclass(frozen=True)
class PlatformPin:
    """One accepted platform: attester, registers by name, and least security versions by name (SEV-SNP only)."""

    attester: str
    registers: tuple[tuple[str, bytes], ...]
    minimum_versions: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if self.attester not in REQUIRED_REGISTERS:
            raise Refusal(_CODE, f"A platform pin begins with {', '.join(REQUIRED_REGISTERS)}.")
        missing = [name for name in REQUIRED_REGISTERS[self.attester] if name not in dict(self.registers)]
        if missing:
            raise Refusal(_CODE, f"A pin of {self.attester} must name {', '.join(missing)}.")
        unknown = [name for name, _ in self.minimum_versions if name not in SECURITY_VERSIONS]
        if unknown or self.minimum_versions and self.attester != "sev-snp":
            raise Refusal(_CODE, f"Only sev-snp has least versions, of {', '.join(SECURITY_VERSIONS)}.")

    @classmethod
    def of_report(cls, report: PlatformReport) -> "PlatformPin":
        """Return the pin of exactly that platform, as trust on first use takes it; without least versions."""
        names = REQUIRED_REGISTERS[report.attester]
        return cls(report.attester, tuple((name, report.register(name)) for name in names))

    @classmethod
    def parse(cls, text: str) -> "PlatformPin":
        """Read a pin's line. Raises `Refusal("malformed-message")` saying what is wrong."""
        attester, *parts = text.strip().split("/")
        registers: dict[str, bytes] = {}
        minimum: dict[str, int] = {}
        for part in parts:
            if (found := _REGISTER.fullmatch(part)) and found[1] not in registers:
                registers[found[1]] = bytes.fromhex(found[2])
            elif (found := _MINIMUM.fullmatch(part)) and found[1] not in minimum and int(found[2]) < 256:
                minimum[found[1]] = int(found[2])
            else:
                raise Refusal(
                    _CODE, f"{part!r} is no part of a platform pin: NAME=<lower-case hex> or min-name=<0-255>."
                )
        return cls(attester, tuple(sorted(registers.items())), tuple(sorted(minimum.items())))

    def to_text(self) -> str:
        """Return the pin's line; `parse` reads it back."""
        registers = [f"{name}={value.hex()}" for name, value in self.registers]
        return "/".join([self.attester, *registers, *(f"min-{name}={least}" for name, least in self.minimum_versions)])

    def launched(self, report: PlatformReport) -> bool:
        """Return whether that is the platform's launched image."""
        return report.attester == self.attester and all(
            report.registers.get(name) == value for name, value in self.registers
        )

    def outdated(self, report: PlatformReport) -> list[str]:
        """Return the security versions that are below the pin's least ones."""
        versions = report.security_versions
        return [name for name, least in self.minimum_versions if versions.get(name, -1) < least]


def parse_pins(lines: Iterable[str]) -> frozenset[PlatformPin]:
    """Read pins, one a line. Raises `Refusal("malformed-message")`."""
    return frozenset(PlatformPin.parse(line) for line in lines)
