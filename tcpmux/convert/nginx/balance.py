"""How an upstream chooses a server for a connection."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.convert.nginx.tree import Directive
from tcpmux.convert.nginx.values import names_in
from tcpmux.convert.report import Report

METHODS = ("least_conn", "hash", "random")
_CLIENT = ({"remote_addr"}, {"binary_remote_addr"})
_NAMED = {"proxy_protocol_addr"}
_EACH_CONNECTION = {"remote_port", "connection"}


@dataclass(slots=True)
class Balance:
    """The last method counts, in nginx as well. by_header: a hash of the client in the header."""

    word: str = "round_robin"
    method: str = ""
    before: Directive | None = None
    by_header: Directive | None = None

    @property
    def refuses_backups(self) -> bool:
        return self.method in ("hash", "random")

    def take(self, one: Directive, report: Report) -> None:
        if one.inside is not None:
            report.problem(one.at, f"unexpected braces after {one.name}")
            return
        if self.before is not None:
            self.before.at.remark(f"overridden by line {one.at.line}")
        self.before, self.method = one, one.name
        {"least_conn": self._least, "hash": self._hash, "random": self._random}[one.name](
            one, report
        )

    def _least(self, one: Directive, report: Report) -> None:
        if one.arguments:
            report.problem(one.at, "expected no argument")
        one.at.mapped()
        self.word = "least_connections"

    def _random(self, one: Directive, report: Report) -> None:
        texts = [word.text for word in one.arguments]
        if not texts:
            self.word = "round_robin"
            one.at.mapped(note="tcpmux uses round robin, with the same shares")
        elif texts in (["two"], ["two", "least_conn"]):
            self.word = "random_two"
            one.at.mapped()
        elif texts[0] != "two" or len(texts) > 2 or not texts[1].startswith("least_"):
            report.problem(one.at, "expected random, or random two with a method")
        else:
            self.word = "random_two"
            one.at.changes(
                note="tcpmux chooses the one of two with fewer connections", needs=texts[1]
            )

    def _hash(self, one: Directive, report: Report) -> None:
        texts = [word.text for word in one.arguments]
        if not 1 <= len(texts) <= 2 or texts[1:] not in ([], ["consistent"]):
            report.problem(one.at, "expected a key, optionally followed by consistent")
            return
        names = names_in(texts[0])
        self.word = "round_robin"
        self.by_header = one if names == _NAMED else None
        if names in _CLIENT or names == _NAMED:
            self.word = "source_hash"
            one.at.mapped(note="a client keeps its server, which may differ from the one in nginx")
        elif names & _EACH_CONNECTION:
            one.at.mapped(
                note="tcpmux uses round robin, with the same shares: the key is new each time"
            )
        else:
            one.at.changes(note="tcpmux uses round robin", needs="sticky sessions")
