"""configs/kubernetes: what the manifests say agrees with each other, with the configuration in them
and with the code."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tcpmux.cli.app import cli
from tcpmux.config import Config, load
from tcpmux.control.access import Rules, authorize
from tcpmux.control.head import Head, Refused
from tcpmux.control.operation import Role
from tcpmux.control.operations import OPERATIONS

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "configs/kubernetes/tcpmux.yaml"
API_VERSIONS = {
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "PodDisruptionBudget": "policy/v1",
    "Service": "v1",
}
Object = dict[str, Any]


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    return list(yaml.safe_load_all(MANIFESTS.read_text()))


def one(objects: list[Object], kind: str, name: str = "tcpmux") -> Object:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


@pytest.fixture
def pod(objects: list[Object]) -> Object:
    found: Object = one(objects, "Deployment")["spec"]["template"]["spec"]
    return found


@pytest.fixture
def container(pod: Object) -> Object:
    (found,) = pod["containers"]
    return dict(found)


@pytest.fixture
def config(objects: list[Object], tmp_path: Path) -> Config:
    """Of the ConfigMap, as an instance reads it."""
    path = tmp_path / "routes.yaml"
    path.write_text(one(objects, "ConfigMap")["data"]["routes.yaml"])
    return load([str(path)])


def test_each_object_is_of_a_version_that_clusters_serve(objects: list[Object]) -> None:
    for found in objects:
        assert found["apiVersion"] == API_VERSIONS[found["kind"]]
    kinds = [found["kind"] for found in objects]
    assert set(kinds) == set(API_VERSIONS)
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(set(names)) == len(names)


def test_selectors_find_the_pods(objects: list[Object]) -> None:
    labels = one(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    for found in objects:
        selector = found.get("spec", {}).get("selector", labels)
        assert selector.get("matchLabels", selector) == labels, found["kind"]


def test_the_ports_are_those_that_tcpmux_listens_on(
    objects: list[Object], container: Object, config: Config
) -> None:
    """The container's, by name, are those of the routes and of admin.http; services lead there."""
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    listened = {route.name: route.listen[0].port for route in config.routes}
    assert config.admin.http is not None
    assert ports == {**listened, "admin": config.admin.http.port}
    for service in (found for found in objects if found["kind"] == "Service"):
        for port in service["spec"]["ports"]:
            assert port["port"] == ports[port["targetPort"]]
            assert port["protocol"] == "TCP"
    for address in (config.admin.http, *(route.listen[0] for route in config.routes)):
        assert address.host == "0.0.0.0", "a pod is reached by its own address"


def test_the_command_line_names_the_file_of_the_config_map(
    objects: list[Object], container: Object
) -> None:
    ctx = cli.make_context("tcpmux", list(container["args"]))
    (path,) = ctx.params["config"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    name = Path(path).relative_to(mounts["config"]["mountPath"])
    assert str(name) in one(objects, "ConfigMap")["data"]
    assert "subPath" not in mounts["config"], "it would never be brought up to date"


def test_volumes_are_there_and_read_only(pod: Object, container: Object, config: Config) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    assert all(mount["readOnly"] for mount in mounts.values())
    assert config.admin.token_file == f"{mounts['token']['mountPath']}/token"
    # Root's, and given to the group that the container runs as: tests/unit/test_token.py.
    assert volumes["token"]["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


def test_it_runs_with_no_rights_at_all(pod: Object, container: Object) -> None:
    """What the Pod Security Standard "restricted" asks for, and a read-only root file system."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    ports = [port["containerPort"] for port in container["ports"]]
    assert min(ports) >= 1024, "below, it would need NET_BIND_SERVICE"


def test_probes_ask_what_is_answered(container: Object) -> None:
    """On the admin port; a pod that drains is not ready, but alive."""
    probes = {name: found["httpGet"] for name, found in container.items() if "Probe" in name}
    assert probes == {
        "livenessProbe": {"path": "/healthz", "port": "admin"},
        "readinessProbe": {"path": "/readyz", "port": "admin"},
        "startupProbe": {"path": "/healthz", "port": "admin"},
    }


def test_probes_need_no_token(container: Object, config: Config) -> None:
    """The kubelet has none, and asks for the address of the pod; nothing else is told to it."""
    assert config.admin.http is not None
    rules = Rules(frozenset(), str(config.admin.http), config.admin.hosts, token=b"x" * 32)
    kubelet = SimpleNamespace(family=socket.AF_INET, getpeername=lambda: ("10.1.2.1", 4242))
    host = {"host": f"10.1.2.3:{config.admin.http.port}"}
    served = {row.path for row in OPERATIONS if row.method == "GET"}
    paths = {probe["httpGet"]["path"] for name, probe in container.items() if "Probe" in name}
    assert paths <= served
    for path in paths:
        assert authorize(Head("GET", path, 1, host), kubelet, rules).role is Role.ANYONE
    for path in served - paths:
        with pytest.raises(Refused, match="token"):
            authorize(Head("GET", path, 1, host), kubelet, rules)


def test_a_pod_has_the_time_to_drain(pod: Object, container: Object, config: Config) -> None:
    """The kubelet kills it after the grace period, which the pause before the drain counts for."""
    pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert pause[0] == "sleep"
    needed = int(pause[1]) + config.drain_timeout
    assert pod["terminationGracePeriodSeconds"] > needed


def test_an_update_takes_no_pod_away_before_another_is_ready(objects: list[Object]) -> None:
    deployment = one(objects, "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert deployment["replicas"] > one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"]


def test_comments_name_commands_that_there_are() -> None:
    names = re.findall(r"-- tcpmux (\w+)", MANIFESTS.read_text())
    assert names
    assert set(names) <= set(cli.commands)
