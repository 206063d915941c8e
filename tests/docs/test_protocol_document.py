"""docs/protocol.md says what the code does."""

import hashlib
import re
from dataclasses import fields

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.urls import URLPattern, URLResolver, get_resolver

from edge_client import assignment, hand_in, model_download
from enclave.core.rules.filters import FILTERS
from enclave.core.rules.linear_rules import RULES
from enclave.core.rules.noise import NOISES
from enclave.core.rules.pre_aggregation import PRE_AGGREGATIONS
from enclave.core.rules.server_optimisers import SERVER_OPTIMISERS
from qflare_protocol import enrolment, handshake, hpke, pqc, update
from qflare_protocol.aggregation_policy import PROTECTIONS, AggregationPolicy
from qflare_protocol.attestation import evidence
from qflare_protocol.attestation.pins import REQUIRED_REGISTERS, PlatformPin
from qflare_protocol.attestation.roots import AMD_ROOTS, AWS_ROOTS, INTEL_ROOTS
from qflare_protocol.attestation.trust_vector import TrustVector
from qflare_protocol.cose import key_fingerprint
from qflare_protocol.device_evaluation import DeviceEvaluation
from qflare_protocol.encoding import digest, encode, frame, label
from qflare_protocol.epochs import EpochChain
from qflare_protocol.errors import CATALOGUE, TYPE_PREFIX
from qflare_protocol.kdf import expand
from qflare_protocol.manifest import Manifest
from qflare_protocol.pqc.algorithms import KEMS, SIGNATURES
from qflare_protocol.progress import ProgressReport
from qflare_protocol.round_result import RoundResult
from qflare_protocol.sealed_request import Authorization, MessageNumber, RequestOpener, Target
from qflare_protocol.sealing_tier import SEALING_TIERS
from qflare_protocol.suites import SUITES, largest_begin_bytes
from sessions.sealed_views import SealedView
from tests.docs.labels import labels_in_code
from tests.docs.reading import PROTOCOL, members, quoted, rows, section

EXAMPLES = dict(re.findall(r"^(\S[^=\n]*?) += (.+)$", section("Appendix C"), re.MULTILINE))


def test_the_error_table_equals_the_catalogue():
    table = [(quoted(code)[0], int(status), title) for code, status, title in rows(section("Appendix A"))]
    assert table == [(problem.code, problem.status, problem.title) for problem in CATALOGUE.values()]
    assert f"`{TYPE_PREFIX}`" in PROTOCOL


def test_the_labels_listed_are_exactly_those_in_the_code():
    listed = [quoted(row[0])[0] for row in rows(section("Appendix B"))]
    assert len(listed) == len(set(listed))
    assert set(listed) == labels_in_code()


ON_THE_WIRE = [row for row in rows(section("Appendix B")) if "*" not in row[2]]
"""Labels without the star of those that never leave their host."""


@pytest.mark.parametrize("row", ON_THE_WIRE, ids=lambda row: row[0])
def test_a_label_on_the_wire_stands_in_its_section(row):
    purpose = quoted(row[0])[0]
    spelled = [f'"{purpose}"'] + [f'"{start} " + side' for start in ("confirm",) if purpose.startswith(start)]
    written = " ".join(section(row[2]).split())
    assert any(text in written for text in spelled)


def endpoints(resolver=None, prefix=""):
    """Return path to view class for everything under /api/ but what is for operators alone."""
    found = {}
    for entry in (resolver or get_resolver()).url_patterns:
        path = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            found |= endpoints(entry, path)
        elif isinstance(entry, URLPattern) and path.startswith("api/") and not path.startswith("api/operator/"):
            found["/" + re.sub(r"<\w+:", "<", path)] = getattr(entry.callback, "cls", None) or entry.callback.view_class
    return found


def documented_endpoints():
    """Return path to its rows of the table, one for each method, which stands first."""
    table = {}
    for row in rows(section("4 HTTP")):
        method, path = quoted(row[0])[0].split()
        table.setdefault(path, []).append([method, *row[1:]])
    return table


