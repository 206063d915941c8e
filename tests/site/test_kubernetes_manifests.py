"""The Kubernetes manifests: valid, the processes of compose, and nobody with more rights than it needs."""

import json
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
RESOURCES = [
    document for name in KUSTOMIZATION["resources"] for document in yaml.safe_load_all((FOLDER / name).read_text())
]
WORKLOADS = {one["metadata"]["name"]: one for one in RESOURCES if one["kind"] in ("Deployment", "Job")}
CONFIGURATION = next(one["data"] for one in RESOURCES if one["kind"] == "ConfigMap")
PROCESSES = ("web", "worker", "audit", "enclave", "beat")
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def pod(name):
    return WORKLOADS[name]["spec"]["template"]["spec"]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_a_manifest_is_valid_to_the_last_member(resource):
    kubernetes_validate.validate(resource, "1.37", strict=True)


def test_the_kustomization_names_every_file():
    assert set(KUSTOMIZATION["resources"]) == {file.name for file in FOLDER.iterdir()} - {"kustomization.yaml"}


def test_every_process_is_a_workload_of_its_own():
    assert set(WORKLOADS) == {f"qflare-{name}" for name in (*PROCESSES, "migrate")}


@pytest.mark.parametrize("name", PROCESSES)
def test_a_process_is_started_as_in_compose(name):
    (container,) = pod(f"qflare-{name}")["containers"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    image_command = json.loads(dockerfile.rsplit("CMD ", 1)[1])
    assert container["command"] == [str(part) for part in COMPOSE[name].get("command", image_command)]


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_a_pod_has_no_rights(name):
    spec = pod(name)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def test_the_owner_of_the_database_is_known_to_the_migration_alone():
    holders = [
        name for name in WORKLOADS for volume in pod(name)["volumes"]
        if volume.get("secret", {}).get("secretName") == "qflare-database-owner"
    ]  # fmt: skip
    assert holders == ["qflare-migrate"]


def test_the_enclaves_folder_is_mounted_by_the_enclave_worker_alone():
    holders = [name for name in WORKLOADS if any(volume["name"] == "enclave" for volume in pod(name)["volumes"])]
    assert holders == ["qflare-enclave"]


@pytest.mark.parametrize("name", ["audit", "beat"])
def test_what_there_may_be_one_of_is_never_two_even_while_it_is_replaced(name):
    spec = WORKLOADS[f"qflare-{name}"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in RESOURCES if one["kind"] == "HorizontalPodAutoscaler"}
    assert f"qflare-{name}" not in scaled


def test_worker_and_enclave_scale_by_their_queues():
    asked = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["metrics"][0]["external"]["metric"]
        for one in RESOURCES
        if one["kind"] == "HorizontalPodAutoscaler" and one["metadata"]["name"] != "qflare-web"
    }
    assert {name: metric["selector"]["matchLabels"]["queue"] for name, metric in asked.items()} == {
        "qflare-worker": "default",
        "qflare-enclave": "enclave",
    }
    assert {metric["name"] for metric in asked.values()} == {"qflare_queue_messages"}


def test_the_profile_of_the_enclave_lets_it_seal_a_process_and_keeps_what_no_container_needs():
    profile = json.loads((ROOT / "deploy" / "seccomp-enclave.json").read_text())
    (denied,) = profile["syscalls"]
    needed = {"unshare", "clone", "clone3", "seccomp", "prctl", "landlock_create_ruleset", "landlock_restrict_self"}
    assert not needed & set(denied["names"])
    assert {"mount", "ptrace", "bpf", "kexec_load", "init_module", "setns"} <= set(denied["names"])
    assert pod("qflare-enclave")["securityContext"]["seccompProfile"]["type"] == "Localhost"
    assert "seccomp=deploy/seccomp-enclave.json" in COMPOSE["enclave"]["security_opt"]


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_the_kek_is_a_copy_that_only_its_owner_may_read(name, tmp_path):
    spec = pod(name)
    (container,), (copying,) = spec["containers"], spec["initContainers"]
    assert copying["securityContext"] == container["securityContext"]
    assert copying["image"] == container["image"]
    assert {"name": "own-kek", "emptyDir": {"medium": "Memory"}} in spec["volumes"]
    assert not [mount for mount in container["volumeMounts"] if mount["name"] == "kek"]
    # A KEK that a pod made for itself would be lost with it.
    assert {"name": "own-kek", "mountPath": "/run/kek", "readOnly": True} in container["volumeMounts"]
    secret, own = tmp_path / "secret", tmp_path / "own-kek"
    secret.mkdir(), own.mkdir()
    (secret / "kek").write_bytes(bytes(32))
    shell = copying["command"][2].replace("/run/secrets/qflare-kek", str(secret)).replace("/run/kek", str(own))
    for _ in range(2):  # the kubelet may run it again
        subprocess.run(["sh", "-c", shell], check=True, timeout=20)
    place = Path(CONFIGURATION["QFLARE_KEK_FILE"].replace("/run/kek", str(own)))
    assert (place.stat().st_mode & 0o777, place.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert place.read_bytes() == bytes(32)


def test_the_enclaves_folder_lies_inside_its_claim():
    (container,) = pod("qflare-enclave")["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "enclave"]
    (folder,) = [one["value"] for one in container["env"] if one["name"] == "QFLARE_ENCLAVE_DIR"]
    assert Path(folder).parent == Path(mount["mountPath"])


def test_all_enclave_workers_run_on_the_node_of_the_first():
    affinity = pod("qflare-enclave")["affinity"]["podAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = WORKLOADS["qflare-enclave"]["spec"]["template"]["metadata"]["labels"]
    assert term["labelSelector"]["matchLabels"] == labels


def test_prometheus_of_the_cluster_may_ask_the_service_by_its_name():
    assert "qflare-web.qflare.svc" in CONFIGURATION["ALLOWED_HOSTS"].split(",")
