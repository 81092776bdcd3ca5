"""An entry point whose connections several routers share: a route with rules.

Traefik asks the routers with `tls` for clients of TLS, and those without it for all others. Where
no router has `tls` it does not look at what clients begin with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, groupby

from tcpmux.config.preread import Preread
from tcpmux.config.settings import Retry, RoutePolicy
from tcpmux.convert.clients import TooManyNetworks
from tcpmux.convert.decisions import Choice, Decided, Shares, TooManyRules, cases_of, decided
from tcpmux.convert.draft import Branch, Draft, Pool
from tcpmux.convert.hellos import OTHER, Hello, TooManyHellos, hellos
from tcpmux.convert.traefik.headers import read_timeout
from tcpmux.convert.traefik.routers import EntryPoint, Router, limits_of
from tcpmux.convert.traefik.rules import Malformed, Tree, names_in, protocols_in, tree_of
from tcpmux.convert.traefik.services import Services
from tcpmux.convert.traefik.values import plain
from tcpmux.convert.tree import Node
from tcpmux.convert.truth import Among, Split, Truth, Unknown, all_of

_LEFT = "tcpmux sends these connections to the routers after it, or resets them"
_HELLOS = (
    "tcpmux resets a client with a malformed ClientHello, and one that no router matches, which "
    "Traefik answers itself; one that offers acme-tls/1, which Traefik answers, too, goes where "
    "others with its name go"
)


@dataclass(slots=True)
class _Candidate:
    """allow: the clients that its middlewares let through."""

    router: Router
    tree: Tree
    allow: Truth = True


@dataclass(slots=True)
class _Choosing:
    """refused: what tcpmux can't tell, which has been marked."""

    candidates: list[_Candidate]
    refused: set[str] = field(default_factory=set)

    @property
    def reads_hello(self) -> bool:
        return any(one.router.has_tls for one in self.candidates)

    def decided(self) -> Decided[Shares]:
        """Raises TooManyHellos, TooManyRules and TooManyNetworks."""
        classes = [OTHER]
        if self.reads_hello:
            trees = [one.tree for one in self.candidates if one.router.has_tls]
            names = [name for tree in trees for name in names_in(tree)]
            protocols = [protocol for tree in trees for protocol in protocols_in(tree)]
            classes = hellos(names, protocols, asks_tls=True)
        chosen = {hello: self._choices(hello) for hello in classes}
        return decided(classes, lambda hello: cases_of(chosen[hello], ""))

    def _choices(self, hello: Hello) -> list[Choice]:
        """Of the routers that serve such connections, up to one that takes all."""
        asked = [one for one in self.candidates if one.router.has_tls == hello.tls]
        found: list[Choice] = []
        for _, equals in groupby(asked, key=lambda one: one.router.priority):
            group = [(one, truth) for one in equals if (truth := self._truth(one, hello))]
            self._tell_apart(group)
            for one, truth in group:
                name = one.router.name
                allowed = all_of([truth, one.allow])
                if isinstance(allowed, Unknown):
                    self._refuse(one, allowed)
                elif not _is_never(allowed):
                    found.append(Choice(allowed, name))
                if one.allow is not True:
                    found.append(Choice(truth, ""))
            if any(truth is True for _, truth in group):
                break
        return found

    def _truth(self, one: _Candidate, hello: Hello) -> Truth:
        """False of what tcpmux can't tell."""
        truth = one.tree.truth(hello)
        if isinstance(truth, Unknown):
            self._refuse(one, truth)
        return False if one.router.name in self.refused else truth

    def _refuse(self, one: _Candidate, why: Unknown) -> None:
        if one.router.name not in self.refused:
            self.refused.add(one.router.name)
            one.router.node["rule"].changes(f"{why.note}: {_LEFT}", why.needs)

    @staticmethod
    def _tell_apart(group: Sequence[tuple[_Candidate, Truth]]) -> None:
        for (one, first), (other, second) in combinations(group, 2):
            if not _is_never(all_of([first, second])):
                note = f"it has the priority of {one.router.name}, which is asked first here: give "
                other.router.node["rule"].changes(f"{note}them a priority")


def _is_never(truth: Truth) -> bool:
    if isinstance(truth, Among):
        return not truth.clients
    if isinstance(truth, Split):
        return not truth.otherwise and not any(value for _, value in truth.parts)
    return truth is False


def draft_of(
    entry_point: EntryPoint, services: Services, middlewares: dict[str, Node]
) -> Draft | None:
    """None: its port is not opened."""
    routers = sorted(entry_point.routers, key=lambda one: (-one.priority[0], one.name))
    choosing = _Choosing([made for router in routers if (made := _candidate(router, middlewares))])
    try:
        to = choosing.decided()
        if choosing.refused:
            left = [one for one in choosing.candidates if one.router.name not in choosing.refused]
            to = _Choosing(left).decided()
    except (TooManyHellos, TooManyRules, TooManyNetworks) as error:
        note = f"{str(error) or 'its lists are too long'}: its port is not opened"
        entry_point.node["address"].changes(note, "longer lists")
        return None
    names = {name for of in (to.rest, *(of for _, of in to.rules)) for name, _ in of if name}
    at = entry_point.node.place
    if not names or at is None or entry_point.address is None:
        entry_point.node["address"].changes("no router gets its connections: it is not opened")
        return None
    shares: dict[str, list[tuple[Pool, Fraction]]] = {}
    sections = {f"entry point {entry_point.name}"}
    reaches = True
    for router in routers:
        sections.add(f"router {router.name}")
        if router.name not in names:
            if router.name not in choosing.refused:
                router.node["rule"].mapped("routers before it get all connections")
            router.node.mapped()
            continue
        of = services.shares(router.node["service"].text(), router.node["service"])
        sections |= of.sections
        reaches = reaches and (of.reaches or len(of.parts) < 2)
        shares[router.name] = [(services.pool(name), share) for name, share in of.parts.items()]

    def led(to: Shares) -> list[tuple[Pool, Fraction]]:
        return [one for name, _ in to for one in shares.get(name, ())]

    policy = RoutePolicy(
        retry=Retry(attempts=1),
        accept_proxy=entry_point.accept_proxy,
        on_unavailable="redistribute" if reaches else "reject",
        preread=_preread(entry_point, to),
    )
    return Draft(
        entry_point.name,
        [entry_point.address],
        led(to.rest),
        at,
        policy=policy,
        sections=sections,
        branches=[Branch(when, led(of)) for when, of in to.rules],
    )


def _preread(entry_point: EntryPoint, to: Decided[Shares]) -> Preread:
    if not any(when.reads_hello for when, _ in to.rules):
        return Preread()
    for router in entry_point.routers:
        if router.has_tls:
            router.node["tls"].mapped(_HELLOS)
    timeout = read_timeout(entry_point.node)
    return Preread(True, timeout, starttls="postgres", silent="reject")


def _candidate(router: Router, middlewares: dict[str, Node]) -> _Candidate | None:
    """None: Traefik would not have the router, or tcpmux can't tell."""
    try:
        made = _Candidate(router, tree_of(router.node["rule"].text()))
    except Malformed as error:
        router.node["rule"].changes(f"{error}: {_LEFT}", "such rules")
        return None
    lists, _ = limits_of(router, middlewares)
    for entry in router.node["middlewares"]:
        found = middlewares.get(name := plain(entry.text()) or "")
        if found is not None and found["inflightconn"]:
            note = (
                f"inFlightConn of {name}: a route has one limit for all routers of its entry point"
            )
            entry.changes(note, "limits of rules")
    made.allow = all_of([Among(one) for one in lists])
    return made