def test_every_endpoint_is_documented_and_every_documented_one_exists():
    assert set(documented_endpoints()) == set(endpoints())


@pytest.mark.parametrize("path", sorted(endpoints()))
def test_an_endpoint_has_the_documented_method_seal_and_rate_limit(path):
    view, documented = endpoints()[path], documented_endpoints()[path]
    methods = {name for name in ("get", "post", "put", "patch", "delete") if hasattr(view, name)}
    assert methods == {method.lower() for method, *_ in documented}
    ((sealed, limit),) = {(row[1], row[-1]) for row in documented}
    assert sealed == ("yes" if issubclass(view, SealedView) else "no")
    scope, counted_by = getattr(view, "rate_limit_scope", None), "device" if issubclass(view, SealedView) else "address"
    assert limit == ("none" if scope is None else f"{scope}, {counted_by}")


def test_refusals_named_anywhere_are_in_the_catalogue():
    named = {code for row in rows(section("4 HTTP")) for code in row[4].split(", ") if re.fullmatch(r"[a-z-]+", code)}
    named |= {code for code in quoted(section("11.4") + section("8.3")) if re.fullmatch(r"[a-z]+(-[a-z]+)+", code)}
    assert named <= set(CATALOGUE)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("6.1 M1", handshake._M1),
        ("6.2 M2", handshake._M2),
        ("9.1", assignment._ASSIGNMENT),
        ("9.2", model_download._MODEL),
        ("9.6", assignment._EVALUATION),
        ("9.5", {field.name for field in fields(ProgressReport)}),
        ("10.1", evidence._MEMBERS),
        ("10.2", {field.name for field in fields(AggregationPolicy)}),
        ("11.3", {field.name for field in fields(Manifest)}),
        ("12 Round results", {field.name for field in fields(RoundResult)}),
    ],
)
def test_a_structure_has_the_documented_members(heading, expected):
    assert members(section(heading)) == set(expected)


def test_a_report_of_an_evaluation_has_the_documented_members():
    tables = section("9.6").split("and reports:")[1]
    assert members(tables) == {field.name for field in fields(DeviceEvaluation)}


@pytest.mark.parametrize(
    ("message", "expected"),
    [("E1", enrolment._BEGIN), ("E2", enrolment._CHALLENGE), ("E4", enrolment._CONFIRMATION)],
)
def test_an_enrolment_message_has_the_documented_members(message, expected):
    after = section("5 Enrolment").partition(f"**{message}**")[2]
    assert members(after) == set(expected)


def test_a_receipt_has_the_documented_members():
    assert hand_in._RECEIPT <= set(quoted(section("11.5")))


def test_the_policy_table_states_the_defaults():
    stated = {quoted(row[0])[0]: row[2].replace(",", "") for row in rows(section("10.2"))}
    for name in ("minimum_updates", "maximum_sample_count", "maximum_update_bytes", "maximum_memory_bytes"):
        assert int(stated[name]) == getattr(AggregationPolicy(), name)
    assert float(stated["tolerated_fraction"]) == AggregationPolicy().tolerated_fraction
    assert float(stated["history"]) == AggregationPolicy().history


def test_every_stage_is_in_the_table_with_its_parameters_and_defaults():
    stated = {}
    for row in rows(section("12 Round results").partition("| stage")[2]):
        parameters = dict(part.strip().replace("`", "").split(" ") for part in row[2].split(",") if part.strip())
        stated |= {name: {key: float(value) for key, value in parameters.items()} for name in quoted(row[0])}
    kinds = (FILTERS, PRE_AGGREGATIONS, RULES, SERVER_OPTIMISERS, NOISES)
    assert stated == {
        name: {member.name: float(member.default) for member in fields(part)}
        for kind in kinds
        for name, part in kind.items()
    }


def test_the_attesters_and_their_registers_are_those_of_the_code():
    table = {quoted(row[0])[0]: set(re.findall(r"\*\*`(\w+)`\*\*", row[2])) for row in rows(section("10.5"))}
    assert table == {attester: set(names) for attester, names in REQUIRED_REGISTERS.items()}
    assert set(table) == set(evidence.HARDWARE)


