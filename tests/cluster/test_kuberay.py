"""The manifests are what Kubernetes and KubeRay take, and as safe as the README of cluster/ says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.kuberay import cluster_of, problems, published, templates
from support.repository import KUBERAY, manifest

RAY = ("raycluster", "rayjob")
Change = Callable[[dict[str, Any]], Any]


def pod(value: dict[str, Any], of: str = "gpu") -> dict[str, Any]:
    return templates(value)[of]["spec"]


@pytest.mark.parametrize("name", KUBERAY)
def test_manifest_is_accepted(name: str) -> None:
    assert problems(manifest(name)) == []


@pytest.mark.parametrize("name", RAY)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(aipVersion="ray.io/v1"), "'aipVersion' was unexpected"),
        (lambda m: cluster_of(m).update(authOption={}), "'authOption' was unexpected"),
        (lambda m: cluster_of(m)["authOptions"].update(mode="tokens"), "'tokens' is not one of"),
        (lambda m: cluster_of(m)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "not of type 'string'"),
        (lambda m: cluster_of(m)["workerGroupSpecs"][0].pop("maxReplicas"), "'maxReplicas' is a required property"),
        (lambda m: cluster_of(m)["workerGroupSpecs"][0].update(replicas="2"), "'2' is not of type 'integer'"),
        (lambda m: pod(m).update(terminationGracePeriod=60), "gpu: .*'terminationGracePeriod' was unexpected"),
        (lambda m: pod(m, "head")["containers"][0].update(envFrom={}), "head: .*is not of type 'array'"),
        (lambda m: pod(m)["containers"][0]["securityContext"].update(privilege=False), "gpu: .*'privilege' was"),
    ],
)
def test_mistake_is_refused(name: str, change: Change, says: str) -> None:
    value = manifest(name)
    change(value)
    with pytest.raises(AssertionError, match=says):
        assert problems(value) == []


@pytest.mark.parametrize("name", RAY)
def test_manifest_holds_to_the_published_definition(name: str) -> None:
    definitions = os.environ.get("MDR_KUBERAY_CRDS")
    if not definitions:
        pytest.skip("MDR_KUBERAY_CRDS: the folder ray-operator/config/crd/bases of a KubeRay release is not named")
    assert published(manifest(name), Path(definitions)) == []
    wrong = manifest(name)
    pod(wrong)["containers"][0]["securityContext"]["privilege"] = False
    assert "'privilege' was unexpected" in published(wrong, Path(definitions))[0]


@pytest.mark.parametrize("name", RAY)
def test_every_pod_is_confined(name: str) -> None:
    for spec in (template["spec"] for template in templates(manifest(name)).values()):
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 1000
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


@pytest.mark.parametrize("name", RAY)
def test_head_asks_for_a_token_and_runs_no_worker(name: str) -> None:
    cluster = cluster_of(manifest(name))
    head = cluster["headGroupSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert head["serviceType"] == "ClusterIP"
    assert (head["rayStartParams"]["num-cpus"], head["rayStartParams"]["num-gpus"]) == ("0", "0")
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize("name", RAY)
def test_worker_group_has_gpus_scratch_and_credentials_by_name(name: str) -> None:
    value = manifest(name)
    (group,) = cluster_of(value)["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert pod(value)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for spec in (pod(value), pod(value, "head")):
        (container,) = spec["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "mdr-s3"}}]
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts.keys() >= {environment["TMPDIR"]}
        assert set(mounts.values()) == {volume["name"] for volume in spec["volumes"]}
        stop = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        assert int(stop[1]) < spec["terminationGracePeriodSeconds"]


def test_job_asks_for_the_workers_that_its_cluster_has() -> None:
    value = manifest("rayjob")
    words = value["spec"]["entrypoint"].split()
    (group,) = cluster_of(value)["workerGroupSpecs"]
    gpus = int(pod(value)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert int(words[words.index("--workers") + 1]) == group["minReplicas"] * gpus
    mounts = pod(value, "head")["containers"][0]["volumeMounts"]
    assert words[2].startswith(next(mount["mountPath"] for mount in mounts if mount["name"] == "job") + "/")


def test_clusters_of_both_manifests_are_the_same() -> None:
    def of(name: str) -> dict[str, Any]:
        cluster = cluster_of(manifest(name))
        for group in cluster["workerGroupSpecs"]:
            group.update(minReplicas=0, maxReplicas=0)
        head = cluster["headGroupSpec"]["template"]["spec"]
        head["volumes"] = [volume for volume in head["volumes"] if volume["name"] != "job"]
        mounts = head["containers"][0]["volumeMounts"]
        head["containers"][0]["volumeMounts"] = [mount for mount in mounts if mount["name"] != "job"]
        return cluster

    assert of("raycluster") == of("rayjob")


def test_policy_covers_every_pod_and_lets_in_only_them_and_the_operator() -> None:
    policy = manifest("networkpolicy")["spec"]
    ours = policy["podSelector"]["matchLabels"]
    for name in RAY:
        for template in templates(manifest(name)).values():
            assert template["metadata"]["labels"].items() >= ours.items()
    among, operator = policy["ingress"]
    assert policy["policyTypes"] == ["Ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": ours}}]}
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert all("podSelector" in peer for peer in operator["from"])
