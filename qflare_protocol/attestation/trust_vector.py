"""Trustworthiness vectors (draft-ietf-rats-ar4si, section 2.3): one small number per aspect of an attester."""

from dataclasses import asdict, dataclass

NO_CLAIM, AFFIRMING, WARNING, CONTRAINDICATED = 0, 2, 32, 96

_TIERS = ((CONTRAINDICATED, "contraindicated"), (WARNING, "warning"), (AFFIRMING, "affirming"))


def tier_of(value: int) -> str:
    """Return the tier that one value of a vector stands for."""
    return next((name for least, name in _TIERS if value >= least), "none")


@dataclass(frozen=True)
class TrustVector:
    """The aspects that are appraised here; 0 makes no claim.

    - instance_identity: 2, the attester's key or chain is one that is trusted.
    - configuration: 2, or 32 where the kernel gave less than every protection.
    - executables: 2, hardware measured what was launched and it is pinned.
    - hardware: 2, genuine and current; 32, genuine, its firmware outdated or of unknown age.
    - runtime_opaque: 2, the host cannot read the memory; 32, other processes cannot, root can.
    """

    instance_identity: int = NO_CLAIM
    configuration: int = NO_CLAIM
    executables: int = NO_CLAIM
    hardware: int = NO_CLAIM
    runtime_opaque: int = NO_CLAIM

    @property
    def tier(self) -> str:
        """The worst tier of any aspect; "none" where no claim is made at all."""
        return tier_of(max(asdict(self).values()))

    def to_map(self) -> dict[str, int]:
        """Return the vector under the draft's names."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items()}
