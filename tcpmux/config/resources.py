"""Resources of Kubernetes, as they stand in files: documents with apiVersion and kind."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tcpmux.config.address import Endpoint, parse_endpoint
from tcpmux.config.document import Document
from tcpmux.config.model import Attachment, Route
from tcpmux.config.other_kinds import KINDS as OTHER_KINDS
from tcpmux.config.other_kinds import what_it_does
from tcpmux.config.problems import Location, Problem, describe, one_line
from tcpmux.config.remarks import CHANGES, HARMLESS, MAPPED, Changes, Harmless, Remark, remark_of
from tcpmux.errors import printable
from tcpmux.nearest import did_you_mean

CORE, DISCOVERY = "", "discovery.k8s.io"
ISTIO, GATEWAY_API = "networking.istio.io", "gateway.networking.k8s.io"
ARGO, FLAGGER = "argoproj.io", "flagger.app"
VERSIONS = {
    ISTIO: ("v1", "v1beta1", "v1alpha3"),
    GATEWAY_API: ("v1", "v1beta1", "v1alpha2", "v1alpha3"),
    ARGO: ("v1alpha1",),
    FLAGGER: ("v1beta1",),
}
KINDS = {
    ISTIO: (
        "Gateway",
        "VirtualService",
        "DestinationRule",
        "ServiceEntry",
        "WorkloadEntry",
    ),
    GATEWAY_API: ("Gateway", "TCPRoute", "TLSRoute", "ReferenceGrant"),
    CORE: ("Service", "Endpoints", "Pod", "Namespace"),
    DISCOVERY: ("EndpointSlice",),
    ARGO: ("Rollout",),
    FLAGGER: ("Canary",),
}
NAMESPACE = "default"
MESH = "mesh:"  # in front of what --mesh gives, among that of --endpoint


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource. location: of it in its document, which has more than one in a List.
    has_namespace: it names its namespace, which is NAMESPACE otherwise."""

    document: Document
    location: Location
    group: str
    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str]
    value: Mapping[str, Any]
    has_namespace: bool = False

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.group, self.kind, self.namespace, self.name

    def problem(self, message: str, *inside: str | int) -> None:
        self.document.problem((*self.location, *inside), printable(message))

    def use(self) -> None:
        """A route is made of it: what it says counts."""
        self.document.used.add(self.location)

    @property
    def is_used(self) -> bool:
        return self.location in self.document.used

    def warn(self, message: str, *inside: str | int) -> None:
        """What a reader should know, though it does no harm."""
        self._remark(Remark((*self.location, *inside), HARMLESS, printable(message), told=True))

    def harmless(self, note: str, *inside: str | int) -> None:
        self._remark(Remark((*self.location, *inside), HARMLESS, printable(note)))

    def mapped(self, note: str, *inside: str | int, told: bool = False) -> None:
        """note: how tcpmux differs a little."""
        self._remark(Remark((*self.location, *inside), MAPPED, printable(note), told=told))

    def changes(self, note: str, *inside: str | int, needs: str = "") -> None:
        """Connections are treated otherwise than the file asks for."""
        place = (*self.location, *inside)
        self._remark(Remark(place, CHANGES, printable(note), needs, told=True))

    def beside(self, note: str, *inside: str | int, needs: str) -> None:
        """It is about connections that tcpmux does not serve, such as those of HTTP."""
        place = (*self.location, *inside)
        self._remark(Remark(place, HARMLESS, printable(note), needs, told=True))

    def refuse(self, note: str, *inside: str | int, needs: str = "") -> None:
        """As changes(), and connections would go elsewhere: nobody runs that unasked."""
        place = (*self.location, *inside)
        self._remark(Remark(place, CHANGES, printable(note), needs, told=True, refused=True))

    def mark(self, mark: Changes | Harmless, *inside: str | int) -> None:
        """What is said of a field of its model."""
        self.document.remarks.add(remark_of(mark, (*self.location, *inside), self.location))

    def _remark(self, remark: Remark) -> None:
        self.document.remarks.add(remark)

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
    known = KINDS.get(group, ())
    if kind not in known:
        hint = did_you_mean(kind, known, 0.8)
        if hint and (group, kind) not in OTHER_KINDS:
            document.problem((*location, "kind"), f"unknown kind {one_line(kind)}: {hint}")
        else:
            document.remarks.add(remark_of(what_it_does(group, kind, value), location))
        return
    if version not in VERSIONS.get(group, (version,)):
        expected = ", ".join(VERSIONS[group])
        document.problem(
            (*location, "apiVersion"), f"expected {group}/ and {expected}, got {one_line(version)}"
        )
        return
    resource = _resource(document, location, value)
    if resource is not None:
        yield resource


