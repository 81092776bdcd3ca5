"""`split_clients`: by chance, where its key is new for each connection; else by client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

from tcpmux.config.schema import MAX_DESTINATIONS
from tcpmux.config.sticky import Prefix, Sticky
from tcpmux.convert.decisions import Decided
from tcpmux.convert.draft import Draft, plain_name
from tcpmux.convert.nginx.maps import NAME
from tcpmux.convert.nginx.scope import is_plain
from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import names_in
from tcpmux.convert.report import Effect, Report

NEEDS = "sticky sessions"
BY_HEADER = "proxy_protocol_addr"
WHOLE = Prefix(ipv6=128)  # to nginx, each address is a client
_EACH_CONNECTION = {"remote_port", "connection", "msec"}
_BY = {"remote_addr": "source", "binary_remote_addr": "source", BY_HEADER: "source", NAME: "sni"}
_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%")
_NOTES = {
    "": "nginx splits at random; tcpmux counts connections, so the shares are exact",
    "source": "the same share of clients goes to each, but not the same clients as in nginx",
    "sni": "the same share of names goes to each, but not the same names as in nginx; connections "
    "without a name go to each by its share, where nginx sends all of them to one",
}


@dataclass(frozen=True, slots=True)
class Values:
    """Of a text, with the share of connections that have each. split: the variable that gives a
    client the same one each time; "" = they go by chance."""

    shares: tuple[tuple[Fraction, str], ...]
    split: str = ""

    @property
    def merged(self) -> dict[str, Fraction]:
        """In lower case."""
        found: dict[str, Fraction] = {}
        for share, value in self.shares:
            found[value.lower()] = found.get(value.lower(), Fraction(0)) + share
        return found


@dataclass(slots=True)
class Split:
    at: Directive
    shares: list[tuple[Fraction, str]]

    @property
    def _names(self) -> set[str]:
        return names_in(self.at.argument())

    @property
    def by(self) -> str:
        """What a client keeps its part by; "" = it does not, or tcpmux can't tell."""
        names = self._names
        return _BY.get(next(iter(names)), "") if len(names) == 1 else ""

    @property
    def is_by_header(self) -> bool:
        return self._names == {BY_HEADER}

    @property
    def is_by_peer(self) -> bool:
        """By the address that nginx has for the client, whether a header named it or not."""
        return self.by == "source" and not self.is_by_header

    def mark_mapped(self) -> None:
        names, key = self._names, self.at.at.words[1]
        if not self.by and not names & _EACH_CONNECTION:
            self.changes("tcpmux splits by counting connections, not by this value")
        self.at.at.mapped(key, note=_NOTES[self.by])
        self.at.mapped()

    def changes(self, note: str, needs: str = NEEDS) -> None:
        key = self.at.at.words[1]
        if key.effect is not Effect.CHANGES:
            self.at.at.changes(key, note=note, needs=needs)


def read_split(one: Directive, report: Report) -> Split:
    """What is missing to 100 % is "", as in nginx."""
    shares: list[tuple[Fraction, str]] = []
    left = Fraction(100)
    for part in one.inside or ():
        if not is_plain(part, report, 1, 1):
            continue
        found = _PERCENT.fullmatch(part.name)
        if part.name == "*":
            share = left
        elif found is None or not (share := Fraction(part.name[:-1])):
            expected = "expected a share such as 20% or 0.5%, or *"
            report.problem(part.at, f"{expected}, got {part.name}")
            continue
        if share > left or (not left and part.name != "*"):
            report.problem(part.at, "the shares add up to more than 100%")
            continue
        left -= share
        if share:
            shares.append((share, part.argument()))
    if left:
        shares.append((left, ""))
    if len(shares) > MAX_DESTINATIONS:
        one.changes(f"a route of tcpmux has at most {MAX_DESTINATIONS} destinations")
    return Split(one, shares[:MAX_DESTINATIONS])


@dataclass(slots=True)
class Sticking:
    """The routes that give a client the same destination each time. uses: of each variable."""

    uses: dict[str, list[tuple[Draft, Values]]] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)

    def stick(
        self,
        draft: Draft,
        target: Decided[Values],
        splits: dict[str, Split],
        *,
        reads_hello: bool,
        has_headers: bool,
    ) -> list[Split]:
        """Those of the route that are by client. splits: by variable."""
        every = [*(of for _, of in target.rules), target.rest]
        parted = [of for of in every if len(of.merged) > 1]
        found = [splits[name] for name in dict.fromkeys(of.split for of in parted) if name]
        if not found:
            return []
        ways = {split.by for split in found}
        obstacle = ""
        if len(ways) > 1 or not all(of.split for of in parted):
            other = "by another key" if len(ways) > 1 else "by chance"
            obstacle = (
                "a client does not keep its destination: a route of tcpmux is sticky in one way, "
                f"and this one also splits {other}"
            )
        elif ways == {"sni"} and not reads_hello:
            obstacle = "nginx sends all connections to one destination: ssl_preread is off here"
        elif ways == {"source"} and not has_headers and any(one.path for one in draft.listen):
            obstacle = "nginx sends all clients of UNIX sockets to one destination"
        if obstacle:
            for split in found:
                split.changes(obstacle)
            return []
        for of in parted:
            self.splits[of.split] = splits[of.split]
            self.uses.setdefault(of.split, []).append((draft, of))
        sticky = Sticky(ways.pop())
        if sticky.by == "source" and (has_headers or any(":" in one.host for one in draft.listen)):
            sticky = replace(sticky, prefix=WHOLE)
        draft.policy = replace(draft.policy, sticky=sticky)
        return found

    def agree(self) -> None:
        """Once all routes are known: one split that several have is the same for a client."""
        for name, uses in self.uses.items():
            for draft, _ in uses if len({id(draft) for draft, _ in uses}) > 1 else ():
                sticky = draft.policy.sticky
                group = sticky.group or plain_name(name)
                draft.policy = replace(draft.policy, sticky=replace(sticky, group=group))
            first = uses[0][1].merged
            groups = {draft.policy.sticky.group for draft, _ in uses}
            if len(groups) > 1 or any(of.merged != first for _, of in uses):
                self.splits[name].changes(
                    "it chooses among several sets of destinations: a client's parts of these "
                    "belong together in nginx, and are independent in tcpmux"
                )
        self._note_keys()

    def _note_keys(self) -> None:
        by_key: dict[str, list[Split]] = {}
        for split in self.splits.values():
            by_key.setdefault(split.at.argument(), []).append(split)
        for splits in by_key.values():
            for split in splits if len(splits) > 1 else ():
                key = split.at.at.words[1]
                if key.effect is Effect.MAPPED:
                    key.note += "; splits with the same key agree in nginx, but not in tcpmux"
