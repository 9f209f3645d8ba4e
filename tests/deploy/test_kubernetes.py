"""The manifests are what Kubernetes takes, and agree with the image, the server and one another."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from holdfast.app import LAST_ANSWERS_SECONDS
from holdfast.working import LAST_SECONDS
from tests.deploy.test_image import NOT_ROOT
from tests.support.server import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="make test installs what looks at deploy/")

MANIFESTS = ROOT / "deploy" / "kubernetes"
VARIANTS = ("split", "all-in-one", "keda")
KEDA = {
    "TriggerAuthentication": {"secretTargetRef"},
    "ScaledObject": {
        "scaleTargetRef",
        "pollingInterval",
        "cooldownPeriod",
        "minReplicaCount",
        "maxReplicaCount",
        "advanced",
        "triggers",
    },
}
"""Fields of KEDA's own kinds, by hand from its documentation: their schemas come with KEDA."""

Documents = list[dict[str, Any]]


@pytest.fixture(scope="module", params=VARIANTS)
def documents(request: pytest.FixtureRequest) -> Documents:
    """What `kubectl apply --kustomize` would send."""
    if not shutil.which("kubectl"):
        pytest.skip("there is no kubectl on this machine")
    command = ["kubectl", "kustomize", str(MANIFESTS / request.param)]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, check=True, text=True).stdout))


def of_kind(documents: Documents, kind: str) -> dict[str, dict[str, Any]]:
    return {found["metadata"]["name"]: found for found in documents if found["kind"] == kind}


def pods(documents: Documents) -> dict[str, dict[str, Any]]:
    """The pod templates of deployments and jobs, by their names."""
    return {
        name: found["spec"]["template"]
        for kind in ("Deployment", "Job")
        for name, found in of_kind(documents, kind).items()
    }


def selected(documents: Documents, labels: dict[str, str]) -> set[str]:
    return {name for name, pod in pods(documents).items() if labels.items() <= pod["metadata"]["labels"].items()}


def environment(documents: Documents, container: dict[str, Any]) -> dict[str, str]:
    """What a container is given but for secrets."""
    config = of_kind(documents, "ConfigMap")["holdfast"]["data"]
    return {**config, **{each["name"]: each["value"] for each in container.get("env", ())}}


@pytest.mark.parametrize("version", ["1.30", "1.34"])
def test_every_document_is_valid_by_the_schema_of_its_kind(documents: Documents, version: str) -> None:
    for document in documents:
        if document["apiVersion"].startswith("keda.sh/"):
            assert document["spec"].keys() <= KEDA[document["kind"]]
        else:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_example_of_the_secret_is_valid_and_is_not_applied(documents: Documents) -> None:
    example = yaml.safe_load((MANIFESTS / "common" / "secret.example.yaml").read_text())
    kubernetes_validate.validate(example, "1.34", strict=True)
    assert {"DATABASE_URL", "HOLDFAST_API_KEYS"} <= example["stringData"].keys()
    assert of_kind(documents, "Secret") == {}
    names = [source["secretRef"]["name"] for source in _sources(documents) if "secretRef" in source]
    assert set(names) == {example["metadata"]["name"]}


def _sources(documents: Documents) -> Documents:
    return [
        source
        for pod in pods(documents).values()
        for container in pod["spec"]["containers"]
        for source in container["envFrom"]
    ]


def test_every_pod_is_one_that_a_restricted_namespace_takes(documents: Documents) -> None:
    for pod in pods(documents).values():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert str(spec["securityContext"]["runAsUser"]) == NOT_ROOT
        assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            locked = container["securityContext"]
            assert (locked["allowPrivilegeEscalation"], locked["readOnlyRootFilesystem"]) == (False, True)
            assert locked["capabilities"] == {"drop": ["ALL"]}
            assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp", "/data"}


def test_who_executes_runs_has_longer_to_leave_than_its_drain(documents: Documents) -> None:
    for deployment in of_kind(documents, "Deployment").values():
        spec = deployment["spec"]["template"]["spec"]
        [container] = spec["containers"]
        pause = float(container["lifecycle"]["preStop"]["exec"]["command"][1]) if "lifecycle" in container else 0.0
        drain = float(environment(documents, container)["HOLDFAST_DRAIN_SECONDS"]) + LAST_SECONDS
        executing = 0.0 if container["args"] == ["api"] else drain
        assert spec["terminationGracePeriodSeconds"] > pause + executing + LAST_ANSWERS_SECONDS + LAST_SECONDS


def test_pods_wait_for_the_migration_and_are_asked_at_the_port_where_they_answer(documents: Documents) -> None:
    for deployment in of_kind(documents, "Deployment").values():
        spec = deployment["spec"]["template"]["spec"]
        [container], [waiting] = spec["containers"], spec["initContainers"]
        assert waiting["args"] == ["migrate", "--check"]
        [port] = container["ports"]
        answers = environment(documents, container).get("HOLDFAST_HEALTH_PORT", "2024")
        assert str(port["containerPort"]) == answers
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
        assert {name: probe["path"] for name, probe in probes.items()} == {
            "startup": "/ok",
            "liveness": "/ok",
            "readiness": "/ready",
        }
        assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert pods(documents)["holdfast-migrate"]["spec"]["containers"][0]["args"] == ["migrate"]


def test_selectors_find_what_they_are_for(documents: Documents) -> None:
    serving = selected(documents, of_kind(documents, "Service")["holdfast"]["spec"]["selector"])
    assert serving == {name for name, pod in pods(documents).items() if _args(pod) in (["api"], ["serve"])} != set()
    deployments = of_kind(documents, "Deployment")
    for name, deployment in deployments.items():
        assert selected(documents, deployment["spec"]["selector"]["matchLabels"]) == {name}
        budget = of_kind(documents, "PodDisruptionBudget")[name]
        assert selected(documents, budget["spec"]["selector"]["matchLabels"]) == {name}
    everything = of_kind(documents, "NetworkPolicy")["holdfast"]["spec"]["podSelector"]["matchLabels"]
    assert selected(documents, everything) == pods(documents).keys()


def test_one_autoscaler_moves_each_deployment(documents: Documents) -> None:
    scaled = [
        found["spec"]["scaleTargetRef"]["name"] for found in documents if "scaleTargetRef" in found.get("spec", {})
    ]
    assert sorted(scaled) == sorted(of_kind(documents, "Deployment"))


def _args(pod: dict[str, Any]) -> list[str]:
    found: list[str] = pod["spec"]["containers"][0]["args"]
    return found


def test_the_autoscaler_by_the_queue_asks_what_the_database_can_answer(database_url: str) -> None:
    files = yaml.safe_load_all(Path(MANIFESTS / "keda" / "scaledobject.yaml").read_text())
    triggers = [trigger for found in files for trigger in found["spec"].get("triggers", ())]
    [query] = [trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "postgresql"]
    with psycopg.connect(database_url) as conn:
        assert conn.execute(query).fetchall() == [(0,)]
