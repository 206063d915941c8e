"""One whole handshake in each suite that every installation serves; each is a file of its own."""

import secrets
from functools import partial

from qflare_protocol.device_keys import DeviceKeys
from qflare_protocol.pqc import frodo
from qflare_protocol.suites import DEFAULT_SUITES, SUITES, Suite
from tests.vectors.parties import new_signer
from tests.vectors.subjects.handshake_exchange import RECEIVERS, add_steps, exchanged
from tests.vectors.vector_file import Case, VectorFile

__all__ = ["MAKERS", "RECEIVERS"]

SIZES = ("device_kem_public", "m1", "m2", "m3_ciphertext", "s1", "s2", "s3")


def make(suite: Suite) -> VectorFile:
    """Make the file of one suite."""
    make_case = _with_frodo if suite.registered_kem in frodo.PARAMETERS else _with_stored_keys
    case = make_case(suite)
    add_steps(case)
    for name in SIZES:
        case.values[f"{name}_bytes"] = len(case.values[name])
    return VectorFile(f"One whole handshake in the suite {suite.name}.", "2 Suites", [case])


def _with_stored_keys(suite: Suite) -> Case:
    return Case(suite.name, exchanged(suite.name, new_signer(suite.signature)))


def _with_frodo(suite: Suite) -> Case:
    """FrodoKEM keys are large, so the file holds what they are made of."""
    parameters, engine = frodo.PARAMETERS[suite.registered_kem], frodo.serve_kem(suite.registered_kem)
    randomness = secrets.token_bytes(parameters.key_randomness_bytes)
    keys = DeviceKeys(suite.name, engine.generate_from(randomness), new_signer(suite.signature))
    case = Case(suite.name, exchanged(suite.name, new_signer(suite.signature), keys=keys))
    case.values["device_kem_randomness"] = randomness
    making = {"algorithm": suite.registered_kem, "randomness": "device_kem_randomness"}
    case.step("generate", "device_kem_private", **making, stored=False)
    begin, end = parameters.security_bytes, parameters.security_bytes + parameters.public_key_bytes
    case.step("slice", "device_kem_public", input="device_kem_private", begin=begin, end=end, stored=False)
    return case


MAKERS = {f"suite_{name.lower().replace('-', '_')}": partial(make, SUITES[name]) for name in DEFAULT_SUITES}
