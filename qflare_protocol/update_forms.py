"""The forms that updates may have; a policy names one for all devices of its federation."""

from collections.abc import Mapping
from dataclasses import dataclass

from qflare_protocol.errors import Refusal
from qflare_protocol.fields import finite_number
from qflare_protocol.update_codings import Bfloat16Coding, Coding, Float32Coding, Int8Blocks

DELTA, WEIGHTS, BFLOAT16, INT8_BLOCKS, RANDOM_MASK = "delta", "weights", "bfloat16", "int8-blocks", "random-mask"

_DEFAULTS: dict[str, dict[str, float]] = {
    DELTA: {},
    WEIGHTS: {},
    BFLOAT16: {},
    INT8_BLOCKS: {"block_values": 1024},
    RANDOM_MASK: {"fraction": 0.1},
}
FORMS = tuple(_DEFAULTS)
BLOCK_SIZES = tuple(1 << power for power in range(6, 13))
SMALLEST_FRACTION, LARGEST_FRACTION = 0.001, 0.9

_CODE = "policy-refused"


@dataclass(frozen=True)
class UpdateForm:
    """What the values of an update are and how they are written.

    - absolute: whether they are the new weights, from which the enclave subtracts the base model's.
    - mask_fraction: the part of the columns that the update is about, where they are drawn for each round.
    """

    name: str
    coding: Coding
    absolute: bool = False
    mask_fraction: float | None = None


def update_form(name: str, parameters: Mapping[str, float]) -> UpdateForm:
    """Return the form of that name. Raises `Refusal("policy-refused")` for an unknown one and for its parameters."""
    if name not in _DEFAULTS:
        raise Refusal(_CODE, f"The form of updates is one of {', '.join(FORMS)}.")
    if unknown := set(parameters) - set(_DEFAULTS[name]):
        raise Refusal(_CODE, f"The form {name} has no parameter {sorted(unknown)[0]!r}.")
    values = _DEFAULTS[name] | dict(parameters)
    if name == INT8_BLOCKS:
        if values["block_values"] not in BLOCK_SIZES:
            raise Refusal(_CODE, "block_values must be a power of two from 64 to 4096.")
        return UpdateForm(name, Int8Blocks(int(values["block_values"])))
    if name == RANDOM_MASK:
        low, high = SMALLEST_FRACTION, LARGEST_FRACTION
        fraction = finite_number(values["fraction"], low, high, what="fraction", code=_CODE)
        return UpdateForm(name, Float32Coding(), mask_fraction=fraction)
    return UpdateForm(name, Bfloat16Coding() if name == BFLOAT16 else Float32Coding(), absolute=name == WEIGHTS)
