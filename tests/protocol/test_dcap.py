"""Intel quotes: real ones of SGX and TDX, and every version and spoiled field under a root made here."""

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qflare_protocol.attestation.dcap import pem_chain, verify_quote
from qflare_protocol.attestation.dcap_collateral import NO_COLLATERAL, appraise_tcb
from qflare_protocol.attestation.dcap_quote import parse_quote, without_padding
from qflare_protocol.attestation.platform import TcbStatus
from qflare_protocol.attestation.roots import INTEL_ROOTS
from qflare_protocol.errors import Refusal
from tests.fake_hardware import NOW, QE_SIGNERS, Dcap, sgx_body, tdx_body
from tests.protocol.attestation_vectors import flipped, vector

AT_PHALA = 1_750_400_000  # 2025-06-20, within the collateral's month
DATA = bytes(range(64))


def assert_refused(because, function, *arguments, **changes):
    with pytest.raises(Refusal) as caught:
        function(*arguments, **changes)
    assert caught.value.code == "evidence-refused"
    assert because in caught.value.detail


def real(name):
    """A real quote, cut to its own length: as published, two of them have other bytes behind them."""
    data = vector(name)
    end = 48 + (384 if data[0] == 3 else 584)
    return data[: end + 4 + int.from_bytes(data[end : end + 4], "little")]


REAL = ["sgx/phala-sgx_quote", "tdx/phala-tdx_quote", "tdx/gotdx-tdx_prod_quote_SPR_E4.dat"]


@pytest.mark.parametrize("name", REAL)
def test_a_real_quote_verifies_to_intels_own_root(name):
    report = verify_quote(real(name), AT_PHALA)
    assert report.attester == name[:3]
    if report.attester == "sgx":
        assert report.report_data == b"Hello, world!".ljust(64, b"\0")
        assert report.registers["MRENCLAVE"].hex().startswith("33d8736db756ed49")
    else:
        assert set(report.registers) == {"MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3"}


def test_bytes_behind_a_real_quote_are_refused_and_only_zeros_can_be_taken_for_padding():
    padded, longer = vector("tdx/phala-tdx_quote"), vector("tdx/gotdx-tdx_prod_quote_SPR_E4.dat")
    for quote in (padded, longer):
        assert_refused("followed by other bytes", verify_quote, quote, AT_PHALA)
    assert without_padding(padded) == real("tdx/phala-tdx_quote")
    assert_refused("followed by other bytes", without_padding, longer)


@pytest.mark.parametrize("name", REAL)
def test_every_flipped_bit_of_the_signed_parts_is_refused(name):
    """Header, body, attestation key, QE report with its signature, and the QE's authentication data."""
    quote = real(name)
    start = 48 + (384 if quote[0] == 3 else 584) + 4
    end = start + 128 + (0 if quote[0] == 3 else 6) + 384 + 64 + 2 + 32
    for bit in [*range(8 * start), *range(8 * start, 8 * end)]:
        with pytest.raises(Refusal, match="evidence-refused"):
            verify_quote(flipped(quote, bit), AT_PHALA)


def test_a_real_quote_is_refused_when_its_certificates_are_not_valid():
    assert_refused("not valid at 2010", verify_quote, real(REAL[0]), 1_262_304_000)
    assert_refused("not valid at 2060", verify_quote, real(REAL[0]), 2_840_140_800)


VARIANTS = [
    (3, 0x00, sgx_body, "sgx"),
    (4, 0x00, sgx_body, "sgx"),
    (4, 0x81, tdx_body, "tdx"),
    (5, 0x00, sgx_body, "sgx"),
    (5, 0x81, tdx_body, "tdx"),
    (5, 0x81, lambda data, **changes: tdx_body(data, version=15, **changes), "tdx"),
]


