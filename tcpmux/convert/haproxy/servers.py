"""The servers of a backend as a destination's endpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tcpmux.config.address import Endpoint, HostName
from tcpmux.config.schema import MAX_ENDPOINTS
from tcpmux.config.turns import MAX_ENDPOINT_WEIGHT
from tcpmux.convert.haproxy.options import Option, Options, mark_plain, parse
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import Refused, Unsupported, endpoint, named, service, whole
from tcpmux.convert.report import Report, Statement, Word

MAX_SERVERS = 4096  # of a server-template


@dataclass(slots=True)
class Line:
    """A server that HAProxy uses. endpoint None: its port depends on the client's: host, offset.
    maxconn 0 = no limit."""

    at: Statement
    name: str
    options: Options
    endpoint: Endpoint | None
    host: str = ""
    offset: str = ""
    weight: int = 1
    maxconn: int = 0
    backup: bool = False
    count: int = 1
    order: int = 0

    def endpoint_for(self, port: int) -> Endpoint:
        """For connections to that port. Raises Unsupported."""
        if self.endpoint is not None:
            return self.endpoint
        meant = port + int(self.offset or "0")
        if not 1 <= meant <= 65535:
            raise Unsupported(f"{meant} is not a port")
        return named(self.host, str(meant))


@dataclass(slots=True)
class Servers:
    active: list[Line] = field(default_factory=list)
    backups: list[Line] = field(default_factory=list)

    @property
    def all(self) -> list[Line]:
        return [*self.active, *self.backups]

    @property
    def mapped_ports(self) -> bool:
        return any(line.endpoint is None for line in self.all)


def servers_of(back: Section, report: Report) -> Servers:
    """Those that may get connections; others are marked as left out."""
    servers = Servers()
    inherited: Options = {}
    for setting in back.all("default-server", "server", "server-template"):
        if len(servers.active) + len(servers.backups) > MAX_ENDPOINTS:
            report.problem(setting.at, f"more than {MAX_ENDPOINTS} servers")
            break
        if setting.key == "default-server":

            def more(s: Setting = setting) -> None:
                nonlocal inherited
                s.at.mapped(s.at.words[0])
                inherited = parse(s.at, s.args, inherited)

            guarded(report, setting.at, more)
        else:
            guarded(report, setting.at, lambda s=setting: _add(s, inherited, servers))  # type: ignore[misc]
    if not servers.all:
        _dispatch(back, servers, report)
    names: set[str] = set()
    for line in servers.all:
        if line.name in names:
            report.problem(line.at, f"another server is already named {line.name}")
        names.add(line.name)
    return servers


def _dispatch(back: Section, servers: Servers, report: Report) -> None:
    setting = back.last("dispatch")
    if setting is None:
        return

    def add() -> None:
        try:
            found = endpoint(setting.arg().text)
        except Unsupported as error:
            setting.at.changes(note=str(error), needs=error.needs)
            return
        servers.active.append(Line(setting.at, "dispatch", {}, *found))
        setting.at.mapped()

    guarded(report, setting.at, add)


def _add(setting: Setting, inherited: Options, servers: Servers) -> None:
    at, args = setting.at, setting.args
    is_template = setting.key == "server-template"
    head = 3 if is_template else 2
    if len(args) < head:
        raise Refused(f"expected a name and an address after {setting.key}")
    at.mapped(at.words[0], *args[:head])
    options = parse(at, args[head:], inherited)
    numbers = _numbers(args[1].text) if is_template else [0]
    line = Line(at, args[0].text, options, None, count=len(numbers))
    if "disabled" in options or _weight(options) == 0:
        name = "disabled" if "disabled" in options else "weight"
        leave_out(line)
        options[name].mapped("it is left out: it gets no connections")
        return
    mark_plain(options)
    placed = _place(line, args[head - 1])
    _names(line, args[head - 1], is_template)
    _limits(line)
    if "id" in options:
        options["id"].harmless("only a number")
        line.order = whole(options["id"].text, 1, 2**31 - 1)
    else:
        line.order = len(servers.active) + len(servers.backups) + 1
    if not placed:
        return
    if isinstance(line.endpoint, HostName):
        line.count = 1  # a name stands for all its addresses
    (servers.backups if line.backup else servers.active).append(line)


def _weight(options: Options) -> int:
    """Raises Refused."""
    return whole(options["weight"].text, 0, MAX_ENDPOINT_WEIGHT) if "weight" in options else 1


def leave_out(line: Line) -> None:
    """Nothing that is said of the server matters."""
    for option in line.options.values():
        option.harmless("the server is left out")


def _names(line: Line, address: Word, is_template: bool) -> None:
    """What of it is about a name."""
    options = line.options
    if "init-addr" in options:
        ways = options["init-addr"].text.split(",")
        if isinstance(line.endpoint, HostName) and any("." in way or ":" in way for way in ways):
            options["init-addr"].changes(
                "tcpmux does not use this address", "fallback addresses of a name"
            )
        options["init-addr"].harmless(
            "tcpmux starts even if a name does not resolve, and tries again"
        )
    if "resolvers" in options and isinstance(line.endpoint, HostName):
        options["resolvers"].mapped()
    elif "resolvers" in options:
        options["resolvers"].harmless("the address is not a name")
    if not isinstance(line.endpoint, HostName):
        return
    note = "HAProxy resolves the name once and uses one address; tcpmux follows DNS and uses all"
    if is_template or "resolvers" in options:
        note = "tcpmux uses all addresses of the name; HAProxy, as many as it has servers"
    line.at.mapped(address, note=note)


def _numbers(text: str) -> list[int]:
    low, dash, high = text.partition("-")
    first, last = whole(low, 0, 2**31 - 1), whole(high if dash else low, 0, 2**31 - 1)
    if not dash:
        first = 1
    if last < first:
        raise Refused(f"expected a number of servers or a range, got {text}")
    if last - first >= MAX_SERVERS:
        raise Refused(f"{text} is more than {MAX_SERVERS} servers")
    return [*range(first, last + 1)]


def _place(line: Line, word: Word) -> bool:
    """Whether it has an address that tcpmux can connect to."""
    try:
        if re.match(r"_[A-Za-z0-9_-]+\._(tcp|udp)\.", word.text) and ":" not in word.text:
            line.endpoint = service(word.text.rstrip("."))
            return True
        line.endpoint, line.host, line.offset = endpoint(word.text)
        if line.endpoint is None:
            named(line.host, "1")
            whole(line.offset.lstrip("+") or "0", -65535, 65535)
    except Unsupported as error:
        line.at.changes(word, note=f"the server is left out: {error}", needs=error.needs)
        return False
    return True


def _limits(line: Line) -> None:
    options = line.options
    line.weight = _weight(options)
    if "weight" in options:
        options["weight"].mapped()
    if "backup" in options:
        line.backup = True
        options["backup"].mapped()
    if "maxconn" in options:
        line.maxconn = whole(options["maxconn"].text, 0, 10_000_000)
        options["maxconn"].mapped()
    if "minconn" in options:
        least = whole(options["minconn"].text, 0, 10_000_000)
        if line.maxconn > least > 0:
            options["minconn"].changes(
                "in HAProxy the limit grows with the load, from minconn to maxconn",
                "dynamic limits",
            )
        else:
            line.maxconn = max(line.maxconn, least)
            options["minconn"].mapped()


def agreed(lines: Sequence[Line], name: str, note: str, needs: str = "") -> Option | None:
    """An option that all have with the same value, or none has; else it changes traffic."""
    found = [line.options.get(name) for line in lines]
    present = [option for option in found if option is not None]
    if not present:
        return None
    if len(present) == len(found) and len({option.text for option in present}) == 1:
        for option in present:
            option.mapped()
        return present[0]
    for option in present:
        option.changes(note, needs)
    return None
