"""The files of a deployment agree with each other and with the tree."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from django.conf import settings

from qflare_site.environment import DEFAULTS
from qflare_site.processes import commands

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
SITE = ("migrate", "web", "worker", "audit", "enclave", "beat")


def test_every_part_is_there():
    assert set(SERVICES) == {"postgres", "redis", *SITE, "nginx", "edge", "prometheus", "grafana"}


@pytest.mark.parametrize("kind", ["secrets", "networks"])
def test_what_a_service_names_is_declared(kind):
    used = {name for service in SERVICES.values() for name in service.get(kind, [])}
    assert used == set(COMPOSE[kind])


def test_every_volume_is_declared():
    named = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_the_enclave_worker_meets_no_web_server():
    for stranger in ("web", "nginx", "edge"):
        assert not set(SERVICES["enclave"]["networks"]) & set(SERVICES[stranger]["networks"])


def test_the_enclave_host_s_folder_is_mounted_there_alone():
    mounts = [name for name, service in SERVICES.items() if any("enclave:" in v for v in service.get("volumes", []))]
    assert mounts == ["enclave"]


@pytest.mark.parametrize("name", [*SITE, "nginx", "edge"])
def test_our_containers_cannot_write_their_image_or_gain_rights(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"][0] == "no-new-privileges:true"


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"migrate", "edge"}))
def test_every_lasting_service_has_a_health_check(name):
    assert SERVICES[name]["healthcheck"]["test"]


def test_only_nginx_is_open_to_the_outside():
    opened = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(opened) == {"nginx", "grafana"}
    assert opened["grafana"] == ["127.0.0.1:3000:3000"]  # for who sits at the machine


def test_no_secret_stands_in_the_file():
    variables = {name for service in SERVICES.values() for name in service.get("environment", {})}
    assert not variables & {"SECRET_KEY", "DATABASE_URL", "REDIS_URL", "POSTGRES_PASSWORD"}


@pytest.mark.parametrize("name", SITE)
def test_every_variable_given_to_the_site_is_one_it_reads(name):
    known = set(DEFAULTS) | {f"{variable}_FILE" for variable in DEFAULTS}
    assert set(SERVICES[name]["environment"]) <= known


def test_compose_and_serve_run_the_same_queues_each_in_one_place():
    def queues(lines):
        return sorted(queue for line in lines if "-Q" in line for queue in line[line.index("-Q") + 1].split(","))

    assert queues(SERVICES[name].get("command", ()) for name in SITE) == queues(commands("127.0.0.1:8000").values())


def lines_of_ticks():
    """Return the command line of the worker of ticks of each kind of deployment."""
    kubernetes = yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "worker.yaml").read_text())
    unit = (ROOT / "deploy" / "systemd" / "qflare-worker.service").read_text()
    return {
        "serve": commands("127.0.0.1:8000")["worker"],
        "compose": SERVICES["worker"]["command"],
        "kubernetes": next(iter(kubernetes))["spec"]["template"]["spec"]["containers"][0]["command"],
        "systemd": re.search(r"^ExecStart=(.+)$", unit, re.MULTILINE)[1].split(),
    }


@pytest.mark.parametrize("place", sorted(lines_of_ticks()))
def test_ticks_have_a_process_beside_the_one_at_long_work(place):
    line = lines_of_ticks()[place]
    assert "default" in line[line.index("-Q") + 1].split(",")
    assert int(line[line.index("--concurrency") + 1]) >= 2


@pytest.mark.parametrize(
    ("role", "services"), [("web", {"web"}), ("audit", {"audit"}), ("worker", set(SITE) - {"migrate", "web", "audit"})]
)
def test_each_process_has_the_database_role_of_its_work_and_the_secret_of_no_other(role, services):
    secret = f"database_url_{role}"
    assert {name for name in SITE if secret in SERVICES[name]["secrets"]} == services
    assert {name for name in SITE if SERVICES[name]["environment"]["DATABASE_URL_FILE"].endswith(secret)} == services


def test_the_superuser_of_the_database_is_known_to_the_migration_alone():
    assert [name for name in SITE if "database_url" in SERVICES[name]["secrets"]] == ["migrate"]


@pytest.mark.parametrize("dockerfile", ["Dockerfile", "Dockerfile.edge"])
def test_an_image_copies_only_what_exists(dockerfile):
    text = (ROOT / "deploy" / dockerfile).read_text()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split()), sources


def test_the_image_of_the_server_holds_every_app_of_the_house():
    copied = set(re.findall(r"^COPY (\w+) ", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE))
    assert {app for app in settings.INSTALLED_APPS if (ROOT / app).is_dir()} <= copied
    assert "edge_client" in copied  # an evaluator is a trainer of the devices' kind


def test_the_secrets_script_makes_every_file_that_compose_names_and_keeps_what_exists(tmp_path):
    script = tmp_path / "deploy" / "make-secrets.sh"
    script.parent.mkdir()
    script.write_text((ROOT / "deploy" / "make-secrets.sh").read_text())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    files = [tmp_path / secret["file"] for secret in COMPOSE["secrets"].values()]
    before = {file: file.read_bytes() for file in files}
    assert all(before.values())
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    assert {file: file.read_bytes() for file in files} == before
    assert {file.parent.stat().st_mode & 0o777 for file in files} == {0o700}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_and_explained(name):
    reasons = (ROOT / "docs" / "dependencies.md").read_text().lower()
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith(("#", "-r")):
            requirement, _, version = line.partition("==")
            assert version, line
            assert f"| {requirement.partition('[')[0].lower()} |" in reasons, f"{requirement} has no reason"


def test_the_console_scripts_are_declared():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {
        "qflare": "operator_cli.main:main",
        "qflare-edge": "edge_client.cli:main",
        "qflare-verify": "verifier.qflare_verify:main",
    }


def test_the_continuous_integration_entry_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
