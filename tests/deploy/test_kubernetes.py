"""The manifests: valid, sparing with rights, and true to what the service does."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest

from service.host import _config
from service.metrics import Metrics
from service.settings import Settings
from tests.deploy.manifests import KUBERNETES, OVERLAYS, SERVING, Resource, pod, resources, the
from tests.deploy.names import routes

ALL = (*SERVING, "backfill", "monitoring")
RELEASES = ("1.32", "1.37")  # the oldest and the newest that we say we run on
OF_OTHERS = {"ServiceMonitor"}  # kinds that Kubernetes' own schemas do not know


def _environment(found: list[Resource]) -> dict[str, Any]:
    """Every variable of the container, by the ConfigMap or by itself."""
    (container,) = pod(found)["spec"]["containers"]
    maps = [resource for resource in found if resource["kind"] == "ConfigMap"]
    environment = {name: value for each in maps for name, value in each["data"].items()}
    return environment | {each["name"]: each.get("value") for each in container.get("env", [])}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("folder", ALL)
def test_valid(folder: str, release: str) -> None:
    """Every resource is what its schema asks for, and has no field that the schema lacks."""
    known = [each for each in resources(folder) if each["kind"] not in OF_OTHERS]
    assert known
    for resource in known:
        kubernetes_validate.validate(resource, release, strict=True)


@pytest.mark.parametrize("folder", [*SERVING, "backfill"])
def test_no_rights(folder: str) -> None:
    """No root, no capability, no token, nothing to write to but a bounded temporary folder."""
    spec = pod(resources(folder))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        assert mount.get("readOnly") or volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("folder", [*SERVING, "backfill"])
def test_service_links_are_off(folder: str) -> None:
    """Else a Service called marmot would set MARMOT_PORT to tcp://…, which is no port."""
    assert pod(resources(folder))["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("folder", [*OVERLAYS, "backfill"])
def test_settings_exist(folder: str) -> None:
    """Each MARMOT_… is a setting and each value one that the setting takes."""
    environment = _environment(resources(folder))
    known = {f"MARMOT_{name.upper()}" for name in Settings.model_fields}
    named = {name for name in environment if name.startswith("MARMOT_")}
    assert named <= known
    Settings(
        **{
            name.removeprefix("MARMOT_").lower(): environment[name]
            for name in named
            if environment[name] is not None
        }
    )


@pytest.mark.parametrize("folder", OVERLAYS)
def test_resources(folder: str) -> None:
    """Requests are limits, and CPUs whole: engines count their threads by the limit."""
    (container,) = pod(resources(folder))["spec"]["containers"]
    wanted = container["resources"]
    assert wanted["requests"] == wanted["limits"]
    assert wanted["limits"]["cpu"].isdigit()
    assert "memory" in wanted["limits"]
    assert ("nvidia.com/gpu" in wanted["limits"]) == (folder == "overlays/gpu")


def test_probes_areroutes() -> None:
    """Starting and readiness ask for warmth, liveness for breath; each on the container's port."""
    (container,) = pod(resources("base"))["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness")}
    liveness = container["livenessProbe"]["httpGet"]
    assert {get["path"] for get in probes.values()} == {"/health/ready"}
    assert liveness["path"] == "/health/live"
    assert {get["port"] for get in (*probes.values(), liveness)} <= ports
    assert {"/health/ready", "/health/live", "/metrics"} <= routes()


def test_time_to_end() -> None:
    """The grace period holds the pause before SIGTERM, the drain, and what is in flight."""
    spec = pod(resources("base"))["spec"]
    pause_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    settings = Settings()
    finish_s = _config(None, settings).timeout_graceful_shutdown
    assert spec["terminationGracePeriodSeconds"] > pause_s + settings.drain_s + finish_s


@pytest.mark.parametrize("folder", SERVING)
def test_one_port(folder: str) -> None:
    """What the service listens on, the container names, the Service finds, the policy lets in."""
    found = resources(folder)
    (port,) = pod(found)["spec"]["containers"][0]["ports"]
    (service_port,) = the("Service", found)["spec"]["ports"]
    assert service_port["targetPort"] == port["name"]
    (rule,) = the("NetworkPolicy", found)["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["containerPort"]}]
    if folder != "base":
        assert _environment(found)["MARMOT_PORT"] == str(port["containerPort"])


@pytest.mark.parametrize("folder", SERVING)
def test_selectors(folder: str) -> None:
    """Service, budget and spread select the replicas; the policy selects the backfill as well."""
    found = resources(folder)
    labels = pod(found)["metadata"]["labels"].items()
    deployment = the("Deployment", found)["spec"]
    selectors = [
        deployment["selector"]["matchLabels"],
        the("Service", found)["spec"]["selector"],
        the("PodDisruptionBudget", found)["spec"]["selector"]["matchLabels"],
        *(
            each["labelSelector"]["matchLabels"]
            for each in pod(found)["spec"]["topologySpreadConstraints"]
        ),
    ]
    job = pod([_backfill()])["metadata"]["labels"].items()
    for selector in selectors:
        assert selector.items() <= labels
        assert not selector.items() <= job
    policy = the("NetworkPolicy", found)["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= labels
    assert policy.items() <= job


@pytest.mark.parametrize("folder", SERVING)
def test_scales_on_what_is_in_flight(folder: str) -> None:
    """The autoscaler has a metric that the service really reports, CPU beside it, and a spare."""
    found = resources(folder)
    scaler = the("HorizontalPodAutoscaler", found)["spec"]
    assert [each["type"] for each in scaler["metrics"]] == ["Pods", "Resource"]
    name = scaler["metrics"][0]["pods"]["metric"]["name"]
    assert f"# TYPE {name} gauge" in Metrics().render().decode()
    assert scaler["minReplicas"] >= 2
    assert "replicas" not in the("Deployment", found)["spec"]
    assert the("Deployment", found)["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_monitor() -> None:
    """The ServiceMonitor finds the Service by its labels and asks the right path of its port."""
    service = the("Service", resources("overlays/cpu"))
    monitor = the("ServiceMonitor", resources("monitoring"))
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] in routes()


def test_no_secret_is_kept_here() -> None:
    """Secrets are named and never written."""
    for file in KUBERNETES.rglob("*.yaml"):
        assert not re.search(r"^kind: Secret|redis://\S+@", file.read_text(), re.MULTILINE), file


def _backfill() -> Resource:
    return the("Job", resources("backfill"))
