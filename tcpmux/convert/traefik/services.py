"""Services: destinations, and how connections are split between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from tcpmux.config.address import HostName, parse_endpoint
from tcpmux.config.check import Check
from tcpmux.config.rows import DAY, HOUR
from tcpmux.config.settings import DestinationPolicy, Keepalive, Passive, SendProxy
from tcpmux.convert.draft import Pool, Server
from tcpmux.convert.seconds import limited
from tcpmux.convert.traefik.headers import send_proxy_of
from tcpmux.convert.traefik.values import duration, plain, seconds
from tcpmux.convert.tree import Node, quoted

DIAL_TIMEOUT, KEEPALIVE, TERMINATION_DELAY = 30.0, 15, Fraction(1, 10)  # s; Traefik's defaults
_KEEPALIVE_COUNT = 9  # of the system, which Traefik leaves as it is
_DEEPEST = 16  # weighted services within weighted services
_SEVERAL = "Traefik connects to the first address of a name that answers; tcpmux uses all"


@dataclass(slots=True)
class Shares:
    """What a service comes to. reaches: whether the share of a service that is down goes to the
    others. sections: of the services."""

    parts: dict[str, Fraction] = field(default_factory=dict)
    reaches: bool = True
    sections: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Transport:
    connect_timeout: float = DIAL_TIMEOUT
    keepalive: Keepalive = field(
        default_factory=lambda: Keepalive(KEEPALIVE, KEEPALIVE, _KEEPALIVE_COUNT)
    )
    termination: Fraction = TERMINATION_DELAY  # below 0: never
    send_proxy: int = 0
    place: Node = field(default_factory=lambda: Node((), exists=False))


class Services:
    """By name; each is read when a router first leads to it. default: the file's own transport."""

    def __init__(self, default: Node) -> None:
        self._nodes: dict[str, Node] = {}
        self._transports: dict[str, Node] = {}
        self._pools: dict[str, Pool] = {}
        self._shares: dict[str, Shares] = {}
        self._default = _transport(default, _Transport()) if default else _Transport()

    def add(self, tcp: Node) -> None:
        for name, node in _named(tcp["services"]):
            if name in self._nodes:
                node.problem(f"a service named {name} already exists")
            self._nodes[name] = node
            node.name_section(f"service {name}")
        for name, node in _named(tcp["serverstransports"]):
            self._transports[name] = node

    def finish(self) -> None:
        for name, node in self._nodes.items():
            if name not in self._shares:
                node.harmless("no TCP router uses it")
        for node in self._transports.values():
            if node.is_unread:
                node.harmless("no TCP service in use has it")

    def pool(self, name: str) -> Pool:
        return self._pools[name]

    def shares(self, name: str, asked: Node, depth: int = 0) -> Shares:
        """asked: what names it."""
        if name in self._shares:
            return self._shares[name]
        short = plain(name)
        node = self._nodes.get(short or "")
        if short is None or node is None or depth > _DEEPEST:
            why = "is not in the files" if depth <= _DEEPEST else "refers to itself"
            asked.changes(f"{name} {why}: tcpmux resets these connections")
            self._pools[name] = Pool(name)
            return Shares({name: Fraction(1)})
        if short != name:
            return self.shares(short, asked, depth)
        found = Shares(sections={f"service {name}"})
        if node["weighted"]:
            self._weighted(node["weighted"], found, depth)
        elif node["loadbalancer"]:
            self._pools[name] = self._pool(name, node["loadbalancer"])
            found.parts[name] = Fraction(1)
        else:
            node.changes("it is neither loadBalancer nor weighted: tcpmux resets these connections")
            self._pools[name] = Pool(name)
            found.parts[name] = Fraction(1)
        self._shares[name] = found
        return found

    def _weighted(self, node: Node, found: Shares, depth: int) -> None:
        found.reaches = "healthcheck" in node.fields
        node["healthcheck"].mapped()
        targets = []
        for entry in node["services"]:
            name, weight = entry["name"].text(), entry["weight"].integer(1)
            targets.append((self.shares(name, entry["name"], depth + 1), Fraction(weight)))
        total = sum((weight for _, weight in targets), Fraction(0))
        for inner, parts_of_it in targets:
            found.sections |= inner.sections
            if len(inner.parts) > 1:
                found.reaches = found.reaches and inner.reaches
            for name, part in inner.parts.items():
                share = part * parts_of_it / total if total else Fraction(0)
                found.parts[name] = found.parts.get(name, Fraction(0)) + share

    def _pool(self, name: str, node: Node) -> Pool:
        transport = self._transport_of(node)
        servers = [server for entry in node["servers"] for server in _server(entry)]
        check = _check(node["healthcheck"])
        policy = DestinationPolicy(
            send_proxy=SendProxy(transport.send_proxy),
            connect_timeout=transport.connect_timeout,
            idle_timeout=0.0,
            passive=Passive(errors=0),
            keepalive=transport.keepalive,
            half_open_timeout=_half_open(transport),
            check=check,
        )
        return Pool(name, servers, policy)

    def _transport_of(self, node: Node) -> _Transport:
        found = self._default
        named = node["serverstransport"]
        if named:
            name = plain(named.text())
            if name in self._transports:
                found = _transport(self._transports[name], _Transport())
            else:
                named.changes("no such serversTransport in the files: the defaults apply")
        header = node["proxyprotocol"]
        if named:
            header.harmless("serversTransport decides it")
        elif header:
            found = replace(found, send_proxy=send_proxy_of(header))
        delay = node["terminationdelay"]
        if delay:  # of older files, in ms
            termination = Fraction(delay.integer(100, -(2**31), 2**31), 1000)
            found = replace(found, termination=termination, place=delay)
            delay.mapped("Traefik 3.7 ignores it here; it belongs in a serversTransport")
        return found


