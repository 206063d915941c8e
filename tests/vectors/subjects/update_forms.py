"""Updates in every form: the columns they are about, their containers, and what the enclave reads of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.update_coding import coded_blocks
from qflare_protocol.aggregation_policy import AggregationPolicy, Stage
from qflare_protocol.encoding import decode, encode
from qflare_protocol.manifest import Manifest
from qflare_protocol.tensors import decode_tensors, encode_header, encode_tensors, parse_header, require_layout
from qflare_protocol.update_shape import UpdateShape
from tests.vectors.parties import DEVICE_ID, FEDERATION_ID, ROUND_ID
from tests.vectors.vector_file import Case, Receiver, Refused, VectorFile

MODEL = {
    "adapter.bias": np.array([0.5, -1.0, 0.25], np.float32),
    "adapter.weight": np.arange(18, dtype=np.float32).reshape(3, 6) / 8,
    "body": np.linspace(-1, 1, 61, dtype=np.float32),
}
FORMS = [
    ("delta", {}, ()),
    ("delta", {}, ("adapter.*",)),
    ("weights", {}, ()),
    ("bfloat16", {}, ("adapter.bias", "body")),
    ("int8-blocks", {"block_values": 64}, ()),
    ("random-mask", {"fraction": 0.25}, ()),
    ("random-mask", {"fraction": 0.25}, ("body",)),
]
BLOCKS = "int8-blocks, all parameters"


def make() -> VectorFile:
    """Make the file."""
    cases = [_case(*form) for form in FORMS]
    purpose = "Policies of every form, the mask of a round, containers of updates, and manifests."
    return VectorFile(purpose, "11.6 Forms", cases, _refusals(cases))


def _case(form: str, parameters_of_form: dict[str, float], parameters: tuple[str, ...]) -> Case:
    policy = AggregationPolicy(form=Stage(form, parameters_of_form), parameters=parameters, server_optimiser=_NONE)
    values: dict[str, Any] = {"federation_id": FEDERATION_ID, "round_id": ROUND_ID, "policy": encode(policy.to_map())}
    values |= {"base_model": encode_tensors(MODEL), "trained_model": encode_tensors(_trained())}
    case = Case(f"{form}, {' and '.join(parameters) or 'all parameters'}", values)
    case.step("digest", "policy_digest", label="aggregation policy", inputs=["policy"])
    shape = _shape(values)
    values["plaintext"] = _coded(values)
    values["manifest_payload"] = encode(_manifest(form).to_map())
    if shape.mask is not None:
        values |= {"block": 0, "drawn": _drawn(shape).astype("<u4").tobytes()}
        case.step("digest", "seed", label="random mask", inputs=["federation_id", "round_id", "policy_digest"])
        case.step("frame", "framed_seed", inputs=["seed", "block"])
        case.step("SHAKE256", "words", input="framed_seed", length=4 * shape.chosen.size)
    return case


def _trained() -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(6)
    return {name: value + generator.normal(size=value.shape).astype(np.float32) for name, value in MODEL.items()}


def _shape(values: dict[str, Any]) -> UpdateShape:
    policy = AggregationPolicy.from_map(decode(values["policy"], what="policy"))
    model = parse_header(values["base_model"]).layout
    return UpdateShape.of(policy, model, federation_id=values["federation_id"], round_id=values["round_id"])


def _coded(values: dict[str, Any]) -> bytes:
    shape = _shape(values)
    base, trained = decode_tensors(values["base_model"]), decode_tensors(values["trained_model"])
    return encode_header(shape.container) + b"".join(coded_blocks(shape, base, trained))


def _drawn(shape: UpdateShape) -> NDArray[np.intp]:
    assert shape.mask is not None
    return shape.mask.chosen(0, shape.chosen.size)


def _manifest(form: str) -> Manifest:
    digests = {"base_model_digest": bytes(range(32)), "ciphertext_digest": bytes(range(32, 64))}
    ids = {"round_id": ROUND_ID, "federation_id": FEDERATION_ID, "device_id": DEVICE_ID, "enclave_key_id": bytes(32)}
    return Manifest(**ids, **digests, sample_count=120, ciphertext_bytes=4096, form=form)


def _refusals(cases: list[Case]) -> list[Refused]:
    blocks = next(case.values["plaintext"] for case in cases if case.name == BLOCKS)
    start = parse_header(blocks, dtypes=frozenset({"U8"})).data_offset
    scale = {name: np.array(value, "<f4").tobytes() for name, value in
             {"not a number": np.nan, "infinite": np.inf, "negative": -1, "too large": 2.0**41}.items()}  # fmt: skip
    rows = [(f"a scale that is {name}", blocks[:start] + data + blocks[start + 4 :]) for name, data in scale.items()]
    rows += [
        ("a block whose largest byte is not 127", blocks[: start + 4] + bytes([1] * 64) + blocks[start + 68 :]),
        ("a last block that is not filled up with zeros", blocks[:-1] + b"\x01"),
        ("a container of another form", cases[0].values["plaintext"]),
        ("a container cut short", blocks[:-1]),
    ]
    unknown = encode(_manifest("delta").to_map() | {"form": "top-k"})
    refused = [Refused(name, "enclave reads the update", "invalid-tensors", {"plaintext": data}, of=BLOCKS)
               for name, data in rows]  # fmt: skip
    return [
        *refused,
        Refused("a form that there is not", "server reads the manifest", "malformed-message",
                {"manifest_payload": unknown}, of=BLOCKS),
    ]  # fmt: skip


def _device_codes(values: dict[str, Any]) -> None:
    assert _coded(values) == values["plaintext"]
    shape = _shape(values)
    if shape.mask is not None:
        words = np.frombuffer(values["words"], dtype="<u4")
        smallest = np.sort(np.argsort(words, kind="stable")[: shape.size])
        assert smallest.astype("<u4").tobytes() == values["drawn"] == _drawn(shape).astype("<u4").tobytes()


def _enclave_reads(values: dict[str, Any]) -> None:
    shape, plaintext = _shape(values), values["plaintext"]
    coding = shape.form.coding
    header = parse_header(plaintext, dtypes=frozenset({coding.dtype}))
    require_layout(header.layout, shape.container)
    coded = np.frombuffer(plaintext, dtype=np.uint8, offset=header.data_offset)
    if len(coded) != header.layout.data_bytes:
        decode_tensors(plaintext)
    read = np.empty(shape.size, dtype=np.float32)
    coding.decode(coded, read)
    base, trained = (np.concatenate([value.reshape(-1) for value in decode_tensors(values[name]).values()])
                     for name in ("base_model", "trained_model"))  # fmt: skip
    said = trained if shape.form.absolute else trained - base
    meant = np.concatenate([said[one.start : one.start + one.width][one.chosen] for one in shape.pieces()])
    largest = np.abs(meant).max()
    assert np.abs(read - meant).max() <= (0 if coding.exact else largest / 200)


def _server_reads_manifest(values: dict[str, Any]) -> None:
    manifest = Manifest.from_map(decode(values["manifest_payload"], what="manifest"))
    assert manifest.form == _shape(values).form.name


_NONE = Stage("none")
RECEIVERS: dict[str, Receiver] = {
    "device codes the update": _device_codes,
    "enclave reads the update": _enclave_reads,
    "server reads the manifest": _server_reads_manifest,
}