def test_the_envelopes_are_the_written_ones():
    written = re.findall(r"^    (\{\"attester\".+\})$", section("10.1"), re.MULTILINE)
    envelopes = [set(re.findall(r'"(\w+)":', line)) for line in written]
    assert envelopes == [evidence.SOFTWARE_ENVELOPE, evidence.HARDWARE_ENVELOPE]


def test_the_pinned_roots_are_the_written_ones():
    written = {quoted(row[1])[0] for row in rows(section("10.5").partition("| root |")[2])}
    assert written == {digest.hex() for digest in AMD_ROOTS | INTEL_ROOTS | AWS_ROOTS}


def test_the_aspects_of_a_trust_vector_are_those_of_the_code():
    assert members(section("10.6")) == set(TrustVector().to_map())


def test_the_example_of_a_pin_is_one():
    example = next(text for text in quoted(section("10.5")) if text.startswith("sev-snp/"))
    assert PlatformPin.parse(example.replace("<96 digits>", "ab" * 48))


def test_every_protection_is_named():
    assert set(PROTECTIONS) <= set(quoted(section("10.1")))


def test_the_sealing_tiers_are_those_of_the_code():
    stated, held = {}, set()
    for row in rows(section("10.1").partition("| tier |")[2]):
        held |= set(quoted(row[1]))
        stated[quoted(row[0])[0]] = frozenset(held)
    assert stated == {tier.name: tier.protections for tier in SEALING_TIERS}


def test_the_suites_and_their_sizes_are_those_of_the_code():
    text = section("2 Suites")
    assert {quoted(row[0])[0]: row[1:] for row in rows(text)} == {
        name: [suite.registered_kem, suite.ephemeral_kem, suite.signature, suite.hash, suite.kdf, suite.aead]
        for name, suite in SUITES.items()
    }
    sizes = {row[0].split(",")[0].split(" (")[0]: row[1:] for row in rows(text.partition("| algorithm")[2])}
    assert set(sizes) == {*KEMS, *SIGNATURES, "HPKE MLKEM1024-P384"}
    for name, kem in KEMS.items():
        public, private, ciphertext, secret, _ = sizes[name]
        stated = (int(public), int(private.split()[0]), int(ciphertext), int(secret.strip("*")))
        assert stated == (
            kem.public_key_bytes, kem.private_key_bytes, kem.ciphertext_bytes, kem.shared_secret_bytes,
        )  # fmt: skip
    for name, signature in SIGNATURES.items():
        public, private, signed, _, cose = sizes[name]
        stated = (int(public), int(private.split()[0]), int(signed), int(cose))
        assert stated == (
            signature.public_key_bytes, signature.private_key_bytes, signature.signature_bytes,
            signature.cose_algorithm,
        )  # fmt: skip
    assert sizes["HPKE MLKEM1024-P384"][0] == str(hpke.PUBLIC_KEY_BYTES)
    assert f"{largest_begin_bytes(SUITES):,} bytes with `QF1-M`" in text


def test_xwing_opens_by_the_written_steps_alone():
    kem = pqc.kem("X-Wing")
    pair = kem.generate()
    secret, ciphertext = kem.encapsulate(pair.public)
    expanded = hashlib.shake_256(pair.private).digest(96)
    lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    curve = x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
    assert lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw() == pair.public
    shared = curve.exchange(x25519.X25519PublicKey.from_public_bytes(ciphertext[1088:]))
    hashed = lattice.decapsulate(ciphertext[:1088]) + shared + ciphertext[1088:] + pair.public[1184:]
    assert hashlib.sha3_256(hashed + bytes.fromhex("5c2e2f2f5e5c")).digest() == secret
    assert "5c 2e 2f 2f 5e 5c" in section("2 Suites")


