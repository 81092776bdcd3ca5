"""Where connections to a listener of a server go, by what `proxy_pass` is for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tcpmux.config.address import Address, HostName
from tcpmux.config.preread import Preread
from tcpmux.config.settings import (
    Bandwidth,
    DestinationPolicy,
    Keepalive,
    RoutePolicy,
    SendProxy,
)
from tcpmux.convert.decisions import Decided, TooManyRules, decided
from tcpmux.convert.draft import Pool, Shares
from tcpmux.convert.nginx.maps import OF_HELLO, Unresolved
from tcpmux.convert.nginx.proxy import Behaviour
from tcpmux.convert.nginx.splits import Values
from tcpmux.convert.nginx.upstream import Upstream
from tcpmux.convert.nginx.values import names_in
from tcpmux.convert.nginx.variables import Variables

REJECTED = "rejected"  # the destination of connections that nginx closes
Target = Decided[Values]


def target_at(variables: Variables, text: str, listener: Address, *, reads_hello: bool) -> Target:
    """Raises Unresolved."""
    if not reads_hello and names_in(text) & {*OF_HELLO}:
        raise Unresolved("ssl_preread is off here", "rules by SNI")
    classes = variables.classes(text, reads_hello=reads_hello)
    try:
        return decided(classes, lambda hello: variables.values(text, listener, hello))
    except TooManyRules as error:
        raise Unresolved(str(error), "longer lists") from None


def values_of(target: Target) -> list[str]:
    """Each once."""
    every = (*(values for _, values in target.rules), target.rest)
    return [*dict.fromkeys(value for values in every for _, value in values.shares)]


@dataclass(slots=True)
class Pools:
    """By value of proxy_pass, in lower case. closed: those to which nothing is passed on."""

    of: dict[str, Pool]
    closed: set[str]

    def shares(self, values: Values, *, beside_rules: bool) -> Shares:
        """beside_rules: of a route with rules, one of which resets connections as well."""
        merged = values.merged
        if beside_rules and merged.keys() <= self.closed:
            return []
        return [(self.of[key], share) for key, share in merged.items()]


def is_closed(upstream: Upstream) -> bool:
    return upstream.name == REJECTED


def pool_of(upstream: Upstream, how: Behaviour, keepalive: Keepalive) -> Pool:
    policy = DestinationPolicy(
        connect_timeout=how.connect,
        idle_timeout=how.idle,
        balance=upstream.balance,
        slow_start=upstream.slow_start,
        passive=upstream.passive,
        keepalive=keepalive,
        connection_bandwidth=Bandwidth(how.up, how.down),
        send_proxy=SendProxy(how.send_proxy),
    )
    return Pool(upstream.name, [replace(server) for server in upstream.servers], policy)


def policy_of(how: Behaviour, pools: list[Pool]) -> RoutePolicy:
    policy = RoutePolicy(preread=how.preread if how.preread.is_asked else Preread())
    if any(
        len(pool.servers) > 1 or isinstance(server.endpoint, HostName)
        for pool in pools
        for server in pool.servers
    ):
        policy = replace(policy, retry=how.retry)
    return replace(policy, on_unavailable="reject") if len(pools) > 1 else policy
