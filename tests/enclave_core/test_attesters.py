"""The attesters, against stand-ins for platforms that are not here: the layouts are real, the hardware is not."""

import ctypes
import errno
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import UUID

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclave.core import seccomp
from enclave.core.attesters import tsm
from enclave.core.attesters.certificate_table import certificates_of
from enclave.core.attesters.choice import ATTESTERS, open_attester
from enclave.core.attesters.configfs import ReportEntries
from enclave.core.attesters.gramine import GramineAttester
from enclave.core.attesters.interface import Endorsements
from enclave.core.attesters.nitro import NSM_IOCTL_RAW, NitroAttester
from enclave.core.attesters.tsm import TsmAttester
from enclave.core.host import HostDirectory, initialise_host_directory
from enclave.courier import EnclaveHost, prepare_round
from qflare_protocol.attestation import AppraisalPolicy, PlatformPin, appraise
from qflare_protocol.attestation.evidence import read_evidence
from qflare_protocol.errors import Refusal
from tests.enclave_core.fake_configfs import FakeEntries
from tests.enclave_core.test_sealing import verdict
from tests.fake_evidence import CLAIMS, FEDERATION, PINS, ROUND
from tests.fake_hardware import NOW, ROOTS, Dcap, Nitro, Snp, sgx_body, tdx_body
from tests.policies import screened

UID = 65534 if os.geteuid() == 0 else os.getuid()
CHAIN = tuple(Snp().endorsements())
GUIDS = [
    "63da758d-e664-4564-adc5-f4b93be8accd", "4ab7b379-bbac-4fe4-a02f-05aef327c782",
    "c0b406a4-a803-4952-9743-3fb6014cd0ae",
]  # fmt: skip


def assert_accepted(evidence):
    """A device that pins these platforms takes the evidence."""
    pins = frozenset(PlatformPin.parse(pin) for pin in PINS.values())
    policy = AppraisalPolicy(frozenset(), frozenset({CLAIMS.measurement}), pins, vendor_roots=ROOTS)
    return appraise(evidence, policy, round_id=ROUND, federation_id=FEDERATION, now=NOW)


def assert_refused(because, action, *arguments):
    with pytest.raises(Refusal) as caught:
        action(*arguments)
    assert caught.value.code == "enclave-failed"
    assert because in caught.value.detail


def table(certificates=CHAIN, guids=GUIDS, in_bytes=lambda guid: guid.bytes):
    """A host's certificate table."""
    offset, header, body = 24 * (len(guids) + 1), b"", b""
    for guid, certificate in zip(guids, certificates, strict=True):
        header += in_bytes(UUID(guid)) + struct.pack("<II", offset + len(body), len(certificate))
        body += certificate
    return header + bytes(24) + body


def snp_guest(**changes):
    return FakeEntries("sev_guest", Snp().report, **{"certificates": table()} | changes)


def tdx_guest(**changes):
    return FakeEntries("tdx_guest", lambda data: Dcap(4, 0x81).quote(tdx_body(data)) + bytes(70), **changes)


# configfs-tsm


def test_an_snp_guest_gives_evidence_with_the_hosts_certificates():
    appraisal = assert_accepted(TsmAttester(snp_guest(), Endorsements()).attest(CLAIMS))
    assert (appraisal.attester, appraisal.claims) == ("sev-snp", CLAIMS)


def test_a_tdx_guest_gives_a_quote_without_its_padding_and_the_operators_collateral():
    evidence = TsmAttester(tdx_guest(), Endorsements(collateral=b"{}")).attest(CLAIMS)
    assert read_evidence(evidence).hardware.collateral == b"{}"
    assert assert_accepted(TsmAttester(tdx_guest(), Endorsements()).attest(CLAIMS)).attester == "tdx"


def test_an_operators_certificates_go_before_the_hosts():
    evidence = TsmAttester(snp_guest(certificates=b""), Endorsements(CHAIN)).attest(CLAIMS)
    assert read_evidence(evidence).hardware.endorsements == CHAIN


def test_an_snp_guest_without_any_certificates_gives_nothing():
    for certificates in (b"", table()[:100]):
        attester = TsmAttester(snp_guest(certificates=certificates), Endorsements())
        assert_refused("certificates of its endorsement key", attester.attest, CLAIMS)


def disturbed(times):
    """Let somebody else write to the entry after our write is taken, so many times."""
    left = [times]

    def disturb(entries, name):
        if left[0]:
            left[0] -= 1
            entries.commit(name, b"x" * 64)

    return disturb