def _resource(document: Document, location: Location, value: dict[str, Any]) -> Resource | None:
    metadata = value.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name, namespace = metadata.get("name"), metadata.get("namespace", NAMESPACE)
    if not isinstance(name, str) or not name or not isinstance(namespace, str):
        document.problem((*location, "metadata"), "expected a name and, optionally, a namespace")
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
        "namespace" in metadata,
    )


def known_names(known: Iterable[tuple[str, str]], namespace: str) -> str:
    """For a message: resources by namespace and name, as seen from a namespace."""
    names = [name if of == namespace else f"{of}/{name}" for of, name in known]
    return ", ".join(names) or "none"


def latest(resources: Sequence[Resource]) -> list[Resource]:
    """Without those that a later one of the same name replaces, as with `kubectl apply`."""
    found: dict[tuple[str, str, str, str], Resource] = {}
    for resource in resources:
        before = found.get(resource.key)
        if before is not None:
            resource.mapped(f"replaces {before}", told=True)
            before.harmless(f"{resource} replaces it")
        found[resource.key] = resource
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Made:
    """A route, and what it is made of. tail: of its name, if it is not the only one of that."""

    route: Route
    resource: Resource
    tail: str = ""


@dataclass(slots=True)
class Translation:
    """routes: each with the resource it is made of. attachments: what became of the parents of
    TCPRoutes and TLSRoutes."""

    routes: list[tuple[Route, Resource]] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)


@dataclass(slots=True)
class Given:
    """Endpoints from the command line: HOST=ENDPOINT and HOST/SUBSET=ENDPOINT. mesh: addresses to
    listen on for clients of a host, "" = of any, as in `mesh:ADDRESS` and `mesh:HOST=ADDRESS`."""

    mesh: dict[str, str] = field(default_factory=dict)
    used_mesh: set[str] = field(default_factory=set)
    endpoints: dict[tuple[str, str], list[Endpoint]] = field(default_factory=dict)
    mentioned: set[tuple[str, str]] = field(default_factory=set)
    used: dict[tuple[str, str], set[str]] = field(default_factory=dict)  # by which hosts

    @classmethod
    def parse(cls, texts: Sequence[str], problems: list[Problem]) -> Given:
        given = cls()
        for text in texts:
            if text.startswith(MESH):
                given._add_mesh(text.removeprefix(MESH), problems)
                continue
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

    def _add_mesh(self, text: str, problems: list[Problem]) -> None:
        host, _, address = text.rpartition("=")
        try:
            ip = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            message = f"expected ADDRESS or HOST=ADDRESS with an IP address, got {describe(text)}"
            problems.append(Problem("--mesh", 0, 0, "", message))
            return
        self.mesh[host] = f"[{ip}]" if ip.version == 6 else str(ip)

    def of(self, names: Sequence[str], host: str, subset: str = "") -> list[Endpoint] | None:
        """Those of a host that goes by any of these names; None if none are given."""
        for name in names:
            found = self.endpoints.get((name, subset))
            if found is not None:
                self.used.setdefault((name, subset), set()).add(host)
                return found
        return None

    def mention(self, names: Sequence[str], subset: str = "") -> None:
        """The files speak of a host of these names: what is given for it may be needed later."""
        self.mentioned.update((name, subset) for name in names)

    def complain(self, problems: list[Problem]) -> None:
        """Of what was given in vain, or for two."""
        for host in sorted(self.mesh.keys() - self.used_mesh):
            if not host and self.used_mesh:
                continue  # each of them has an address of its own
            what = f"of {one_line(host)} " if host else ""
            message = f"no VirtualService {what}applies to sidecars"
            problems.append(Problem("--mesh", 0, 0, "", message))
        for (host, _), users in sorted(self.used.items()):
            if len(users) > 1:
                known = sorted(users)
                message = f"it matches {' and '.join(known)}: name one, as in {known[0]}=..."
                problems.append(Problem(f"--endpoint {one_line(host)}", 0, 0, "", message))
        for host, subset in sorted(self.endpoints.keys() - self.used.keys() - self.mentioned):
            target = one_line(f"{host}/{subset}" if subset else host)
            message = "the files do not mention that host"
            if any(host == other for other, _ in (*self.used, *self.mentioned)):
                message = f"no DestinationRule defines that subset of {one_line(host)}"
            problems.append(Problem(f"--endpoint {target}", 0, 0, "", message))
