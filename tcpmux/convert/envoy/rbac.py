"""The RBAC network filter, as far as it is about clients' addresses."""

from __future__ import annotations

from tcpmux.config.settings import Clients
from tcpmux.convert.clients import EVERYBODY, ClientRule
from tcpmux.convert.envoy.values import HARMLESS, enum, network
from tcpmux.convert.tree import Node

_CLASSES = {
    "stat_prefix": (HARMLESS, "metrics", ""),
    "shadow_rules": (HARMLESS, "only counts", ""),
    "shadow_matcher": (HARMLESS, "only counts", ""),
    "shadow_rules_stat_prefix": (HARMLESS, "metrics", ""),
    "enforcement_type": (HARMLESS, "tcpmux decides once, before it reads a byte", ""),
    "delay_deny": (HARMLESS, "tcpmux rejects clients without a delay", ""),
}
_ADDRESSES = ("direct_remote_ip", "remote_ip", "source_ip")
_ACTIONS = {"0": "ALLOW", "1": "DENY", "2": "LOG"}


def rules_of(node: Node, *, has_header: bool) -> list[ClientRule]:
    """Those that match none are treated the other way round from the last. Empty: no rule.
    has_header: the client may be another than the peer."""
    node.sort_out(_CLASSES)
    rules = node["rules"]
    if not rules:
        return []
    text = enum(rules["action"], "ALLOW")
    action = _ACTIONS.get(text, text)
    if action == "LOG":
        rules.harmless("only logs")
        return []
    found: list[ClientRule] = []
    policies = rules["policies"]
    for policy in policies.fields.values():
        clients = _clients(policy, has_header=has_header)
        if clients is None:
            rules.changes(
                "tcpmux does not apply it: tcpmux has only rules by the client's address",
                "rules by more than the source",
            )
            return []
        found += [ClientRule(action == "ALLOW", each) for each in clients]
    if not found and action == "ALLOW":
        rules.mapped("no client may connect")
        return [ClientRule(accepts=False, clients=each) for each in EVERYBODY]
    policies.mapped()
    return found


def _clients(policy: Node, *, has_header: bool) -> list[Clients] | None:
    """None: it looks at something else."""
    if set(policy.fields) - {"permissions", "principals"}:
        return None
    if not any(set(each.fields) == {"any"} for each in policy["permissions"]):
        return None
    found: list[Clients] = []
    for principal in policy["principals"]:
        some = _principal(principal, has_header=has_header)
        if some is None:
            return None
        found += some
    return found


def _principal(node: Node, *, has_header: bool) -> list[Clients] | None:
    if set(node.fields) == {"any"}:
        return list(EVERYBODY)
    if set(node.fields) == {"or_ids"}:
        parts = [_principal(each, has_header=has_header) for each in node["or_ids"]["ids"]]
        return None if None in parts else [each for part in parts if part for each in part]
    for key in _ADDRESSES[has_header:]:  # the first is the peer's
        if set(node.fields) == {key}:
            found = network(node[key])
            return [] if found is None else [found]
    return None
