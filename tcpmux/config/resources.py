"""Resources of Kubernetes, as they stand in files: documents with apiVersion and kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tcpmux.config.address import Endpoint, parse_endpoint
from tcpmux.config.document import Document
from tcpmux.config.problems import Location, Problem, describe, one_line
from tcpmux.errors import printable
from tcpmux.nearest import did_you_mean

CORE, DISCOVERY = "", "discovery.k8s.io"
ISTIO, GATEWAY_API = "networking.istio.io", "gateway.networking.k8s.io"
VERSIONS = {
    ISTIO: ("v1", "v1beta1", "v1alpha3"),
    GATEWAY_API: ("v1", "v1beta1", "v1alpha2", "v1alpha3"),
}
KINDS = {
    ISTIO: (
        "Gateway",
        "VirtualService",
        "DestinationRule",
        "ServiceEntry",
        "WorkloadEntry",
    ),
    GATEWAY_API: ("Gateway", "TCPRoute"),
    CORE: ("Service", "Endpoints", "Pod"),
    DISCOVERY: ("EndpointSlice",),
}
NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. location: of it in its document, which has more than one in a List."""

    document: Document
    location: Location
    group: str
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    value: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.group, self.kind, self.namespace, self.name

    def problem(self, message: str, *inside: str | int) -> None:
        self.document.problem((*self.location, *inside), printable(message))

    def warn(self, message: str, *inside: str | int) -> None:
        self.document.warn((*self.location, *inside), printable(message))

    def __str__(self) -> str:
        return f"{self.kind} {self.name} at {self.document.place(self.location)}"


def resources_in(document: Document) -> Iterator[Resource]:
    """Those that are of use, lists taken apart; the rest is a warning, or a problem."""
    yield from _resources(document, document.value, ())


def _resources(document: Document, value: Any, location: Location) -> Iterator[Resource]:
    if not isinstance(value, dict) or not {"apiVersion", "kind"} <= value.keys():
        document.problem(location, "expected a resource, with apiVersion and kind")
        return
    api, kind = value["apiVersion"], value["kind"]
    if not isinstance(api, str) or not isinstance(kind, str):
        document.problem(location, "expected strings as apiVersion and kind")
        return
    group, slash, version = api.rpartition("/")
    if kind == "List" and not slash:
        items = value.get("items")
        if not isinstance(items, list):
            document.problem((*location, "items"), "expected a list")
            return
        for index, item in enumerate(items):
            yield from _resources(document, item, (*location, "items", index))
        return
    if not _is_known(document, location, group, version, kind):
        return
    resource = _resource(document, location, value)
    if resource is not None:
        yield resource


def _is_known(document: Document, location: Location, group: str, version: str, kind: str) -> bool:
    known = KINDS.get(group, ())
    shown = one_line(kind)
    if kind not in known:
        hint = did_you_mean(kind, known, 0.8)
        if hint:
            document.problem((*location, "kind"), f"unknown kind {shown}: {hint}")
        else:
            document.warn((*location, "kind"), f"{shown} is ignored")
        return False
    if version not in VERSIONS.get(group, (version,)):
        expected = ", ".join(VERSIONS[group])
        document.problem(
            (*location, "apiVersion"), f"expected {group}/ and {expected}, got {one_line(version)}"
        )
        return False
    return True


def _resource(document: Document, location: Location, value: dict[str, Any]) -> Resource | None:
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name, namespace = metadata.get("name"), metadata.get("namespace", NAMESPACE)
    if not isinstance(name, str) or not name or not isinstance(namespace, str):
        document.problem((*location, "metadata"), "expected a name, and a namespace if any")
        return None
    labels = metadata.get("labels")
    labels = labels if isinstance(labels, dict) else {}
    return Resource(
        document,
        location,
        value["apiVersion"].rpartition("/")[0],
        value["kind"],
        namespace,
        name,
        {str(key): str(label) for key, label in labels.items()},
        value,
    )


def latest(resources: Sequence[Resource]) -> list[Resource]:
    """Without those that a later one of the same name replaces, as with `kubectl apply`."""
    found: dict[tuple[str, str, str, str], Resource] = {}
    for resource in resources:
        before = found.get(resource.key)
        if before is not None:
            resource.warn(f"takes the place of {before}")
        found[resource.key] = resource
    return list(found.values())


@dataclass(slots=True)
class Given:
    """Endpoints from the command line: HOST=ENDPOINT and HOST/SUBSET=ENDPOINT."""

    endpoints: dict[tuple[str, str], list[Endpoint]] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def parse(cls, texts: Sequence[str], problems: list[Problem]) -> Given:
        given = cls()
        for text in texts:
            target, equals, address = text.partition("=")
            host, _, subset = target.partition("/")
            if not equals or not host:
                message = (
                    "expected HOST=ADDRESS or HOST/SUBSET=ADDRESS, "
                    "such as tcp-echo/v1=127.0.0.1:9001"
                )
                problems.append(Problem(f"--endpoint {one_line(text)}", 0, 0, "", message))
                continue
            try:
                endpoint = parse_endpoint(address)
            except ValueError as error:
                message = f"{error}, got {describe(address)}"
                problems.append(Problem(f"--endpoint {one_line(target)}", 0, 0, "", message))
                continue
            given.endpoints.setdefault((host, subset), []).append(endpoint)
        return given

    def of(self, hosts: Sequence[str], subset: str = "") -> list[Endpoint] | None:
        """Those of a host that goes by any of these names; None if none are given."""
        for host in hosts:
            found = self.endpoints.get((host, subset))
            if found is not None:
                self.used.add((host, subset))
                return found
        return None

    def mention(self, hosts: Sequence[str], subset: str = "") -> None:
        """The files speak of this host: what is given for it may be needed later."""
        self.used.update((host, subset) for host in hosts)

    def complain_of_unused(self, problems: list[Problem]) -> None:
        for host, subset in sorted(self.endpoints.keys() - self.used):
            target = one_line(f"{host}/{subset}" if subset else host)
            message = "nothing in the files mentions that host"
            if any(host == other for other, _ in self.used):
                message = f"no DestinationRule gives {one_line(host)} that subset"
            problems.append(Problem(f"--endpoint {target}", 0, 0, "", message))