@pytest.mark.parametrize(("version", "tee_type", "body", "attester"), VARIANTS)
def test_every_version_and_body_verifies(version, tee_type, body, attester):
    platform = Dcap(version, tee_type)
    report = verify_quote(platform.quote(body(DATA)), NOW, platform.roots)
    assert (report.attester, report.report_data) == (attester, DATA)
    if attester == "tdx":
        assert report.registers["MRTD"] == b"\xdd" * 48
        assert [report.registers[f"RTMR{index}"] for index in range(4)] == [bytes([index]) * 48 for index in range(4)]
    else:
        assert report.registers == {"MRENCLAVE": b"\xbb" * 32, "MRSIGNER": b"\xcc" * 32}


@pytest.mark.parametrize(("version", "tee_type", "body", "attester"), VARIANTS)
def test_a_quote_cut_short_anywhere_is_refused(version, tee_type, body, attester):
    quote = Dcap(version, tee_type).quote(body(DATA))
    for length in [*range(0, 1300, 7), *range(1300, len(quote), 97)]:
        assert_refused("", parse_quote, quote[:length])
    assert_refused("followed by other bytes", parse_quote, quote + b"\0")


def spoiled(platform, body, **changes):
    return verify_quote(platform.quote(body, **changes), NOW, platform.roots)


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (sgx_body(DATA, flags=0x07), "debugged"),
        (sgx_body(DATA, flags=0x04), "never initialised"),
        *((sgx_body(DATA, patch={offset: b"\x01"}), "reserved") for offset in (20, 31, 96, 127, 160, 191, 262, 303)),
    ],
)
def test_an_sgx_body_out_of_order_is_refused_although_signed(body, because):
    assert_refused(because, spoiled, Dcap(3, 0x00), body)


@pytest.mark.parametrize(
    ("body", "because"),
    [
        (tdx_body(DATA, attributes=1 << 28 | 1), "debugged"),
        (tdx_body(DATA, attributes=1 << 28 | 0x80), "debugged"),
        (tdx_body(DATA, attributes=1 << 29), "migrated"),
        (tdx_body(DATA, attributes=1 << 8), "reserved attribute"),
        (tdx_body(DATA, attributes=1 << 32), "reserved attribute"),
        *((tdx_body(DATA, patch={offset: b"\x01"}), "reserved") for offset in (64, 111, 112, 119)),
    ],
)
def test_a_tdx_body_out_of_order_is_refused_although_signed(body, because):
    assert_refused(because, spoiled, Dcap(4, 0x81), body)


def test_a_service_domain_is_refused():
    body = tdx_body(DATA, version=15, patch={600: b"\x01"})
    assert_refused("service domain", spoiled, Dcap(5, 0x81), body)


