"""`qflare-edge trust` and `appraise`: pin enclaves by hand, and look at evidence before trusting it."""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge_client.device_state import DeviceStateFile, EnclavePins
from edge_client.enclave_trust import MODEL_EVIDENCE_AGE_SECONDS, EnclaveTrust
from edge_client.storage import hold_home
from qflare_protocol.attestation import PlatformPin, attestation_result
from qflare_protocol.attestation.appraisal import CONTRAINDICATED, TIERS
from qflare_protocol.attestation.evidence import MAX_BYTES, read_evidence
from qflare_protocol.errors import Refusal

EXIT_CONTRAINDICATED = 4


def add_trust_commands(commands: Any) -> None:
    """Add the commands to a parser's subparsers."""
    trust = commands.add_parser("trust", help="pin an enclave host's key or platform, and its code measurement")
    trust.add_argument("--attestation-key", help="fingerprint of the enclave host's attestation key, hexadecimal")
    trust.add_argument("--measurement", help="code measurement, hexadecimal")
    trust.add_argument(
        "--platform",
        action="append",
        default=[],
        metavar="PIN",
        help="hardware and the image it launched, such as sev-snp/MEASUREMENT=<hex>/min-snp=23",
    )
    trust.add_argument("--lowest-tier", choices=TIERS, help="affirming: hardware of a current TCB alone")
    trust.add_argument("--only", action="store_true", help="forget all former pins")
    trust.set_defaults(command=_trust)
    appraise = commands.add_parser("appraise", help="show what this device makes of a file of evidence")
    appraise.add_argument("evidence", type=Path, help="file as it came, binary")
    appraise.set_defaults(command=_appraise)


def _trust(options: argparse.Namespace) -> int:
    hold_home(options.home)  # a client that runs knows its pins from its start, and would write them back over these
    memory = DeviceStateFile(options.home)
    pins = _named_pins(options, EnclavePins() if options.only else memory.state.pins)
    if pins == memory.state.pins and not options.only:
        raise Refusal("malformed-message", "Name --attestation-key, --measurement, --platform or --lowest-tier.")
    memory.remember(pins=pins)
    sys.stdout.write(
        f"Pinned: {len(pins.attestation_keys)} attestation keys, {len(pins.platforms)} platforms, "
        f"{len(pins.measurements)} measurements.\n"
    )
    return 0


def _named_pins(options: argparse.Namespace, former: EnclavePins) -> EnclavePins:
    keys, measurements = _hexadecimal(options.attestation_key, 32), _hexadecimal(options.measurement, 64)
    platforms = {PlatformPin.parse(text) for text in options.platform}
    tiers = {"affirming": frozenset({"affirming"}), "warning": frozenset(TIERS)}
    return replace(
        former,
        attestation_keys=former.attestation_keys | keys,
        measurements=former.measurements | measurements,
        platforms=former.platforms | platforms,
        tiers=tiers.get(options.lowest_tier, former.tiers),
    )


def _hexadecimal(text: str | None, length: int) -> frozenset[bytes]:
    if not text:
        return frozenset()
    try:
        value = bytes.fromhex(text)
    except ValueError as error:
        raise Refusal("malformed-message", f"{text!r} is not hexadecimal.") from error
    if len(value) != length:
        raise Refusal("malformed-message", f"{text!r} does not have {length} bytes.")
    return frozenset({value})


def _appraise(options: argparse.Namespace) -> int:
    with options.evidence.open("rb") as file:
        evidence = file.read(MAX_BYTES + 1)
    trust, read = EnclaveTrust(DeviceStateFile(options.home)), read_evidence(evidence)
    claims = read.claims
    result = attestation_result(
        evidence,
        trust.policy(MODEL_EVIDENCE_AGE_SECONDS),
        round_id=claims.round_id,
        federation_id=claims.federation_id,
        now=int(time.time()),
    )
    pins = trust.pins_of(read).to_json()
    sys.stdout.write(json.dumps(result | {"pins_of_this_evidence": pins}, indent=1) + "\n")
    return EXIT_CONTRAINDICATED if result["ear.status"] == CONTRAINDICATED else 0
