"""Where a host of a route has its endpoints: on the command line, in resources, or in DNS."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tcpmux.config.address import Address, Endpoint, HostName, is_host_name, parse_endpoint
from tcpmux.config.istio_specs import (
    ServiceEntrySpec,
    WorkloadSpec,
)
from tcpmux.config.kubernetes_specs import (
    EndpointsModel,
    PodSpec,
    PodStatus,
    ServicePort,
    ServiceSpec,
    SliceModel,
    SlicePort,
    TargetRef,
)
from tcpmux.config.resources import CORE, DISCOVERY, ISTIO, Given, Resource
from tcpmux.config.specs import (
    Labels,
    read,
    read_whole,
)
from tcpmux.config.turns import turns, whole_turns

SERVICE_NAME = "kubernetes.io/service-name"  # label of an EndpointSlice
Key = tuple[str, str]  # namespace, name


class NoEndpoints(Exception):
    """Why a destination has none, in words for the user."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that serves. host: an IP, a name or unix:/path; ports: by name."""

    host: str
    ports: Mapping[str, int]
    labels: Labels
    weight: int = 1


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return wanted.items() <= labels.items()


def _endpoint(host: str, port: int) -> Endpoint:
    if host.startswith("unix:"):
        return Address.parse("unix:" + host.removeprefix("unix:").removeprefix("//"))
    return parse_endpoint(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _chosen(ports: Sequence[int], port: int | None, host: str) -> int:
    """The index of `port` among those of a host; of the only one if none is asked for."""
    if port is None:
        if len(ports) != 1:
            raise NoEndpoints(f"{host} has {len(ports)} ports: expected destination.port.number")
        return 0
    if port not in ports:
        known = ", ".join(map(str, ports)) or "none"
        raise NoEndpoints(f"{host} has no port {port}; there are: {known}")
    return ports.index(port)


@dataclass(slots=True)
class Hosts:
    given: Given
    services: dict[Key, tuple[Resource, ServiceSpec]] = field(default_factory=dict)
    entries: dict[str, tuple[Resource, ServiceEntrySpec]] = field(default_factory=dict)
    workloads: list[tuple[Resource, WorkloadSpec]] = field(default_factory=list)
    slices: dict[Key, list[tuple[Resource, SliceModel]]] = field(default_factory=dict)
    classic: dict[Key, tuple[Resource, EndpointsModel]] = field(default_factory=dict)
    pods: dict[Key, tuple[Resource, PodSpec, PodStatus]] = field(default_factory=dict)

    @classmethod
    def of(cls, resources: Sequence[Resource], given: Given) -> Hosts:
        hosts = cls(given)
        for resource in resources:
            hosts._add(resource)
        return hosts

    def _add(self, resource: Resource) -> None:
        key = resource.namespace, resource.name
        kind = resource.group, resource.kind
        if kind == (CORE, "Service") and (service := read(resource, ServiceSpec)):
            self.services[key] = resource, service
            self.mention(resource.name, resource.namespace)
        elif kind == (ISTIO, "ServiceEntry") and (entry := read(resource, ServiceEntrySpec)):
            for host in entry.hosts:
                self.entries[host.lower()] = resource, entry
                self.mention(host, resource.namespace)
        elif kind == (ISTIO, "WorkloadEntry") and (workload := read(resource, WorkloadSpec)):
            self.workloads.append((resource, workload))
        elif kind == (DISCOVERY, "EndpointSlice") and (slice_ := read_whole(resource, SliceModel)):
            service_name = resource.labels.get(SERVICE_NAME, resource.name)
            self.slices.setdefault((resource.namespace, service_name), []).append(
                (resource, slice_)
            )
        elif kind == (CORE, "Endpoints") and (classic := read_whole(resource, EndpointsModel)):
            self.classic[key] = resource, classic
        elif kind == (CORE, "Pod"):
            spec, status = read(resource, PodSpec), read(resource, PodStatus, "status")
            if spec and status:
                self.pods[key] = resource, spec, status

    def mention(self, host: str, namespace: str, subset: str = "") -> None:
        """A resource is about this host."""
        self.given.mention(self._aliases(host, namespace), subset)

    # --- what a route asks --------------------------------------------------------------------

    def is_known(self, host: str, namespace: str) -> bool:
        """Whether anything in the files or on the command line is about this host."""
        return (
            self.given.of(self._aliases(host, namespace), self.full_name(host, namespace))
            is not None
            or host.lower() in self.entries
            or self._service_key(host, namespace) is not None
        )

    def endpoints(
        self,
        host: str,
        namespace: str,
        port: int | None,
        subset: str = "",
        labels: Mapping[str, str] | None = None,
        *,
        in_namespace: bool = False,
    ) -> tuple[Endpoint, ...]:
        """Of one destination, as often as they take turns. Raises NoEndpoints.

        A host that the files say nothing of stands for its addresses in DNS. in_namespace: the
        files name the namespace, so it is part of a name in DNS.
        """
        aliases, full = self._aliases(host, namespace), self.full_name(host, namespace)
        given = self.given.of(aliases, full, subset)
        if given is not None:
            self._use_service(host, namespace)
            return tuple(given)
        labels = labels or {}
        try:
            found = [
                (_endpoint(workload.host, number), workload.weight)
                for workload, number in self._workloads(host, namespace, port)
                if has_labels(workload.labels, labels)
            ]
        except ValueError as error:
            raise NoEndpoints(f"{host}: {error}") from None
        if found:
            return self._turns(host, found)
        shown = f"{host}/{subset}" if subset else host
        hint = f"name some with --endpoint {shown}=IP:port"
        if subset:
            raise NoEndpoints(f"no endpoint of {host} in the files is in subset {subset}: {hint}")
        self._use_service(host, namespace)
        name = self._dns_name(host, namespace, in_namespace)
        if port is None:
            port = self._only_port(host, namespace)
        if not is_host_name(name):
            raise NoEndpoints(f"{host} has no endpoint in the files: {hint}")
        return (HostName(name.lower(), port),)

    # --- names --------------------------------------------------------------------------------

    def _aliases(self, host: str, namespace: str) -> list[str]:
        """The names that --endpoint may have for it, the most exact one first."""
        labels = host.split(".")
        if len(labels) == 1:
            return [f"{host}.{namespace}.svc.cluster.local", f"{host}.{namespace}", host]
        if self._service_key(host, namespace) or ".svc" in host:
            return [host, ".".join(labels[:2]), labels[0]]
        return [host]

    def full_name(self, host: str, namespace: str) -> str:
        """A name that it shares with no other."""
        labels = host.lower().split(".")
        if host == "*":
            return host
        if len(labels) == 1:
            return f"{labels[0]}.{namespace}"
        is_service = ".".join(labels[2:]) in ("svc", "svc.cluster.local")
        return ".".join(labels[:2]) if is_service else host.lower()

    def _use_service(self, host: str, namespace: str) -> None:
        key = self._service_key(host, namespace)
        if host.lower() in self.entries:
            self.entries[host.lower()][0].use()
        elif key is not None:
            self.services[key][0].use()

    def _service_key(self, host: str, namespace: str) -> Key | None:
        labels = host.split(".")
        key = (namespace, host) if len(labels) == 1 else (labels[1], labels[0])
        tail = ".".join(labels[2:])
        if key in self.services and tail in ("", "svc", "svc.cluster.local"):
            return key
        return None

    def _dns_name(self, host: str, namespace: str, in_namespace: bool) -> str:
        key = self._service_key(host, namespace)
        if key is not None and self.services[key][1].type == "ExternalName":
            return self.services[key][1].externalName
        if "." not in host and in_namespace and host.lower() not in self.entries:
            return f"{host}.{namespace}.svc.cluster.local"
        return host

    def _only_port(self, host: str, namespace: str) -> int:
        key = self._service_key(host, namespace)
        if key is not None:
            ports = [port.port for port in self.services[key][1].ports if port.is_tcp]
        elif host.lower() in self.entries:
            ports = [port.number for port in self.entries[host.lower()][1].ports]
        else:
            raise NoEndpoints(f"which port of {host}? Expected destination.port.number")
        return ports[_chosen(ports, None, host)]

    def mesh_address(self, host: str, namespace: str) -> str | None:
        """The IP to listen on for clients of this host in a mesh; None if the user names none."""
        for name in (*self._aliases(host, namespace), ""):
            if name in self.given.mesh:
                self.given.used_mesh.add(name)
                return self.given.mesh[name]
        return None

    def ports(self, host: str, namespace: str) -> list[int] | None:
        """Those of a host on which rules for TCP hold; None if the files don't know it."""
        key = self._service_key(host, namespace)
        if host.lower() in self.entries:
            entry = self.entries[host.lower()][1]
            return [port.number for port in entry.ports if port.is_plain]
        if key is not None:
            return [port.port for port in self.services[key][1].ports if port.is_plain]
        return None

    def _turns(self, host: str, found: Sequence[tuple[Endpoint, int]]) -> tuple[Endpoint, ...]:
        """With weights that a routes file can have: rounded if need be, and that is said."""
        total: dict[Endpoint, int] = {}
        for endpoint, weight in found:
            total[endpoint] = total.get(endpoint, 0) + weight
        numbers, exact = whole_turns([*total.values()])
        if not exact and host.lower() in self.entries:
            told = " to ".join(map(str, numbers))
            self.entries[host.lower()][0].mapped(f"its weights are rounded to {told}", told=True)
        return turns([*zip(total, numbers, strict=True)])

    # --- resources ----------------------------------------------------------------------------

    def _workloads(
        self, host: str, namespace: str, port: int | None
    ) -> Iterator[tuple[Workload, int]]:
        """Each with the number of its port."""
        if host.lower() in self.entries:
            yield from self._of_entry(*self.entries[host.lower()], host, port)
            return
        key = self._service_key(host, namespace)
        if key is not None and self.services[key][1].type != "ExternalName":
            resource, service = self.services[key]
            ports = [p for p in service.ports if p.is_tcp]
            asked = ports[_chosen([p.port for p in ports], port, host)]
            resource.use()
            yield from self._of_service(key, service, asked)

    def _of_entry(
        self, resource: Resource, entry: ServiceEntrySpec, host: str, port: int | None
    ) -> Iterator[tuple[Workload, int]]:
        asked = entry.ports[_chosen([p.number for p in entry.ports], port, host)]
        resource.use()
        specs = list(entry.endpoints)
        if entry.workloadSelector is not None:
            wanted = entry.workloadSelector.labels
            for of, spec in self.workloads:
                if of.namespace == resource.namespace and has_labels(spec.labels, wanted):
                    of.use()
                    specs.append(spec)
            for pod, _, status in self._pods(resource.namespace, wanted):
                specs.append(WorkloadSpec(address=status.podIP, labels=dict(pod.labels)))
        for spec in specs:
            number = spec.ports.get(asked.name, asked.targetPort or asked.number)
            yield Workload(spec.address, spec.ports, spec.labels, spec.weight or 1), number

    def _of_service(
        self, key: Key, service: ServiceSpec, asked: ServicePort
    ) -> Iterator[tuple[Workload, int]]:
        """Slices say it best; Endpoints are their forerunners; Pods are what both are made of."""
        early = service.publishNotReadyAddresses
        if key in self.slices:
            for slice_ in self.slices[key]:
                yield from self._of_slice(*slice_, asked.name, early)
        elif key in self.classic:
            resource, classic = self.classic[key]
            resource.use()
            for subset in classic.subsets or ():
                number = _named(subset.ports, asked.name)
                addresses = [*(subset.addresses or ())]
                addresses += (subset.notReadyAddresses or ()) if early else ()
                for address in addresses if number else ():
                    labels = self._labels(key[0], address.targetRef)
                    yield Workload(address.ip, {}, labels), number or 0
        elif service.selector:
            for pod, spec, status in self._pods(key[0], service.selector, early):
                number = _target_port(spec, asked)
                if number:
                    yield Workload(status.podIP, {}, dict(pod.labels)), number

    def _of_slice(
        self, resource: Resource, slice_: SliceModel, port: str, early: bool
    ) -> Iterator[tuple[Workload, int]]:
        number = _named(slice_.ports, port)
        resource.use()
        for endpoint in slice_.endpoints or ():
            is_ready = endpoint.conditions.ready is not False or early
            if number and endpoint.addresses and is_ready:
                labels = self._labels(resource.namespace, endpoint.targetRef)
                yield Workload(endpoint.addresses[0], {}, labels), number

    def _pods(
        self, namespace: str, wanted: Mapping[str, str], early: bool = False
    ) -> Iterator[tuple[Resource, PodSpec, PodStatus]]:
        for (of_namespace, _), (pod, spec, status) in self.pods.items():
            ready = all(c.status == "True" for c in status.conditions or () if c.type == "Ready")
            meant = of_namespace == namespace and has_labels(pod.labels, wanted)
            if meant:
                pod.use()
            if meant and status.podIP and (ready or early):
                yield pod, spec, status

    def _labels(self, namespace: str, target: TargetRef) -> Labels:
        found = self.pods.get((namespace, target.name)) if target.kind == "Pod" else None
        if found is None:
            return {}
        found[0].use()
        return dict(found[0].labels)


def _named(ports: Sequence[SlicePort] | None, name: str) -> int | None:
    """The number of the port of that name; one without a name stands for any if it is alone."""
    known = [port for port in ports or () if port.protocol in (None, "TCP")]
    for port in known:
        if (port.name or "") == name or (len(known) == 1 and not name):
            return port.port
    return None


def _target_port(spec: PodSpec, asked: ServicePort) -> int | None:
    if not isinstance(asked.targetPort, str):
        return asked.targetPort or asked.port
    for container in spec.containers:
        for port in container.ports or ():
            if port.name == asked.targetPort:
                return port.containerPort
    return None
