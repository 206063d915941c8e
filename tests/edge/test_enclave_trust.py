"""What a device takes for its enclave: pins given by hand, and trust on first use."""

import dataclasses
import json

import pytest
import time_machine

from edge_client.cli import main
from edge_client.device_state import DeviceStateFile, EnclavePins
from edge_client.enclave_trust import EnclaveTrust
from qflare_protocol import pqc
from qflare_protocol.attestation import PlatformPin, encode_hardware_evidence, sign_software_evidence
from qflare_protocol.cose import Signer
from qflare_protocol.errors import Refusal
from tests.fake_evidence import CLAIMS, EVIDENCE, FEDERATION, PINS, ROUND, given_by
from tests.fake_hardware import NOW, ROOTS


def signer():
    pair = pqc.signature("ML-DSA-44").generate()
    return Signer("ML-DSA-44", pair.private, pair.public)


HOST = signer()
SOFTWARE = sign_software_evidence(CLAIMS, HOST)
OTHER_CODE = dataclasses.replace(CLAIMS, measurement=b"o" * 64)


@pytest.fixture
def memory(tmp_path):
    return DeviceStateFile(tmp_path)


def appraised(memory, evidence, **changes):
    expected = {"round_id": ROUND, "federation_id": FEDERATION, "now": NOW + 60} | changes
    return EnclaveTrust(memory, ROOTS).appraise(evidence, **expected)


def assert_refused(because, memory, evidence, **changes):
    with pytest.raises(Refusal, match="evidence-refused") as caught:
        appraised(memory, evidence, **changes)
    assert because in caught.value.detail


def pinned(*platforms, **changes):
    pins = frozenset(PlatformPin.parse(PINS[name]) for name in platforms)
    return EnclavePins(measurements=frozenset({CLAIMS.measurement}), platforms=pins, **changes)


def test_a_device_without_pins_takes_the_software_host_it_sees_first(memory):
    assert appraised(memory, SOFTWARE).tier == "warning"
    assert memory.state.pins.attestation_keys == {HOST.fingerprint}
    assert_refused("not one that is pinned", memory, sign_software_evidence(CLAIMS, signer()))
    assert_refused("image that is not pinned", memory, EVIDENCE["tdx"])


@pytest.mark.parametrize("attester", sorted(PINS))
def test_a_device_without_pins_takes_the_image_of_genuine_hardware_it_sees_first(memory, attester):
    appraised(memory, EVIDENCE[attester])
    assert memory.state.pins.platforms == {PlatformPin.parse(PINS[attester])}
    assert memory.state.pins.attestation_keys == set()
    assert_refused("not one that is pinned", memory, SOFTWARE)
    other = encode_hardware_evidence(OTHER_CODE, given_by(attester, OTHER_CODE.report_data))
    assert_refused("code that is not allowed", memory, other)


def test_hardware_of_no_vendor_is_never_pinned(memory):
    with pytest.raises(Refusal, match="not end in a root"):
        EnclaveTrust(memory).appraise(EVIDENCE["tdx"], round_id=ROUND, federation_id=FEDERATION, now=NOW)
    assert memory.state.pins == EnclavePins()


def test_evidence_that_is_refused_pins_nothing(memory):
    assert_refused("another round", memory, SOFTWARE, round_id=b"x" * 16)
    assert memory.state.pins == EnclavePins()


def test_a_pinned_platform_is_taken_and_no_other(memory):
    memory.remember(pins=pinned("tdx"))
    assert appraised(memory, EVIDENCE["tdx"]).attester == "tdx"
    for refused in ("sev-snp", "sgx", "nitro"):
        assert_refused("image that is not pinned", memory, EVIDENCE[refused])
    assert_refused("not one that is pinned", memory, SOFTWARE)


def test_who_pinned_a_platform_alone_takes_the_code_it_sees_first(memory):
    memory.remember(pins=dataclasses.replace(pinned("sgx"), measurements=frozenset()))
    appraised(memory, EVIDENCE["sgx"])
    assert memory.state.pins == pinned("sgx")


def test_a_demanded_tier_is_kept_over_a_restart(memory, tmp_path):
    memory.remember(pins=pinned("tdx", "nitro", tiers=frozenset({"affirming"})))
    again = DeviceStateFile(tmp_path)
    assert_refused("tier warning, which is not accepted", again, EVIDENCE["tdx"])
    assert appraised(again, EVIDENCE["nitro"]).tier == "affirming"


def test_a_device_that_demands_hardware_does_not_take_a_software_host_first(memory):
    memory.remember(pins=EnclavePins(tiers=frozenset({"affirming"})))
    assert_refused("not accepted here", memory, SOFTWARE)
    assert not memory.state.pins.attestation_keys


def test_the_first_models_maker_may_run_other_code_on_a_pinned_platform_alone(memory):
    memory.remember(pins=pinned("nitro"))
    trust = EnclaveTrust(memory, ROOTS)
    expected = {"round_id": ROUND, "federation_id": FEDERATION, "now": NOW + 10**8}
    other = encode_hardware_evidence(OTHER_CODE, given_by("nitro", OTHER_CODE.report_data))
    assert trust.appraise_maker(other, first_model=True, **expected).claims == OTHER_CODE
    with pytest.raises(Refusal, match="code that is not allowed"):
        trust.appraise_maker(other, first_model=False, **expected)
    with pytest.raises(Refusal, match="image that is not pinned"):
        trust.appraise_maker(EVIDENCE["tdx"], first_model=True, **expected)


def trust(folder, *arguments):
    return main(["--home", str(folder), "trust", *arguments])


def test_platforms_and_a_tier_are_pinned_by_hand(tmp_path):
    assert trust(tmp_path, "--platform", PINS["sgx"], "--platform", PINS["tdx"], "--lowest-tier", "affirming") == 0
    pins = DeviceStateFile(tmp_path).state.pins
    assert {pin.to_text() for pin in pins.platforms} == {PINS["sgx"], PINS["tdx"]}
    assert pins.tiers == {"affirming"}
    assert trust(tmp_path, "--only", "--platform", PINS["nitro"]) == 0
    assert DeviceStateFile(tmp_path).state.pins == EnclavePins(platforms=frozenset({PlatformPin.parse(PINS["nitro"])}))


@pytest.mark.parametrize(
    "arguments",
    [[], ["--platform", "tdx/MRTD=00"], ["--measurement", "zz"], ["--attestation-key", "ab"], ["--measurement", "ab"]],
)
def test_a_pin_out_of_form_is_refused_and_pins_nothing(tmp_path, arguments):
    assert trust(tmp_path, *arguments) == 2
    assert not (tmp_path / "state.json").exists()


@time_machine.travel(NOW)
def test_evidence_can_be_looked_at_before_it_is_trusted(tmp_path, capsys):
    file = tmp_path / "evidence"
    file.write_bytes(SOFTWARE)
    assert main(["--home", str(tmp_path), "appraise", str(file)]) == 4
    shown = json.loads(capsys.readouterr().out)
    assert shown["ear.status"] == "contraindicated"
    pins = shown["pins_of_this_evidence"]
    assert pins["attestation_keys"] == [HOST.fingerprint.hex()]
    assert trust(tmp_path, "--attestation-key", *pins["attestation_keys"], "--measurement", *pins["measurements"]) == 0
    capsys.readouterr()
    assert main(["--home", str(tmp_path), "appraise", str(file)]) == 0
    assert json.loads(capsys.readouterr().out)["ear.status"] == "warning"
