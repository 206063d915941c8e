"""What this host grants a sealed process, found out by sealing one that serves no round."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from enclave.core.landlock import abi_version
from enclave.courier import EnclaveHost, EnclaveTask, SealedProcess
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.sealing_tier import SEALING_TIERS, SealingTier, missing_protections, tier_of

_PROBE = EnclaveTask("probe", bytes(16), bytes(16), AggregationPolicy().maximum_memory_bytes)

REMEDIES = {
    "resource-limits": "raise the worker's own limits (ulimit -H) above those of the sealed process",
    "namespaces": "start the enclave worker as root with CAP_SYS_ADMIN, or allow user namespaces to ordinary users "
    "(sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)",
    "unprivileged-uid": "set QFLARE_ENCLAVE_UID and QFLARE_ENCLAVE_GID to an account other than root's",
    "own-uid": "start the enclave worker as root, with CAP_SETUID and CAP_SETGID, and give QFLARE_ENCLAVE_UID an "
    "account that nothing else uses",
    "no-capabilities": "start the enclave worker without ambient capabilities, or as root",
    "parent-death-signal": "a Linux kernel gives it always; a sandbox in between (gVisor, say) may not",
    "not-dumpable": "a Linux kernel gives it always; a sandbox in between (gVisor, say) may not",
    "no-new-privileges": "a Linux kernel gives it always; a sandbox in between (gVisor, say) may not",
    "landlock": "boot Linux 5.13 or newer with landlock in its list of security modules (lsm=landlock,...), and let "
    "the container's seccomp profile pass the three landlock calls",
    "closed-descriptors": "a Linux kernel gives it always; a sandbox in between (gVisor, say) may not",
    "seccomp": "use a kernel with CONFIG_SECCOMP_FILTER, on x86_64 or aarch64",
}
"""How a host comes to give each protection."""


@dataclass(frozen=True)
class SealingStatus:
    """The measurement and the protections of a probe, and the kernel's Landlock version (0: none)."""

    measurement: bytes
    protections: dict[str, bool]
    landlock_abi: int

    @property
    def tier(self) -> SealingTier:
        """The tier that the protections add up to."""
        return tier_of(self.protections)


def probe_sealing(host: EnclaveHost) -> SealingStatus:
    """Start and seal a process as a round would, ask it for nothing, and end it. Raises `Refusal("enclave-failed")`."""
    with SealedProcess(host, _PROBE) as process:
        ready = process.receive("ready")
    return SealingStatus(ready["measurement"], ready["protections"], _landlock_abi())


def _landlock_abi() -> int:
    try:
        return abi_version()
    except OSError:  # absent from the kernel, switched off at boot, or kept from this container
        return 0


def status_as_map(status: SealingStatus) -> dict[str, Any]:
    """Return the status as JSON values."""
    return {
        "sealing_tier": status.tier.name,
        "not_protected_against": status.tier.not_protected_against,
        "protections": {name: status.protections[name] for name in PROTECTIONS},
        "landlock_abi": status.landlock_abi,
        "measurement": status.measurement.hex(),
        "missing": {
            tier.name: {name: REMEDIES[name] for name in missing_protections(status.protections, tier.name)}
            for tier in SEALING_TIERS
            if tier.protections - status.tier.protections
        },
    }


def status_lines(status: SealingStatus) -> Iterator[str]:
    """Yield the status as lines for a terminal."""
    for name in PROTECTIONS:
        needed_by = next(tier.name for tier in SEALING_TIERS if name in tier.protections)
        yield f"{name:<22}{'held' if status.protections[name] else 'REFUSED':<10}needed from tier {needed_by}"
    yield ""
    yield f"Sealing tier: {status.tier.name}"
    yield f"Not protected against: {status.tier.not_protected_against}"
    yield f"Landlock ABI: {status.landlock_abi or 'none'}{_landlock_scope(status.landlock_abi)}"
    yield f"Measurement: {status.measurement.hex()}"
    for name in missing_protections(status.protections, SEALING_TIERS[-1].name):
        yield f"To have {name}: {REMEDIES[name]}."


def _landlock_scope(abi: int) -> str:
    kept = ["files"] * (abi >= 1) + ["TCP"] * (abi >= 4) + ["abstract sockets", "signals"] * (abi >= 6)
    return f" (keeps from {', '.join(kept)})" if kept else ""