@pytest.mark.parametrize("guest", [snp_guest, tdx_guest])
def test_a_report_that_somebody_else_asked_for_in_between_is_not_taken(guest):
    assert_accepted(TsmAttester(guest(on_commit=disturbed(2)), Endorsements()).attest(CLAIMS))
    attester = TsmAttester(guest(on_commit=disturbed(3)), Endorsements())
    assert_refused("in 3 attempts", attester.attest, CLAIMS)


def test_the_generation_tells_a_race_that_the_report_does_not_show():
    """Somebody else writes the very same data: the report is ours by luck, and not believed."""
    entries = snp_guest(on_commit=lambda entries, name: entries.commit(name, CLAIMS.report_data))
    assert_refused("in 3 attempts", TsmAttester(entries, Endorsements()).attest, CLAIMS)


def test_a_reading_that_would_block_is_tried_again():
    entries = snp_guest()
    entries.refused_reads = 2
    assert_accepted(TsmAttester(entries, Endorsements()).attest(CLAIMS))
    entries.refused_reads = 3
    assert_refused("in 3 attempts", TsmAttester(entries, Endorsements()).attest, CLAIMS)


def test_an_entry_that_somebody_removed_is_named():
    entries = snp_guest()
    attester = TsmAttester(entries, Endorsements())
    entries.entries.clear()
    assert_refused("cannot be asked for", attester.attest, CLAIMS)


def test_nothing_is_opened_after_the_beginning_and_every_attempt_has_its_own_descriptors():
    entries = snp_guest(on_commit=disturbed(2))
    attester = TsmAttester(entries, Endorsements())
    opened, descriptors = entries.opened, attester.descriptors
    assert descriptors == set(entries.open_descriptors)
    assert len(descriptors) == 4 * tsm.ATTEMPTS
    attester.attest(CLAIMS)
    assert entries.opened == opened


def test_entries_of_processes_that_are_gone_are_removed_and_no_others():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    entries = snp_guest()
    kept = ["another", "qflare-", "qflare-x", "qflare-99999999999999999999", f"qflare-{os.getppid()}"]
    for name in [*kept, f"qflare-{gone.pid}", f"qflare-{os.getpid()}"]:
        entries.create(name)
    TsmAttester(entries, Endorsements())
    assert sorted(entries.entries) == sorted([*kept, f"qflare-{os.getpid()}"])


def test_an_entry_of_another_users_process_is_kept(monkeypatch):
    def forbidden(pid, number):
        raise PermissionError

    monkeypatch.setattr(tsm.os, "kill", forbidden)
    entries = snp_guest()
    entries.create("qflare-1")
    TsmAttester(entries, Endorsements())
    assert "qflare-1" in entries.entries


def test_a_generation_that_is_no_number_is_refused():
    entries = snp_guest()
    entries.create("other")
    entries.create = lambda name: entries.entries.update({name: (b"", "many")})
    assert_refused("no number", TsmAttester, entries, Endorsements())


@pytest.mark.parametrize(("provider", "because"), [("arm_cca_guest", "'arm_cca_guest'"), (None, "no configfs-tsm")])
def test_a_platform_that_is_none_refuses_to_start(provider, because):
    assert_refused(because, TsmAttester, FakeEntries(provider, bytes), Endorsements())


def open_descriptors():
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_the_real_files_are_read_to_their_end_and_closed(tmp_path):
    entries = ReportEntries(tmp_path)
    entries.create("own")
    entries.write(entries.open("own", "inblob", os.O_WRONLY | os.O_CREAT), b"x" * 64)
    before = open_descriptors()
    assert entries.read(entries.open("own", "inblob", os.O_RDONLY)) == b"x" * 64
    assert open_descriptors() == before
    assert entries.names() == ["own"]
    (tmp_path / "own/inblob").unlink()
    entries.remove("own")
    assert entries.names() == []


@pytest.mark.parametrize("in_bytes", [lambda guid: guid.bytes, lambda guid: guid.bytes_le])
def test_a_certificate_table_is_read_in_either_byte_order(in_bytes):
    assert certificates_of(table(in_bytes=in_bytes)) == CHAIN


def test_a_table_with_a_vlek_is_read():
    assert certificates_of(table(guids=["a8074bc2-a25a-483e-aae6-39c045a0b8a1", *GUIDS[1:]])) == CHAIN


@pytest.mark.parametrize("missing", range(3))
def test_a_table_that_is_not_whole_gives_no_certificates(missing):
    kept = [index for index in range(3) if index != missing]
    assert certificates_of(table([CHAIN[index] for index in kept], [GUIDS[index] for index in kept])) == ()


@given(st.binary(max_size=300))
def test_arbitrary_tables_give_no_certificates(data):
    assert certificates_of(data) == ()


# The Nitro Secure Module