def test_the_examples_of_section_1_recompute():
    assert frame(b"ab", b"").hex() == EXAMPLES['frame("ab", "")']
    assert digest("example", b"ab", b"").hex() == EXAMPLES['digest("example", "ab", "")']
    assert encode({"b": 1.0, "aa": b"\x01", "a": [True, None, -1]}).hex() == EXAMPLES["cbor"]
    assert key_fingerprint("ML-DSA-44", bytes(range(256)) * 5 + bytes(32)).hex() == EXAMPLES["fingerprint"]


def test_the_digest_is_what_its_definition_says_and_not_only_what_the_code_does():
    parts = [b"QFLARE/1 example", b"ab", b""]
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert hashlib.sha3_512(framed).hexdigest() == EXAMPLES['digest("example", "ab", "")']


def test_map_keys_sort_alike_in_both_orders_of_cbor():
    keys = [*range(24), "", "z", "aa", "é", "a" * 23, "b" * 24, "a" * 25, "c" * 255, "a" * 256, "z" * 300]
    encoded = [encode(key) for key in keys]
    assert sorted(encoded) == sorted(encoded, key=lambda item: (len(item), item))
    body = encode(dict.fromkeys(reversed(keys), 0))
    assert body == b"\xb8" + bytes([len(keys)]) + b"".join(item + b"\x00" for item in sorted(encoded))


def test_the_epoch_keys_recompute():
    chain = EpochChain(5666666, bytes(range(32)), bytes(32))
    assert chain.derive_key("traffic").hex() == EXAMPLES["traffic_key(5666666)"]
    assert chain.advance(5666667, now=5666667 * 300).chain_key.hex() == EXAMPLES["chain_key(5666667)"]


def test_the_sealed_request_recomputes_and_opens():
    number = MessageNumber(bytes(range(16)), 0, 5666666, 1, bytes(16))
    traffic_key = bytes.fromhex(EXAMPLES["traffic_key(5666666)"])
    material = expand(traffic_key, "request", *number.fields(), length=44)
    assert [material[:32].hex(), material[32:].hex()] == [EXAMPLES["key"], EXAMPLES["nonce"]]
    target = Target("POST", "/api/work", "application/cbor", 1)
    aad = frame(label("request"), *number.fields(), *target.fields())
    assert aad.hex() == EXAMPLES["aad"]
    authorization = Authorization.from_header(EXAMPLES["header"])
    sealed = AESGCM(material[:32]).encrypt(material[32:], encode({}), aad)
    assert (sealed[:-16].hex(), sealed[-16:]) == (EXAMPLES["body"], authorization.tag)
    opener = RequestOpener(traffic_key, authorization, target)
    assert opener.update(bytes.fromhex(EXAMPLES["body"])) == encode({})
    opener.finish()


def test_hpke_opens_by_the_written_steps_alone():
    pair, info = hpke.generate(), b"some info"
    message = hpke.seal(pair.public, b"content key", info=info)
    ciphertext, point, body = message[:1568], message[1568:1665], message[1665:]
    scalar = ec.derive_private_key(int.from_bytes(pair.private[64:], "big"), ec.SECP384R1())
    shared = hashlib.sha3_256(
        mlkem.MLKEM1024PrivateKey.from_seed_bytes(pair.private[:64]).decapsulate(ciphertext)
        + scalar.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point))
        + point + pair.public[1568:] + b"MLKEM1024-P384"
    ).digest()  # fmt: skip
    suite = b"HPKE" + bytes.fromhex("005100110002")
    steps = prefixed(b"") + prefixed(shared) + b"HPKE-v1" + suite + prefixed(b"secret") + bytes.fromhex("006c00")
    secret = hashlib.shake_256(steps + prefixed(b"") + prefixed(info)).digest(108)
    assert AESGCM(secret[:32]).decrypt(secret[32:44], body, b"") == b"content key"


def prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def test_the_sizes_of_a_sealed_update_are_the_written_ones():
    assert f"{update.SEALED_KEY_BYTES} bytes" in section("11.2")
    assert f"header {update.HEADER_BYTES} bytes" in section("11.2")
    overhead = update.sealed_update_size(1) - 1
    assert f"{overhead:,} bytes more than its tensors" in section("Appendix C").replace("\n", " ")
