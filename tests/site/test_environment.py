"""The environment: defaults, files, and mistakes reported together."""

import re
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from enclave.core.attesters.choice import ATTESTERS
from qflare_site import environment
from qflare_site.environment import DEFAULTS, read_environment
from training.blob_store.location import S3Location, parse_location

ROOT = Path(__file__).resolve().parents[2]
URLS = {"DATABASE_URL": "postgres://alice@db/qflare", "REDIS_URL": "redis://cache/0"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in DEFAULTS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


def test_an_empty_environment_gives_the_defaults():
    assert read_environment() == DEFAULTS


def test_all_bad_variables_are_reported_in_one_error(monkeypatch):
    monkeypatch.setenv("DEBUG", "perhaps")
    monkeypatch.setenv("QFLARE_RATE_ENROLMENT", "often")
    monkeypatch.setenv("QFLARE_TRUSTED_PROXIES", "10.0.0.0/8,the-proxy")
    monkeypatch.setenv("QFLARE_LOG_LEVEL", "LOUD")
    with pytest.raises(ImproperlyConfigured) as refusal:
        read_environment()
    for name in ("DEBUG", "QFLARE_RATE_ENROLMENT", "QFLARE_TRUSTED_PROXIES", "QFLARE_LOG_LEVEL"):
        assert f"  {name}: " in str(refusal.value)


def test_an_error_does_not_repeat_a_value_that_may_be_secret(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "mysql://alice:hunter2@db/qflare")
    with pytest.raises(ImproperlyConfigured) as refusal:
        read_environment()
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("present", URLS)
def test_the_services_profile_needs_both_urls(monkeypatch, present):
    (absent,) = set(URLS) - {present}
    monkeypatch.setenv(present, URLS[present])
    with pytest.raises(ImproperlyConfigured, match=f"  {absent}: "):
        read_environment()


def test_the_services_profile_needs_a_secret_key(monkeypatch):
    for name, url in URLS.items():
        monkeypatch.setenv(name, url)
    with pytest.raises(ImproperlyConfigured, match="SECRET_KEY"):
        read_environment()


def test_a_secret_can_come_from_a_file(monkeypatch, tmp_path):
    (tmp_path / "key").write_text("from-a-file\n")
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "key"))
    assert read_environment()["SECRET_KEY"] == "from-a-file"


def test_an_unreadable_secret_file_is_reported_with_the_other_mistakes(monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET_KEY_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("DEBUG", "perhaps")
    with pytest.raises(ImproperlyConfigured, match="(?s)DEBUG.*SECRET_KEY"):
        read_environment()


def test_lists_and_flags_are_parsed(monkeypatch):
    monkeypatch.setenv("ALLOWED_HOSTS", "qflare.example,10.1.2.3")
    monkeypatch.setenv("QFLARE_INSECURE_HTTP", "1")
    values = read_environment()
    assert values["ALLOWED_HOSTS"] == ["qflare.example", "10.1.2.3"]
    assert values["QFLARE_INSECURE_HTTP"] is True


@pytest.mark.parametrize("rate", ["0/m", "5", "5/w", "-1/m", "5/m5", ""])
def test_a_rate_that_says_nothing_is_refused(monkeypatch, rate):
    monkeypatch.setenv("QFLARE_RATE_DOWNLOAD", rate)
    with pytest.raises(ImproperlyConfigured, match="QFLARE_RATE_DOWNLOAD"):
        read_environment()


@pytest.mark.parametrize(
    "url",
    ["blobs", "file://blobs", "s3://", "s3://key:secret@bucket", "s3://bucket/../up", "s3://bucket/a b",
     "s3://bucket?secret=x", "s3://bucket?endpoint=minio:9000", "s3://bucket?addressing=dns", "s3://bucket#x"],
)  # fmt: skip
def test_blobs_live_in_an_absolute_folder_or_a_bucket(monkeypatch, url):
    monkeypatch.setenv("BLOB_URL", url)
    with pytest.raises(ImproperlyConfigured, match="BLOB_URL"):
        read_environment()


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://models", S3Location("models")),
        ("s3://models/site/a?region=eu-central-1", S3Location("models", "site/a", region="eu-central-1")),
        ("s3://models?endpoint=https://minio:9000", S3Location("models", "", "https://minio:9000", None, "path")),
    ],
)
def test_a_bucket_is_named_by_a_url(monkeypatch, url, location):
    monkeypatch.setenv("BLOB_URL", url)
    assert parse_location(read_environment()["BLOB_URL"]) == location


def test_nginx_cannot_send_what_lies_in_a_bucket(monkeypatch):
    monkeypatch.setenv("BLOB_URL", "s3://models")
    monkeypatch.setenv("QFLARE_BLOB_ACCEL", "/internal-blobs/")
    with pytest.raises(ImproperlyConfigured, match="QFLARE_BLOB_ACCEL"):
        read_environment()


def test_the_example_file_documents_every_variable_and_no_other():
    documented = re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
    assert sorted(documented) == sorted(DEFAULTS)


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many"])
def test_a_number_that_is_not_a_positive_whole_one_is_refused(monkeypatch, number):
    monkeypatch.setenv("QFLARE_LEASE_SECONDS", number)
    with pytest.raises(ImproperlyConfigured, match="QFLARE_LEASE_SECONDS"):
        read_environment()


@pytest.mark.parametrize("number", ["0", "-300", "1000001", "0.5", "often", ""])
def test_a_rate_of_asks_that_is_no_number_of_devices_is_refused(monkeypatch, number):
    monkeypatch.setenv("QFLARE_ASKS_PER_SECOND", number)
    with pytest.raises(ImproperlyConfigured, match="  QFLARE_ASKS_PER_SECOND: ."):
        read_environment()


def test_an_attester_and_its_platforms_are_read(monkeypatch):
    pins = ["sgx/MRENCLAVE=" + "ab" * 32, "sev-snp/MEASUREMENT=" + "cd" * 48 + "/min-snp=23"]
    monkeypatch.setenv("QFLARE_ENCLAVE_ATTESTER", "tsm")
    monkeypatch.setenv("QFLARE_ENCLAVE_PLATFORMS", ",".join(pins))
    values = read_environment()
    assert (values["QFLARE_ENCLAVE_ATTESTER"], values["QFLARE_ENCLAVE_PLATFORMS"]) == ("tsm", pins)


@pytest.mark.parametrize(
    ("name", "value"),
    [("QFLARE_ENCLAVE_ATTESTER", "sgx"), ("QFLARE_ENCLAVE_PLATFORMS", "tdx/MRTD=" + "ab" * 48)],
)
def test_an_unknown_attester_or_half_a_pin_is_a_mistake(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured, match=name):
        read_environment()


def test_the_attesters_of_the_setting_are_those_of_the_sealed_process():
    assert set(environment._ATTESTERS) == set(ATTESTERS)
