"""A Config as the text of a routes.yaml: what `tcpmux convert` prints."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from tcpmux.config.address import Endpoint
from tcpmux.config.check import Check
from tcpmux.config.converge import rate_text, when_text
from tcpmux.config.duration import format_duration
from tcpmux.config.fleet import Etcd, Fleet
from tcpmux.config.hooks_key import hooks_pairs
from tcpmux.config.mirror import percent_text
from tcpmux.config.model import Buffers, Config, Log, Route
from tcpmux.config.rollout_key import plan_pairs
from tcpmux.config.rows import rows_of
from tcpmux.config.rule import Rule, tlv_text
from tcpmux.config.schema import FileModel
from tcpmux.config.settings import DestinationPolicy, EndpointPolicy, RoutePolicy, Timeouts
from tcpmux.config.size import format_size
from tcpmux.config.written import Pairs, by_text, flow, texts
from tcpmux.errors import printable
from tcpmux.rollout.plan import Plan

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*(:[0-9]+)?", re.ASCII)
_DEFAULTS = FileModel()


def scalar(text: str) -> str:
    """A YAML scalar that is read back as this text. Names of digits alone are quoted."""
    looks_otherwise = re.fullmatch(
        r"(?i)[0-9_.:+-]+|0[xob].*|[0-9.]+e.*|y|n|yes|no|on|off|true|false|null", text
    )
    address = re.fullmatch(r"[0-9.]+:[0-9]+", text) and text.count(".") == 3
    if _PLAIN.fullmatch(text) and (address or not looks_otherwise):
        return text
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{quoted}"'


def to_text(config: Config, remarks: Mapping[str, Sequence[str]] | None = None) -> str:
    """The whole file. Where a route was made of something else, a comment says of what. remarks:
    more comments, by the name of the route; "" = of the file."""
    return "\n".join(_lines(config, remarks or {})) + "\n"


def _lines(config: Config, remarks: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield from (f"# {printable(remark)}" for remark in remarks.get("", ()))
    if config.workers is not None:
        yield f"workers: {config.workers}"
    if config.busy_poll is not None:
        yield f"busy_poll: {config.busy_poll or 'off'}"
    if config.drain_timeout != _DEFAULTS.drain_timeout:
        yield f"drain_timeout: {format_duration(config.drain_timeout)}"
    for key, account in (("user", config.user), ("group", config.group)):
        if account:
            yield f"{key}: {account if account.isdecimal() else scalar(account)}"
    if config.state_dir != _DEFAULTS.state_dir:
        yield f"state_dir: {scalar(config.state_dir)}"
    yield from _mapping("admin", _admin(config))
    yield from _mapping("log", _log(config))
    yield from _mapping("access_log", _access_log(config))
    yield from _mapping("buffers", _buffers(config))
    if config.dns_servers:
        yield f"dns: {{servers: [{', '.join(scalar(str(s)) for s in config.dns_servers)}]}}"
    if config.fleet is not None:
        yield f"fleet: {flow(_fleet(config.fleet))}"
    yield "routes:" if config.routes else "routes: []"
    for route in config.routes:
        yield from (f"  # {printable(remark)}" for remark in remarks.get(route.name, ()))
        yield from _route(route)


def _buffers(config: Config) -> Iterator[tuple[str, str]]:
    buffers, default = config.buffers, Buffers()
    for key in ("client", "endpoint", "pipe", "per_source", "total"):
        size = getattr(buffers, key)
        if size != getattr(default, key):
            yield key, "auto" if size is None else format_size(size) if size else "off"


def _admin(config: Config) -> Iterator[tuple[str, str]]:
    admin = config.admin
    if admin.socket != _DEFAULTS.admin.socket:
        yield "socket", scalar(admin.socket)
    if admin.http is not None:
        yield "http", scalar(str(admin.http))
    if admin.token_file:
        yield "token_file", scalar(admin.token_file)
    if admin.read_only_token_file:
        yield "read_only_token_file", scalar(admin.read_only_token_file)
    if admin.hosts:
        yield "hosts", f"[{', '.join(map(scalar, admin.hosts))}]"
    if admin.insecure:
        yield "insecure", "true"


def _fleet(fleet: Fleet) -> Iterator[tuple[str, str]]:
    yield "name", scalar(fleet.name)
    if fleet.host:
        yield "host", scalar(fleet.host)
    etcd, default = fleet.etcd, Etcd(())
    pairs = [("endpoints", f"[{', '.join(map(scalar, etcd.endpoints))}]")]
    for key in ("ca", "certificate", "key", "user", "password_file", "prefix"):
        if getattr(etcd, key) != getattr(default, key):
            pairs.append((key, scalar(getattr(etcd, key))))
    yield "etcd", flow(pairs)


def _log(config: Config) -> Iterator[tuple[str, str]]:
    log, default = config.log, Log()
    for key in ("level", "format", "target", "file"):
        if getattr(log, key) != getattr(default, key):
            yield key, scalar(getattr(log, key))


def _access_log(config: Config) -> Iterator[tuple[str, str]]:
    log = config.access_log
    if log is None:
        return
    yield "path", scalar(log.path)
    if log.format != "json":
        yield "format", scalar(log.format)
    if log.start:
        yield "start", "true"
    if log.interval:
        yield "interval", format_duration(log.interval)
    yield "buffer", format_size(log.buffer)


def _mapping(key: str, values: Iterable[tuple[str, str]]) -> Iterator[str]:
    lines = [f"  {name}: {value}" for name, value in values]
    if lines:
        yield f"{key}:"
        yield from lines


def _route(route: Route) -> Iterator[str]:
    if route.source:
        yield f"  # {printable(route.source)}"
    yield f"  - name: {scalar(route.name)}"
    listen = [scalar(str(address)) for address in route.listen]
    several = f"[{', '.join(listen)}]"
    yield f"    listen: {listen[0] if len(listen) == 1 else several}"
    yield from (f"    {key}: {value}" for key, value in texts(route.policy, _OF_ROUTE))
    if route.rollout:
        yield f"    rollout: {flow(_rollout(route.rollout))}"
    if route.rules:
        yield "    rules:"
        yield from (f"      - {flow(_rule(rule))}" for rule in route.rules)
    yield "    destinations:"
    base = DestinationPolicy(**{key: getattr(route.policy, key) for key in rows_of(Timeouts)})
    for destination in route.destinations:
        yield f"      - name: {scalar(destination.name)}"
        yield f"        weight: {destination.weight}"
        for key, value in texts(destination.policy, _OF_DESTINATION, base):
            yield f"        {key}: {value}"
        yield from _endpoints(destination.endpoints, dict(destination.endpoint_policies))


def _rollout(plan: Plan) -> Pairs:
    for key, text in plan_pairs(plan):
        yield key, scalar(text) if key == "to" else text
    if hooks := [*hooks_pairs(plan.hooks, scalar)]:
        yield "hooks", flow(hooks)


def _rule(rule: Rule) -> Pairs:
    if rule.name:
        yield "name", scalar(rule.name)
    for key, values in rule.conditions:
        if key == "tlv":
            yield key, flow((f"{kind:#04x}", _tlvs(kind, of)) for kind, of in rule.tlvs)
        elif key in ("port", "tls"):
            yield key, values[0] if len(values) == 1 else f"[{', '.join(values)}]"
        else:
            yield key, _one_or_more(values)
    if rule.reject:
        yield "reject", "true"
    elif [weight for _, weight in rule.weights] == [1]:
        yield "to", scalar(rule.weights[0][0])
    else:
        yield "weights", flow((scalar(name), str(weight)) for name, weight in rule.weights)


def _tlvs(kind: int, values: Sequence[bytes]) -> str:
    return _one_or_more([tlv_text(kind, value) for value in values])


def _one_or_more(values: Sequence[str]) -> str:
    written = [scalar(value) for value in values]
    return written[0] if len(written) == 1 else f"[{', '.join(written)}]"


def _endpoints(
    endpoints: Sequence[Endpoint], policies: Mapping[Endpoint, EndpointPolicy]
) -> Iterable[str]:
    turns = Counter(endpoints)
    if not endpoints:
        yield "        endpoints: []  # its share of connections is reset"
        return
    yield "        endpoints:"
    for endpoint, weight in turns.items():
        address = scalar(str(endpoint))
        policy = policies.get(endpoint, EndpointPolicy())
        others = [*([("weight", str(weight))] if weight != 1 else []), *texts(policy, {})]
        more = "".join(f", {key}: {value}" for key, value in others)
        yield f"          - {{address: {address}{more}}}" if more else f"          - {address}"


def _numbers(of: object, defaults: object, *keys: str) -> Pairs:
    for key in keys:
        if getattr(of, key) != getattr(defaults, key):
            yield key, f"{getattr(of, key)}"


def _unavailable(policy: RoutePolicy) -> Pairs:
    if policy.on_unavailable == "fallback":
        yield "on_unavailable", flow([("fallback", scalar(policy.fallback))])
    else:
        yield from _numbers(policy, RoutePolicy(), "on_unavailable")


def _all_unavailable(policy: RoutePolicy) -> Pairs:
    if policy.on_all_unavailable == "hold":
        yield "on_all_unavailable", flow([("hold", format_duration(policy.hold))])
    else:
        yield from _numbers(policy, RoutePolicy(), "on_all_unavailable")


def _clients(key: str) -> Callable[[RoutePolicy], Pairs]:
    def pairs(policy: RoutePolicy) -> Pairs:
        networks = getattr(policy, key)
        if networks:
            yield key, f"[{', '.join(scalar(str(network)) for network in networks)}]"

    return pairs


def _on_full(policy: DestinationPolicy) -> Pairs:
    if policy.on_full == "queue":
        yield "on_full", flow([("queue", flow(texts(policy.queue, {}, whole=True)))])
    else:
        yield from _numbers(policy, DestinationPolicy(), "on_full")


def _checked(policy: DestinationPolicy) -> Pairs:
    check = policy.check
    if check is not None:
        said = [*texts(check, _OF_CHECK, Check(check.kind))]
        version = policy.send_proxy.version
        if check.proxy != (0 if check.port else version):
            said.append(("proxy", "on" if check.proxy else "off"))
        yield "check", flow([("type", check.kind), *said])


def _sent_and_expected(check: Check) -> Pairs:
    """The keys from `send` to `status`."""
    plain = Check(check.kind)
    if check.send:
        yield "send_hex", scalar(check.send.hex())
    if check.expect and check.is_pattern:
        yield "expect_regex", scalar(check.expect.decode("utf-8", "surrogateescape"))
    elif check.expect:
        yield "expect_hex", scalar(check.expect.hex())
    for key in ("path", "host"):
        if getattr(check, key) != getattr(plain, key):
            yield key, scalar(getattr(check, key))
    if check.status != plain.status:
        yield "status", f"{check.status[0]}-{check.status[1]}"


def _accept_proxy(policy: RoutePolicy) -> Pairs:
    accept = policy.accept_proxy
    if accept.senders:
        versions = [str(bit + 1) for bit in range(2) if accept.versions >> bit & 1]
        yield (
            "accept_proxy",
            flow(
                [
                    ("from", f"[{', '.join(scalar(str(net)) for net in accept.senders)}]"),
                    ("versions", f"[{', '.join(versions)}]"),
                    ("timeout", format_duration(accept.timeout)),
                    *(pair for pair in texts(accept, {}) if pair[0] == "keep"),
                ]
            ),
        )


def _preread(policy: RoutePolicy) -> Pairs:
    if policy.preread.is_asked:
        yield "preread", flow(texts(policy.preread, {}))


def _send_proxy(policy: DestinationPolicy) -> Pairs:
    pairs = [*texts(policy.send_proxy, {})]
    if len(pairs) > 1:
        yield "send_proxy", flow(pairs)
    elif pairs:
        yield "send_proxy", pairs[0][1]


def _sticky(policy: RoutePolicy) -> Pairs:
    sticky = policy.sticky
    if sticky.is_on:
        group = [("group", scalar(sticky.group))] if sticky.group else []
        yield "sticky", flow([("by", by_text(sticky.by, sticky.tlv)), *group, *texts(sticky, {})])


def _converge(policy: RoutePolicy) -> Pairs:
    converge = policy.converge
    if converge.is_set:
        rate = rate_text(converge.rate, converge.rate_percent)
        pairs = [("when", when_text(converge.when)), ("rate", rate), *texts(converge, {})]
        yield "converge", flow(pairs)


def _mirror(policy: RoutePolicy) -> Pairs:
    mirror = policy.mirror
    if mirror.to:
        percent = percent_text(mirror.share)
        yield "mirror", flow([("to", scalar(mirror.to)), ("percent", percent), *texts(mirror, {})])


_OF_ROUTE = {
    "sticky": _sticky,
    "converge": _converge,
    "mirror": _mirror,
    "accept_proxy": _accept_proxy,
    "preread": _preread,
    "on_unavailable": _unavailable,
    "on_all_unavailable": _all_unavailable,
    "allow": _clients("allow"),
    "deny": _clients("deny"),
}
_OF_DESTINATION = {"on_full": _on_full, "check": _checked, "send_proxy": _send_proxy}
_OF_CHECK = {"send": _sent_and_expected}