class Module:
    """An ioctl that answers as the Nitro Secure Module does."""

    def __init__(self, answer=None, failure=None, length=None):
        self.answer, self.failure, self.length, self.asked = answer, failure, length, []

    def __call__(self, descriptor, request, message):
        if self.failure:
            raise OSError(self.failure, os.strerror(self.failure))
        address, size, target, capacity = struct.unpack("=QQQQ", message)
        question = cbor2.loads(ctypes.string_at(address, size))
        self.asked.append((descriptor, request, question))
        answer = self.answer
        if answer is None:
            document = Nitro().document(question["Attestation"]["user_data"])
            answer = cbor2.dumps({"Attestation": {"document": document}})
        assert len(answer) <= capacity
        ctypes.memmove(target, answer, len(answer))
        message[24:32] = struct.pack("=Q", len(answer) if self.length is None else self.length)


def test_the_nitro_module_is_asked_for_a_document_of_the_report_data():
    module = Module()
    appraisal = assert_accepted(NitroAttester(7, module).attest(CLAIMS))
    assert (appraisal.attester, appraisal.tier) == ("nitro", "affirming")
    members = {"user_data": CLAIMS.report_data, "nonce": None, "public_key": None}
    assert module.asked == [(7, NSM_IOCTL_RAW, {"Attestation": members})]
    assert NitroAttester(7, module).descriptors == {7}


@pytest.mark.parametrize(
    "answer",
    [{"Error": "InvalidOperation"}, {"Attestation": {}}, {"Attestation": {"document": "text"}}, {"Attestation": 1}, 5],
)
def test_an_answer_without_a_document_is_refused(answer):
    assert_refused("gave no document", NitroAttester(7, Module(cbor2.dumps(answer))).attest, CLAIMS)


def test_a_broken_answer_is_refused():
    for module in (Module(b"\xff"), Module(b"\x01", length=1 << 40)):
        with pytest.raises(Refusal, match="malformed-message"):
            NitroAttester(7, module).attest(CLAIMS)


def test_a_module_that_fails_is_named():
    assert_refused("refuses to answer", NitroAttester(7, Module(failure=errno.EIO)).attest, CLAIMS)


def test_outside_a_nitro_enclave_the_device_is_absent(tmp_path):
    assert_refused("no AWS Nitro enclave", NitroAttester.over_device, tmp_path / "nsm")
    attester = NitroAttester.over_device(Path("/dev/null"))
    (descriptor,) = attester.descriptors
    os.close(descriptor)


@pytest.mark.parametrize("name", sorted(seccomp.ARCHITECTURES))
def test_the_filter_lets_one_ioctl_through_and_only_for_who_asked(name):
    architecture = seccomp.ARCHITECTURES[name]
    program = seccomp.build_filter(architecture, NSM_IOCTL_RAW)
    for number in range(450):
        usual = verdict(seccomp.build_filter(architecture), arch=architecture.audit, number=number)
        expected = usual if number != architecture.ioctl else seccomp.REFUSE
        assert verdict(program, arch=architecture.audit, number=number) == expected
    asked = {"arch": architecture.audit, "number": architecture.ioctl}
    assert verdict(program, **asked, second=NSM_IOCTL_RAW) == seccomp.ALLOW
    assert verdict(program, **asked, second=NSM_IOCTL_RAW + 1) == seccomp.REFUSE
    assert verdict(seccomp.build_filter(architecture), **asked, second=NSM_IOCTL_RAW) == seccomp.REFUSE


# Gramine


def gramine_files(folder, kind="dcap"):
    (folder / "attestation_type").write_text(kind)
    (folder / "user_report_data").write_bytes(b"")
    (folder / "quote").write_bytes(Dcap(3, 0x00).quote(sgx_body(CLAIMS.report_data)))


def test_gramine_is_given_the_report_data_and_asked_for_a_quote(tmp_path):
    gramine_files(tmp_path)
    evidence = GramineAttester(Endorsements(collateral=b"{}"), tmp_path).attest(CLAIMS)
    assert (tmp_path / "user_report_data").read_bytes() == CLAIMS.report_data
    assert read_evidence(evidence).hardware.collateral == b"{}"
    assert assert_accepted(GramineAttester(Endorsements(), tmp_path).attest(CLAIMS)).attester == "sgx"


def test_the_quote_is_opened_after_the_report_data_were_written(tmp_path):
    """Gramine makes a quote when its file is opened."""
    gramine_files(tmp_path)
    (tmp_path / "quote").unlink()
    os.mkfifo(tmp_path / "quote")

    def make_quote():
        with (tmp_path / "quote").open("wb") as opened_by_attester:
            data = (tmp_path / "user_report_data").read_bytes()
            opened_by_attester.write(Dcap(3, 0x00).quote(sgx_body(data)))

    thread = threading.Thread(target=make_quote)
    thread.start()
    assert_accepted(GramineAttester(Endorsements(), tmp_path).attest(CLAIMS))
    thread.join()


