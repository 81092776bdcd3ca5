"""Headers of the PROXY protocol: of whom a frontend expects one, and to which servers one goes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from tcpmux.config.address import Address
from tcpmux.config.check import Check
from tcpmux.config.rows import DAY
from tcpmux.config.settings import UNIX, AcceptProxy, Clients, SendProxy
from tcpmux.convert.clients import everybody_at
from tcpmux.convert.haproxy.access import Access, mark_changes, truth_of
from tcpmux.convert.haproxy.binds import Binds
from tcpmux.convert.haproxy.options import PROXY_NOTE
from tcpmux.convert.haproxy.proxies import Section
from tcpmux.convert.haproxy.servers import Line, Servers, agreed
from tcpmux.convert.haproxy.values import seconds, whole_milliseconds
from tcpmux.convert.report import Report
from tcpmux.convert.truth import Among, Unknown

NEEDS = "the PROXY protocol"
EXTENSIONS = "PROXY header extensions"
_EARLY = "`tcp-request connection` rules apply to the address that sends the header"


def headers_at(
    front: Section, binds: Binds, access: Access, at: Address, report: Report
) -> AcceptProxy:
    """At one of its addresses. The header has to be there within the client's timeout."""
    early = any(rule.stage == "connection" and rule.accepts is not None for rule in access.rules)
    everybody = everybody_at(binds.listen)
    senders: tuple[Clients, ...] = ()
    if at in binds.proxied:
        setting, word = binds.proxied[at]
        if early:
            setting.at.changes(word, note=_EARLY, needs=NEEDS)
        else:
            setting.at.mapped(word)
            senders = everybody
    for rule in access.expects:
        if early:
            mark_changes(rule.setting, rule.condition, _EARLY, NEEDS)
            continue
        truth = truth_of(rule.setting, rule.condition, at, report)
        if isinstance(truth, bool | Among):
            rule.setting.at.mapped()
            for definition in rule.condition.definitions:
                definition.at.mapped()
            if truth:
                senders += truth.clients if isinstance(truth, Among) else everybody
        elif isinstance(truth, Unknown):
            mark_changes(rule.setting, rule.condition, truth.note, truth.needs)
        else:
            note = "tcpmux does not expect headers by chance"
            mark_changes(rule.setting, rule.condition, note, NEEDS)
    are_unix = {one == UNIX for one in everybody}
    found = tuple(dict.fromkeys(one for one in senders if (one == UNIX) in are_unix))
    if {*found} >= {*everybody}:
        found = everybody
    return AcceptProxy(found, timeout=_timeout(front)) if found else AcceptProxy()


def _timeout(front: Section) -> float:
    """In s."""
    setting, timeout = front.last("timeout client"), 0.0
    if setting is not None:
        with suppress(ValueError):  # it is told with the other timeouts
            timeout = whole_milliseconds(seconds(setting.arg().text))
    return min(timeout or DAY, DAY)


# --- to servers ----------------------------------------------------------------------------------

# Option: version of the header.
_SENDS = {"send-proxy": 1, "send-proxy-v2": 2, "send-proxy-v2-ssl": 2, "send-proxy-v2-ssl-cn": 2}


def send_proxy_of(servers: Servers) -> SendProxy:
    """The header that all servers get."""
    found = SendProxy()
    for name, number in _SENDS.items():
        note = "send_proxy applies to all servers of a destination"
        option = agreed(servers.all, name, note, "PROXY headers of single servers")
        if option is not None:
            found = SendProxy(number)
    for line in servers.all:
        for name in ("send-proxy-v2-ssl", "send-proxy-v2-ssl-cn"):
            if name in line.options and found.version:
                line.options[name].mapped(_NOT_TLS)
    return _with_options(servers, found)


# Options of version 2 that are about TLS which HAProxy has ended.
_OF_TLS = {"ssl", "cert-cn", "ssl-cipher", "cert-sig", "cert-key"}
_NOT_TLS = "HAProxy also tells servers that the client's connection is not encrypted"
_OPTIONS = {"crc32c", "unique-id", "authority"}
_OWN_ID = "tcpmux's ids have a form of their own; HAProxy sends none without unique-id-format"
_AUTHORITY = 0x02  # without TLS of its own, HAProxy has one only from the header that came in


def _with_options(servers: Servers, found: SendProxy) -> SendProxy:
    """And what it says besides addresses."""
    asked = [_words(line) - _OF_TLS for line in servers.all]
    agree = all(words == asked[0] for words in asked)
    for line in servers.all:
        option, words = line.options.get("proxy-v2-options"), _words(line)
        if option is None:
            continue
        if found.version != 2:
            option.changes("it has no effect without a header of version 2", EXTENSIONS)
        elif not words <= _OPTIONS | _OF_TLS:
            option.changes(PROXY_NOTE, EXTENSIONS)
        elif words & _OPTIONS and not agree:
            option.changes("send_proxy applies to all servers of a destination", EXTENSIONS)
        else:
            notes = [_NOT_TLS] if words & _OF_TLS else []
            notes += [_OWN_ID] if "unique-id" in words else []
            option.mapped("; ".join(notes))
    if found.version != 2 or not agree or not asked:
        return found
    return SendProxy(
        2,
        crc32c="crc32c" in asked[0],
        unique_id="unique-id" in asked[0],
        passed=(_AUTHORITY,) if "authority" in asked[0] else (),
    )


def _words(line: Line) -> set[str]:
    option = line.options.get("proxy-v2-options")
    return {*option.text.split(",")} if option else set()


def check_sending(servers: Servers, check: Check | None, sent: SendProxy) -> Check | None:
    """Checks send the header that servers get, of another port only with check-send-proxy."""
    asked = [line.options.get("check-send-proxy") for line in servers.all]
    forced = all(asked) or not (check and check.port)
    for option in asked:
        if option is None:
            continue
        if not sent.version:
            note = "tcpmux sends a PROXY header in checks only if servers get one"
            option.changes(note, NEEDS)
        elif not forced:
            option.changes("one check applies to all servers of a destination", NEEDS)
        else:
            option.mapped("plain tcp checks send no header")
    return replace(check, proxy=sent.version) if check and forced else check
