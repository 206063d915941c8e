"""Pins of platforms as text: read strictly, written back the same."""

import pytest

from qflare_protocol.attestation.pins import PlatformPin, parse_pins
from qflare_protocol.attestation.platform import PlatformReport
from qflare_protocol.errors import Refusal

SNP = "sev-snp/MEASUREMENT=" + "ab" * 48
REPORT = PlatformReport("sev-snp", bytes(64), {"MEASUREMENT": b"\xab" * 48}, {"snp": 8, "bootloader": 3})


@pytest.mark.parametrize(
    "text",
    [
        SNP,
        SNP + "/min-bootloader=0/min-snp=255",
        "tdx/MRTD=" + "01" * 48 + "/RTMR0=" + "00" * 48 + "/RTMR1=" + "02" * 48 + "/RTMR2=" + "03" * 48,
        "sgx/MRENCLAVE=" + "01" * 32,
        "nitro/PCR0=" + "01" * 48 + "/PCR1=" + "02" * 48 + "/PCR2=" + "03" * 48 + "/PCR8=" + "04" * 48,
    ],
)
def test_a_pin_is_read_and_written_back(text):
    assert PlatformPin.parse(text).to_text() == text
    assert PlatformPin.parse(f" {text}\n") == PlatformPin.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "sev-snp", "software", "cca/RIM=" + "ab" * 32, SNP.replace("ab", "AB"), SNP[:-2], SNP + "00",
        SNP + "/", SNP + "/MEASUREMENT=" + "ab" * 48, SNP + "/min-snp=256", SNP + "/min-snp=08", SNP + "/min-snp=-1",
        SNP + "/min-snp=1/min-snp=1", SNP + "/min-other=1", SNP + "/snp=1",
        "tdx/MRTD=" + "01" * 48, "nitro/PCR0=" + "01" * 48, "sgx/MRENCLAVE=" + "01" * 32 + "/min-snp=1",
    ],
)  # fmt: skip
def test_a_pin_that_says_too_little_or_something_else_is_refused(text):
    with pytest.raises(Refusal, match="malformed-message"):
        PlatformPin.parse(text)


def test_a_pin_fits_the_image_it_names_and_no_other():
    assert PlatformPin.parse(SNP).launched(REPORT)
    assert not PlatformPin.parse(SNP.replace("ab", "ac")).launched(REPORT)
    assert not PlatformPin.parse("sgx/MRENCLAVE=" + "ab" * 32).launched(REPORT)


def test_versions_below_the_least_are_named_and_missing_ones_are_below():
    assert PlatformPin.parse(SNP + "/min-snp=8/min-bootloader=4").outdated(REPORT) == ["bootloader"]
    assert PlatformPin.parse(SNP + "/min-fmc=0").outdated(REPORT) == ["fmc"]


def test_the_pin_of_a_report_names_what_a_pin_must_name():
    assert PlatformPin.of_report(REPORT).to_text() == SNP
    with pytest.raises(Refusal, match="no register MRENCLAVE"):
        PlatformPin.of_report(PlatformReport("sgx", bytes(64), {}))


def test_equal_pins_are_one():
    assert len(parse_pins([SNP, SNP + "\n"])) == 1
