"""SEV-SNP reports: real ones of Milan, and of the other lines and VLEKs under a root made here."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol.attestation.roots import AMD_ROOTS
from qflare_protocol.attestation.snp import verify_snp
from qflare_protocol.attestation.snp_report import SIGNED_BYTES, parse_report
from qflare_protocol.errors import Refusal
from tests.fake_hardware import MEASUREMENT, NOW, Snp, certificate, ec_key, rsa_key, snp_of
from tests.protocol.attestation_vectors import flipped, vector

AT_MILAN = 1_700_000_000
DATA = bytes(range(64))
MILAN = Snp()


def milan_chain(leaf="snp/trustee-test-vcek.der"):
    pems = x509.load_pem_x509_certificates(vector("snp/gosev-ask_ark_milan.pem"))
    return [vector(leaf), *(certificate.public_bytes(Encoding.DER) for certificate in pems)]


def verified(chip=MILAN, at=NOW, chain=None, roots=None, **changes):
    report = chip.report(DATA, **changes)
    return verify_snp(report, chip.endorsements() if chain is None else chain, at, roots or chip.roots)


def assert_refused(because, function=verified, *arguments, **changes):
    with pytest.raises(Refusal) as caught:
        function(*arguments, **changes)
    assert caught.value.code == "evidence-refused"
    assert because in caught.value.detail


def test_a_real_report_of_milan_verifies_to_amds_own_root():
    report = verify_snp(vector("snp/trustee-test-report.bin"), milan_chain(), AT_MILAN)
    assert report.security_versions == {"bootloader": 3, "tee": 0, "snp": 8, "microcode": 115}
    assert report.registers["MEASUREMENT"].hex().startswith("a1f3930413247bb3")
    assert report.report_data[32:] == bytes(32)


def test_a_real_debug_report_is_refused():
    chain = milan_chain("snp/gosev-vcek.testcer")
    assert_refused("debugged", verify_snp, vector("snp/gosev-attestation.bin"), chain, AT_MILAN)


def test_a_forged_endorsement_key_is_refused():
    chain = milan_chain("snp/trustee-test-vcek-invalid-new.der")
    assert_refused("not issued by the next", verify_snp, vector("snp/trustee-test-report.bin"), chain, AT_MILAN)


def test_the_endorsement_key_of_another_chip_is_refused():
    chain = milan_chain("snp/gosev-vcek.testcer")
    assert_refused("signature", verify_snp, vector("snp/trustee-test-report.bin"), chain, AT_MILAN)


def test_every_flipped_bit_of_the_signed_part_is_refused():
    report, chain = vector("snp/trustee-test-report.bin"), milan_chain()
    for bit in range(8 * SIGNED_BYTES):
        with pytest.raises(Refusal, match="evidence-refused"):
            verify_snp(flipped(report, bit), chain, AT_MILAN)


def test_every_flipped_bit_of_the_signature_field_is_refused():
    report, chain = vector("snp/trustee-test-report.bin"), milan_chain()
    for bit in range(8 * SIGNED_BYTES, 8 * len(report)):
        with pytest.raises(Refusal, match="evidence-refused"):
            verify_snp(flipped(report, bit), chain, AT_MILAN)


@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
@pytest.mark.parametrize("line", ["Milan", "Genoa", "Turin"])
@pytest.mark.parametrize("version", [2, 3, 5])
def test_every_line_key_and_version_verifies(line, kind, version):
    chip = snp_of(line, kind)
    report = verified(chip, version=version)
    assert report.report_data == DATA
    assert report.registers == {"MEASUREMENT": MEASUREMENT}
    assert report.security_versions == chip.versions


@pytest.mark.parametrize("line", ["Milan", "Turin"])
def test_a_hardware_id_may_be_wrapped_as_an_octet_string(line):
    chip = snp_of(line)
    extensions = dict(chip.key_extensions)
    oid = next(oid for oid in extensions if oid.endswith("3704.1.4"))
    extensions[oid] = bytes([0x04, len(extensions[oid])]) + extensions[oid]
    assert verified(chip, chain=chip.endorsements(extensions=tuple(extensions.items()))).report_data == DATA


def test_a_chain_is_verified_at_the_stated_time():
    assert_refused("not valid at 2024", at=int(datetime(2024, 6, 1, tzinfo=UTC).timestamp()))
    assert_refused("not valid at 2036", at=int(datetime(2036, 6, 1, tzinfo=UTC).timestamp()))


def test_a_root_that_is_not_pinned_is_refused():
    assert_refused("pinned here", roots=AMD_ROOTS)


@pytest.mark.parametrize(
    ("patch", "because"),
    [
        ({0x00: b"\x01"}, "version 1"),
        ({0x00: b"\x06"}, "version 6"),
        ({0x0A: b"\x0a"}, "debugged"),
        ({0x0A: b"\x06"}, "migrated"),
        ({0x0A: b"\x00"}, "policy"),
        ({0x0C: b"\x01"}, "policy"),
        ({0x30: b"\x01"}, "privilege level"),
        ({0x30: b"\x04"}, "privilege level"),
        ({0x34: b"\x02"}, "ECDSA"),
        ({0x41: b"\x01"}, "reserved"),
        ({0x48: b"\x1c"}, "no endorsement key"),
        ({0x48: b"\x20"}, "reserved"),
        ({0x48: b"\x02"}, "which chip"),
        ({0x48: b"\x04"}, "not of the key"),
        ({0x4C: b"\x01"}, "reserved"),
        ({0x182: b"\x01"}, "reserved"),
        ({0x186: b"\x16"}, "another TCB"),
        ({0x188: b"\x01"}, "reserved"),
        ({0x19F: b"\x01"}, "reserved"),
        ({0x1A0: b"\x00"}, "another chip"),
        ({0x1EB: b"\x01"}, "reserved"),
        ({0x1F8: b"\x01"}, "reserved"),
        ({0x29F: b"\x01"}, "reserved"),
    ],
    ids=str,
)
def test_a_field_out_of_order_is_refused_although_signed(patch, because):
    assert_refused(because, patch=patch)


@pytest.mark.parametrize("length", [0, 1, 1183, 1185])
def test_a_report_of_another_length_is_refused(length):
    report = MILAN.report(DATA)
    assert_refused("1184 bytes", verify_snp, report.ljust(length, b"\0")[:length], MILAN.endorsements(), NOW)


def test_a_report_by_another_key_is_refused():
    assert_refused("signature", signing_key=ec_key("mallory"))


def test_a_vlek_does_not_pass_for_a_vcek_nor_the_other_way_round():
    vlek = snp_of("Milan", "VLEK")
    assert_refused("not of the key", verify_snp, vlek.report(DATA), MILAN.endorsements(), NOW, MILAN.roots)
    assert_refused("not of the key", verify_snp, MILAN.report(DATA), vlek.endorsements(), NOW, MILAN.roots)


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ({"name": "SEV-Other"}, "not of the key"),
        ({"key": rsa_key("leaf")}, "curve"),
        ({"authority": True}, "begins with"),
        ({"extensions": ()}, "product line"),
        ({"extensions": tuple(snp_of("Genoa").key_extensions)}, "product line"),
        ({"extensions": tuple(replace(MILAN, versions=MILAN.versions | {"snp": 22}).key_extensions)}, "another TCB"),
        ({"extensions": tuple(replace(MILAN, chip_id=b"\x12" * 64).key_extensions)}, "another chip"),
        ({"extensions": tuple(Snp(kind="VLEK").key_extensions)}, "which chip"),
        ({"issuer_key": rsa_key("mallory")}, "not issued by"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_endorsement_key_that_does_not_fit_is_refused(change, because):
    assert_refused(because, chain=MILAN.endorsements(**change))


def test_an_intermediate_that_is_no_authority_is_refused():
    leaf, _, root = MILAN.endorsements()
    middle = certificate("SEV-Milan", rsa_key("SEV-Milan"), "ARK-Milan", rsa_key("ARK-Milan"), authority=False)
    assert_refused("no authority", chain=[leaf, middle, root])


@pytest.mark.parametrize("chain", [[], [b""], [b"", b"", b""], [b"x" * 9000] * 3])
def test_a_chain_that_is_none_is_refused(chain):
    assert_refused("", chain=chain)


def test_a_broken_certificate_is_refused():
    leaf, middle, root = MILAN.endorsements()
    assert_refused("cannot be read", chain=[leaf[:-1], middle, root])
    assert_refused("cannot be read", chain=[leaf + b"\0", middle, root])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=1300))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(data):
    assert_refused("", parse_report, data)


def test_every_flipped_bit_of_the_certified_part_of_the_endorsement_key_is_refused():
    leaf, middle, root = MILAN.endorsements()
    report, certified = MILAN.report(DATA), len(x509.load_der_x509_certificate(leaf).tbs_certificate_bytes)
    for bit in range(8 * (4 + certified)):
        with pytest.raises(Refusal, match="evidence-refused"):
            verify_snp(report, [flipped(leaf, bit), middle, root], NOW, MILAN.roots)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 1500), value=st.binary(min_size=1, max_size=8))
def test_a_spoiled_certificate_is_refused_and_nothing_else_happens(position, value):
    leaf, middle, root = MILAN.endorsements()
    spoiled = leaf[:position] + value + leaf[position + len(value) :]
    with suppress(Refusal):  # a signature can be written in two ways
        verified(chain=[spoiled, middle, root])
