"""lb_policy, load_balancing_policy, and what belongs to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from tcpmux.config.rows import DAY
from tcpmux.config.settings import SlowStart
from tcpmux.convert.envoy.values import (
    HARMLESS,
    enum,
    number,
    percent,
    runtime_value,
    seconds,
    type_of,
)
from tcpmux.convert.tree import Node

_HASHES = ("source_hash", "maglev")
_NUMBERS = {"0": "ROUND_ROBIN", "1": "LEAST_REQUEST", "2": "RING_HASH", "3": "RANDOM"}
_TYPES = {  # of load_balancing_policy
    "RoundRobin": "ROUND_ROBIN",
    "LeastRequest": "LEAST_REQUEST",
    "Random": "RANDOM",
    "RingHash": "RING_HASH",
    "Maglev": "MAGLEV",
}
_TABLES = {
    "minimum_ring_size": (HARMLESS, "affects only how even the shares are", ""),
    "maximum_ring_size": (HARMLESS, "affects only how even the shares are", ""),
    "hash_function": (HARMLESS, "affects only which server each client gets", ""),
    "table_size": (HARMLESS, "affects only how even the shares are", ""),
}


@dataclass(slots=True)
class Balancing:
    """at: what says so. has_weights: weights of servers count."""

    at: Node
    balance: str = "round_robin"
    has_weights: bool = True
    slow_start: SlowStart = field(default_factory=SlowStart)

    @property
    def is_by_client(self) -> bool:
        return self.balance in _HASHES


def balancing_of(cluster: Node) -> Balancing:
    at = cluster["lb_policy"]
    text = enum(at, "ROUND_ROBIN")
    policy = _NUMBERS.get(text, text)
    options = {
        "ROUND_ROBIN": cluster["round_robin_lb_config"],
        "LEAST_REQUEST": cluster["least_request_lb_config"],
        "RING_HASH": cluster["ring_hash_lb_config"],
        "MAGLEV": cluster["maglev_lb_config"],
    }.get(policy, Node((), exists=False))
    typed = cluster["load_balancing_policy"]
    if typed:
        at, policy, options = _typed(typed)
    for key in ("round_robin", "least_request", "ring_hash", "maglev", "original_dst"):
        unused = cluster[f"{key}_lb_config"]
        if unused is not options:
            unused.harmless("belongs to a policy that lb_policy does not select")
    return _made(at, policy, options)


def _typed(node: Node) -> tuple[Node, str, Node]:
    """The first policy that is known; the rest is for an older Envoy."""
    rest: list[Node] = []
    found: tuple[Node, str, Node] | None = None
    for entry in node["policies"]:
        extension = entry["typed_extension_config"]
        config = extension["typed_config"]
        name = _TYPES.get(type_of(config), "")
        if found is None and name:
            extension["name"].mapped()
            found = config["@type"], name, config
        elif found is not None:
            rest.append(entry)
    for entry in rest:
        entry.harmless("Envoy uses the first policy that it knows")
    if found is None:
        node.changes("tcpmux uses round robin", "this balancing policy")
        return node, "ROUND_ROBIN", Node((), exists=False)
    return found


def _made(at: Node, policy: str, options: Node) -> Balancing:
    found = Balancing(at, slow_start=_slow_start(options["slow_start_config"]))
    options.sort_out(_TABLES)
    if policy == "LEAST_REQUEST":
        found.balance = _least(options)
    elif policy == "RANDOM":
        found.has_weights = False
        at.mapped("tcpmux uses round robin, with the same shares")
    elif policy in ("RING_HASH", "MAGLEV"):
        found.balance = "maglev" if policy == "MAGLEV" else "source_hash"
        at.mapped("a client keeps its server, which may differ from the one in Envoy")
    elif policy != "ROUND_ROBIN":
        at.changes("tcpmux uses round robin", "this balancing policy")
    return found


def _least(options: Node) -> str:
    """Of two at random the one with fewer, or of all."""
    method = options["selection_method"]
    count = options["choice_count"]
    bias = runtime_value(options["active_request_bias"])
    if number(bias, Fraction(1)) != 1:
        bias.changes("tcpmux counts each open connection once")
    if enum(method, "N_CHOICES") in ("FULL_SCAN", "1"):
        count.harmless("a full scan compares all servers")
        return "least_connections"
    if count.integer(2, 2) > 2:
        count.mapped("tcpmux compares all servers")
        return "least_connections"
    return "random_two"


def _slow_start(node: Node) -> SlowStart:
    if not node:
        return SlowStart()
    aggression = runtime_value(node["aggression"])
    if number(aggression, Fraction(1)) != 1:
        aggression.changes("tcpmux increases the share linearly")
    window = seconds(node["slow_start_window"], 0.0, high=30 * DAY, zero=True)
    return SlowStart(window, max(1, percent(node["min_weight_percent"], 10)))