def _named(node: Node) -> list[tuple[str, Node]]:
    return [(child.key, child) for child in node.fields.values()]


def _server(node: Node) -> list[Server]:
    address = node["address"]
    if node["tls"].flag():
        node["tls"].changes("tcpmux does not encrypt connections to servers", "TLS")
    text = address.text()
    try:
        found = parse_endpoint(text)
    except ValueError as error:
        address.changes(f"{error}, got {text}")
        return []
    if isinstance(found, HostName):
        address.mapped(_SEVERAL)
    return [Server(found)]


def _transport(node: Node, base: _Transport) -> _Transport:
    dial, alive, end = node["dialtimeout"], node["dialkeepalive"], node["terminationdelay"]
    found = _Transport(place=end)
    found.connect_timeout = seconds(dial, base.connect_timeout, high=HOUR)
    idle = duration(alive)
    if idle is not None and idle < 0:
        found.keepalive = Keepalive(idle=0)
    elif idle:
        every = int(limited(alive, idle, KEEPALIVE, 1, 32767))
        if every != idle:
            alive.changes("tcpmux counts in whole seconds")
        found.keepalive = Keepalive(every, every, _KEEPALIVE_COUNT)
    if alive:
        alive.mapped("tcpmux also probes clients")
    given = duration(end)
    found.termination = base.termination if given is None else given
    node["tls"].harmless("applies only to servers with tls")
    node["spiffe"].harmless("applies only to servers with tls")
    found.send_proxy = send_proxy_of(node["proxyprotocol"])
    return found


def _half_open(transport: _Transport) -> float:
    """0.0 = as idle_timeout, which is never."""
    delay, place = transport.termination, transport.place
    if delay < 0:
        return 0.0
    if place:
        place.mapped("tcpmux counts it from the last byte, Traefik from the half-close")
    return limited(place, max(delay, Fraction(1, 1000)), 0.1, 0.001, 30 * DAY)


# --- checks --------------------------------------------------------------------------------------


def _check(node: Node) -> Check | None:
    if not node:
        return None
    node.mapped()
    interval = seconds(node["interval"], 30.0)
    if seconds(node["unhealthyinterval"], interval) != interval:
        node["unhealthyinterval"].changes(
            "tcpmux checks a server that is down at the same interval as others"
        )
    send, expect = node["send"].text(), node["expect"].text()
    is_pattern = expect.isascii() and bool(expect)
    if expect and not is_pattern:
        node["expect"].mapped("tcpmux accepts it anywhere in the answer, Traefik only at its start")
    return Check(
        "send" if send or expect else "tcp",
        interval=interval,
        fast_interval=interval,
        timeout=seconds(node["timeout"], 5.0),
        fall=1,
        rise=1,
        port=node["port"].integer(0, 0, 65535),
        send=send.encode("utf-8", "surrogateescape"),
        expect=_start(expect) if is_pattern else expect.encode("utf-8", "surrogateescape"),
        is_pattern=is_pattern,
    )


def _start(expect: str) -> bytes:
    """A regular expression: the answer starts with it."""
    return rf"\A{quoted(expect)}".encode()
