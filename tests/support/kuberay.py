"""What is wrong with a manifest: of Kubernetes' own kinds by its schemas, of KubeRay's by the keys that are known here.

`CLUSTER` and `JOB` name the keys of KubeRay 1.7's RayCluster and RayJob that the manifests use, with their types; every
other key is refused, as by `kubectl --validate=strict`, and one that is used for the first time has to be added. The
published definitions, where a copy is at hand, check the whole: `published`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

KUBERNETES = "1.34"
TEXT, NUMBER, FLAG, POD = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}, {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def record(required: str, optional: str = "", **properties: Any) -> dict[str, Any]:
    """A schema of an object with these properties and no others."""
    names = (required.split(), optional.split())
    assert sorted([*names[0], *names[1]]) == sorted(properties)
    return {"type": "object", "required": names[0], "additionalProperties": False, "properties": properties}


def one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


HEAD = record(
    "template rayStartParams",
    "serviceType",
    template=POD,
    rayStartParams=TEXTS,
    serviceType=one_of("ClusterIP", "NodePort", "LoadBalancer"),
)
WORKERS = record(
    "groupName minReplicas maxReplicas rayStartParams template",
    "replicas",
    groupName=TEXT,
    replicas=NUMBER,
    minReplicas=NUMBER,
    maxReplicas=NUMBER,
    rayStartParams=TEXTS,
    template=POD,
)
CLUSTER = record(
    "rayVersion headGroupSpec",
    "authOptions enableInTreeAutoscaling workerGroupSpecs",
    rayVersion=TEXT,
    authOptions=record("mode", "secretName", mode=one_of("disabled", "token"), secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = record(
    "entrypoint rayClusterSpec",
    "backoffLimit shutdownAfterJobFinishes ttlSecondsAfterFinished submissionMode submitterPodTemplate",
    entrypoint=TEXT,
    rayClusterSpec=CLUSTER,
    backoffLimit=NUMBER,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=NUMBER,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"),
    submitterPodTemplate=POD,
)
SPECS = {"RayCluster": CLUSTER, "RayJob": JOB}


def problems(manifest: dict[str, Any]) -> list[str]:
    """What a cluster with KubeRay would refuse, a line each."""
    if manifest.get("apiVersion") != "ray.io/v1":
        return native(manifest)
    whole = record(
        "apiVersion kind metadata spec",
        apiVersion=TEXT,
        kind=one_of(*SPECS),
        metadata=record("name", "namespace labels", name=TEXT, namespace=TEXT, labels=TEXTS),
        spec=SPECS.get(manifest.get("kind", ""), {}),
    )
    found = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(whole).iter_errors(manifest)]
    for where, template in templates(manifest).items():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}
        found += [f"{where}: {line}" for line in native(pod)]
    return found


def native(manifest: dict[str, Any]) -> list[str]:
    """What Kubernetes would refuse of a kind of its own."""
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [error.message]
    return []


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The spec of the Ray cluster that a manifest makes."""
    return manifest["spec"].get("rayClusterSpec") or manifest["spec"]


def templates(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The templates of its pods by `head`, `submitter` and the worker groups' names."""
    cluster = cluster_of(manifest)
    found = {group["groupName"]: group["template"] for group in cluster.get("workerGroupSpecs", [])}
    if "submitterPodTemplate" in manifest["spec"]:
        found["submitter"] = manifest["spec"]["submitterPodTemplate"]
    return found | {"head": cluster["headGroupSpec"]["template"]}


def published(manifest: dict[str, Any], definitions: Path) -> list[str]:
    """What the definitions that KubeRay publishes refuse, unknown keys among it.

    `definitions` is the folder ray-operator/config/crd/bases of a KubeRay release.
    """
    path = definitions / f"ray.io_{manifest['kind'].lower()}s.yaml"
    versions = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)["spec"]["versions"]
    (schema,) = (version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    _refuse_unknown(schema)
    schema["properties"]["metadata"] = {"type": "object"}  # not described there
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(manifest)]


def _refuse_unknown(schema: Any) -> None:
    if isinstance(schema, list):
        for part in schema:
            _refuse_unknown(part)
    elif isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and "type" in schema:
            schema.setdefault("additionalProperties", False)
        for part in list(schema.values()):
            _refuse_unknown(part)