@pytest.mark.parametrize("kind", ["none", "epid", ""])
def test_a_gramine_without_dcap_refuses_to_start(tmp_path, kind):
    gramine_files(tmp_path, kind)
    assert_refused("remote_attestation", GramineAttester, Endorsements(), tmp_path)


def test_a_gramine_that_gives_no_quote_is_named(tmp_path):
    gramine_files(tmp_path)
    attester = GramineAttester(Endorsements(), tmp_path)
    (tmp_path / "quote").unlink()
    assert_refused("gives no quote", attester.attest, CLAIMS)


# The choice, and real sealed processes


@pytest.fixture
def host(tmp_path):
    initialise_host_directory(tmp_path / "host", UID, UID)
    return EnclaveHost(tmp_path / "host", UID, UID, timeout_seconds=60.0)


@pytest.mark.parametrize(
    ("attester", "because"), [("tsm", "no configfs-tsm"), ("nitro", "/dev/nsm"), ("gramine", "/dev/attestation")]
)
def test_a_sealed_process_refuses_to_start_where_its_platform_is_absent(host, attester, because):
    host = EnclaveHost(host.directory, UID, UID, timeout_seconds=60.0, attester=attester)
    policy = screened()
    with pytest.raises(Refusal) as caught:
        prepare_round(host, round_id=ROUND, federation_id=FEDERATION, policy=policy, nonce=b"n" * 32)
    assert caught.value.code == "enclave-failed"
    assert because in caught.value.detail


def test_no_platform_falls_back_to_another(host):
    with HostDirectory(host.directory) as directory:
        for name in set(ATTESTERS) - {"software"}:
            assert_refused("", open_attester, name, directory, UID, UID)
        assert open_attester("software", directory, UID, UID).descriptors == set()


def test_what_an_operator_lays_beside_the_evidence_is_read_whole_or_not_at_all(host):
    folder = host.directory / "endorsements"
    folder.mkdir()
    with HostDirectory(host.directory) as directory:
        assert directory.endorsements() == Endorsements()
        (folder / "collateral.json").write_text("{}")
        (folder / "leaf.der").write_bytes(b"leaf")
        assert_refused("or none", directory.endorsements)
        (folder / "intermediate.der").write_bytes(b"middle")
        (folder / "root.der").write_bytes(b"root")
        assert directory.endorsements() == Endorsements((b"leaf", b"middle", b"root"), b"{}")
        (folder / "root.der").write_bytes(bytes(9000))
        assert_refused("longer than 8192", directory.endorsements)
        (folder / "root.der").unlink()
        (folder / "root.der").symlink_to(folder / "leaf.der")
        assert_refused("cannot read", directory.endorsements)


def sealed(kind, directory):
    command = [sys.executable, "-m", "tests.enclave_core.sealed_attester", kind, str(directory)]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2], env=environment)


def outcome(process):
    output, _ = process.communicate(timeout=60)
    sealing, _, answer = output.partition(b"\n")
    if sealing.startswith(b"False"):
        pytest.skip("this kernel gives no seccomp")
    assert sealing == b"True Operation not permitted"
    return answer


def test_a_sealed_process_gets_a_report_over_what_it_opened_before(tmp_path):
    process = sealed("tsm", tmp_path)
    while not (pipes := list(tmp_path.glob("qflare-*/outblob"))):
        time.sleep(0.01)
    entry = pipes[0].parent
    with (entry / "inblob").open("rb", buffering=0) as inblob:
        data = inblob.read(64)  # it comes when the process is sealed and has its claims
    (entry / "generation").write_text("2\n")
    (entry / "outblob").write_bytes(Dcap(4, 0x81).quote(tdx_body(data)))
    evidence = outcome(process)
    claims = read_evidence(evidence).claims
    assert claims.report_data == data
    pins = frozenset({PlatformPin.parse(PINS["tdx"])})
    policy = AppraisalPolicy(frozenset(), frozenset({claims.measurement}), pins, vendor_roots=ROOTS)
    assert appraise(evidence, policy, round_id=ROUND, federation_id=FEDERATION, now=NOW).attester == "tdx"


def test_a_sealed_process_reaches_its_modules_ioctl_and_no_other():
    """/dev/null knows no such ioctl: the answer comes from the device, not from the filter."""
    assert b"Inappropriate ioctl for device" in outcome(sealed("nitro", "/"))


def test_a_sealed_process_cannot_open_gramines_files_under_another_kernel(tmp_path):
    gramine_files(tmp_path)
    assert outcome(sealed("gramine", tmp_path)) == b"Gramine gives no quote (Operation not permitted)."