@pytest.mark.parametrize(
    ("platform", "because"),
    [
        (Dcap(version=2), "version 2"),
        (Dcap(version=6), "version 6"),
        (Dcap(version=3), "not of TDX"),
        (Dcap(tee_type=0x82), "neither SGX nor TDX"),
        (Dcap(header_patch={2: b"\x03"}), "ECDSA P-256"),
        (Dcap(header_patch={8: b"\x01"}), "reserved"),
        (Dcap(header_patch={12: b"\x00"}), "quoting enclave"),
        (Dcap(qe_changes={"flags": 0x17}), "debugged"),
        (Dcap(qe_changes={"signer": b"\x01" * 32}), "quoting enclave"),
        (Dcap(qe_changes={"signer": bytes.fromhex(QE_SIGNERS[0][0]), "product": 1}), "quoting enclave"),
        (Dcap(qe_changes={"product": 1}), "quoting enclave"),
        (Dcap(qe_bound=bytes(64)), "does not vouch"),
        (Dcap(qe_changes={"patch": {352: b"\x01"}}), "does not vouch"),
        (Dcap(leaf_name="Intel SGX TCB Signing"), "not certified by a PCK"),
        (Dcap(certification_type=1), "type 1, not 5"),
        (Dcap(behind_chain=b"\0\0"), "cannot be read"),
        (Dcap(behind_chain=b"x"), "cannot be read"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_quote_whose_frame_is_out_of_order_is_refused(platform, because):
    assert_refused(because, spoiled, platform, tdx_body(DATA))


def test_a_body_of_another_type_or_length_than_stated_is_refused():
    for changes in ({"body_type": 1}, {"body_type": 4}, {"stated_body_bytes": 583}, {"stated_body_bytes": 1 << 31}):
        assert_refused("wrong type or length", spoiled, Dcap(5, 0x81), tdx_body(DATA), **changes)


def test_a_root_that_is_not_pinned_is_refused():
    assert_refused("pinned here", verify_quote, Dcap().quote(tdx_body(DATA)), NOW, INTEL_ROOTS)


@pytest.mark.parametrize(
    "text",
    [
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"junk",
    ],
)
def test_a_chain_that_is_no_pem_is_refused(text):
    assert_refused("cannot be read", pem_chain, text)


@settings(max_examples=300, deadline=None)
@given(prefix=st.sampled_from([b"", Dcap().quote(tdx_body(DATA))[:8]]), data=st.binary(max_size=6000))
def test_arbitrary_bytes_are_refused_and_nothing_else_happens(prefix, data):
    assert_refused("", verify_quote, prefix + data, NOW)


@settings(max_examples=400, deadline=None)
@given(position=st.integers(632, 4000), value=st.binary(min_size=1, max_size=8))
def test_a_spoiled_signature_section_is_refused_and_nothing_else_happens(position, value):
    platform = Dcap()
    quote = platform.quote(tdx_body(DATA))
    changed = quote[:position] + value + quote[position + len(value) :]
    with suppress(Refusal):  # a certificate can be written in two ways
        verify_quote(changed, NOW, platform.roots)


class TestCollateral:
    """TCB appraisal by dcap-qvl, which is optional at run time."""

    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("dcap_qvl")

    def appraised(self, kind, *, at=AT_PHALA, **changes):
        collateral = json.loads(vector(f"{kind}/phala-{kind}_quote_collateral.json")) | changes
        return appraise_tcb(real(f"{kind}/phala-{kind}_quote"), json.dumps(collateral).encode(), at)

    def test_a_platform_that_is_up_to_date_is_current(self):
        assert self.appraised("tdx") == (TcbStatus.CURRENT, ())

    def test_an_outdated_platform_is_named_with_its_advisories(self):
        status, (reason,) = self.appraised("sgx")
        assert status is TcbStatus.OUTDATED
        assert "INTEL-SA-00289" in reason
        assert "INTEL-SA-00615" in reason

    def test_outdated_collateral_is_refused(self):
        assert_refused("expired", self.appraised, "tdx", at=AT_PHALA + 60 * 86_400)

    def test_changed_collateral_is_refused(self):
        info = json.loads(vector("tdx/phala-tdx_quote_collateral.json"))["tcb_info"].replace("OutOfDate", "UpToDate")
        assert_refused("does not vouch", self.appraised, "tdx", tcb_info=info)

    def test_collateral_of_another_platform_is_refused(self):
        other = vector("sgx/phala-sgx_quote_collateral.json")
        assert_refused("does not vouch", appraise_tcb, real("tdx/phala-tdx_quote"), other, AT_PHALA)

    @pytest.mark.parametrize("status", ["Revoked", "SomethingNew"])
    def test_a_revoked_platform_is_refused_and_an_unknown_status_is_never_current(self, monkeypatch, status):
        import dcap_qvl

        class Verified:
            advisory_ids = ()

        Verified.status = status
        monkeypatch.setattr(dcap_qvl, "verify", lambda *arguments: Verified)
        if status == "Revoked":
            assert_refused("revoked", self.appraised, "tdx")
        else:
            assert self.appraised("tdx")[0] is TcbStatus.OUTDATED

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
    def test_arbitrary_collateral_is_refused(self, data):
        assert_refused("does not vouch", appraise_tcb, Dcap().quote(tdx_body(DATA)), data, NOW)


def test_without_collateral_the_tcb_is_unknown_and_said_to_be():
    assert appraise_tcb(b"", None, NOW) == (TcbStatus.UNKNOWN, (NO_COLLATERAL,))


def test_without_the_library_the_tcb_is_unknown_and_said_to_be(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "dcap_qvl", None)
    status, (reason,) = appraise_tcb(b"", b"{}", NOW)
    assert status is TcbStatus.UNKNOWN
    assert "qflare[dcap]" in reason
