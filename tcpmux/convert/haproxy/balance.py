"""balance: which server a connection is given."""

from __future__ import annotations

import re

from tcpmux.convert.haproxy.proxies import Section, guarded
from tcpmux.convert.haproxy.servers import Servers
from tcpmux.convert.haproxy.values import Refused, Unsupported
from tcpmux.convert.report import Report

TURNS = ("roundrobin", "static-rr", "random")  # which server is next does not depend on the client
IN_TCP = "HAProxy uses roundrobin in mode tcp"
NO_MEMORY = (
    "HAProxy remembers the server of each client, tcpmux computes it from the address: a client "
    "whose server was down goes back to it"
)
_BALANCE = {
    "roundrobin": ("round_robin", ""),
    "static-rr": ("round_robin", ""),
    "leastconn": ("least_connections", ""),
    "source": (
        "source_hash",
        "a client keeps its server, which may differ from the one in HAProxy",
    ),
    "first": ("round_robin", ""),
    "uri": ("round_robin", IN_TCP),
    "url_param": ("round_robin", IN_TCP),
    "hdr": ("round_robin", IN_TCP),
}


def balance_of(back: Section, servers: Servers, report: Report) -> tuple[str, str]:
    """(HAProxy's word, tcpmux's)."""
    name, word = _balance(back, servers, report)
    return name, "source_hash" if _sticks_to_clients(back, name) else word


def _sticks_to_clients(back: Section, name: str) -> bool:
    """Whether a table of its own keeps each address at its server."""
    said = [[word.text for word in setting.args] for setting in back.all("stick")]
    table = back.last("stick-table")
    texts = [word.text for word in table.args] if table else []
    sticks = said == [["on", "src"]] or sorted(said) == [["match", "src"], ["store-request", "src"]]
    own = texts[:2] in (["type", "ip"], ["type", "ipv6"]) and "peers" not in texts
    if not said or not (sticks and own and name in (*TURNS, "leastconn", "source")):
        for setting in back.all("stick"):
            note = "tcpmux maps only `stick on src` with a table of addresses of its own"
            setting.at.changes(note=note, needs="stick tables")
        return False
    for setting in back.all("stick"):
        setting.at.mapped(note=NO_MEMORY)
    assert table is not None
    table.at.mapped(*table.at.words)
    return True


def _balance(back: Section, servers: Servers, report: Report) -> tuple[str, str]:
    setting = back.last("balance")
    if setting is None:
        return "roundrobin", "round_robin"
    found: list[tuple[str, str, str]] = []

    def read() -> None:
        try:
            found.append(_read([word.text for word in setting.args] or [""]))
        except Unsupported as error:
            setting.at.changes(note=str(error), needs=error.needs)

    guarded(report, setting.at, read)
    if not found:
        return "roundrobin", "round_robin"
    name, word, note = found[0]
    setting.at.mapped(note=note)
    _hash_type(back, name)
    if name == "first":
        for line in servers.backups:
            line.options["backup"].changes(
                "tcpmux would use it as soon as the others are full",
                "backups that stay idle while others are full",
            )
    return name, word


def _read(words: list[str]) -> tuple[str, str, str]:
    """(HAProxy's word, tcpmux's, a note). Raises Refused or Unsupported."""
    name = words[0].partition("(")[0]
    if name == "hash" and words[1:] == ["src"]:
        name = "source"
    if name == "random":
        draws = re.fullmatch(r"random(?:\(([0-9]{1,9})\))?", words[0], re.ASCII)
        if not draws or draws[1] == "0":
            raise Refused("expected random or random(DRAWS)")
        if int(draws[1] or 2) == 1:
            return name, "round_robin", "tcpmux uses round robin, with the same shares"
        note = "" if int(draws[1] or 2) == 2 else "tcpmux compares two servers"
        return name, "random_two", note
    if name not in _BALANCE:
        raise Unsupported("tcpmux uses round robin", "hashes of content")
    return (name, *_BALANCE[name])


def _hash_type(back: Section, name: str) -> None:
    setting = back.last("hash-type")
    if setting is not None and name == "source":
        consistent = "consistent" in [word.text for word in setting.args]
        setting.at.mapped(
            note="" if consistent else "in tcpmux, only the clients of a server that goes down move"
        )
    factor = back.last("hash-balance-factor")
    if factor is not None and name == "source" and [w.text for w in factor.args] != ["0"]:
        factor.at.changes(note="tcpmux does not bound a server's load", needs="bounded loads")
