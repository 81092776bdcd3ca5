"""Health checks of a backend's servers: when and how often. What is asked is in scripts.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tcpmux.config.address import Address, HostName
from tcpmux.config.check import Check
from tcpmux.config.rows import DAY
from tcpmux.config.settings import Passive, SlowStart
from tcpmux.convert.haproxy.options import Option
from tcpmux.convert.haproxy.proxies import Section, guarded
from tcpmux.convert.haproxy.scripts import asked
from tcpmux.convert.haproxy.servers import Line, Servers, agreed
from tcpmux.convert.haproxy.timeouts import Times
from tcpmux.convert.haproxy.values import (
    Refused,
    seconds,
    whole,
    whole_milliseconds,
)
from tcpmux.convert.report import Report

INTERVAL, FALL, RISE, ERROR_LIMIT = 2.0, 3, 2, 10  # HAProxy's defaults
_DETAILS = ("inter", "fastinter", "downinter", "fall", "rise", "port", "addr")
OF_CHECKS = (*_DETAILS, "observe", "on-error", "error-limit", "check-ssl", "verify")
OFF = Passive(errors=0)
AT_ONCE = SlowStart()
UNCHECKED = "tcpmux does not check these servers"
DIFFER = "tcpmux checks all endpoints of a destination in the same way"


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one server. Times in s."""

    interval: float
    fast: float
    down: float
    fall: int
    rise: int
    port: int


@dataclass(slots=True)
class Health:
    check: Check | None = None
    passive: Passive = OFF
    slow_start: SlowStart = AT_ONCE


def can_go_down(line: Line) -> bool:
    """Whether HAProxy may stop using the server."""
    return "check" in line.options or "track" in line.options or "agent-check" in line.options


def health_of(back: Section, servers: Servers, times: Times, report: Report) -> Health:
    found = Health()
    lines = servers.all
    for line in lines:
        if "track" in line.options:
            line.options["track"].changes(
                "the server's state would not follow the tracked server",
                "tracked states",
            )
    checked = [line for line in lines if "check" in line.options]
    if not checked:
        _mark_unchecked(lines, "no server has a check")
        return found
    _mark_unchecked(
        [line for line in lines if "check" not in line.options], "the server has no check"
    )
    kind = asked(back, report)
    timing = _timing(checked, report)
    if timing is None:
        return found
    kind = _over_tls(kind, checked)
    found.check = _check(kind, timing, times)
    for line in checked:
        line.options["check"].mapped()
    if kind is None:
        for line in checked:
            line.options["check"].changes(UNCHECKED, "scripted checks")
    elif len(checked) < len(lines):
        _told_of_unchecked(lines, kind, timing.port or kind.port)
    found.passive = _passive(checked, timing)
    found.slow_start = _slow_start(checked)
    return found


def _over_tls(kind: Check | None, checked: Sequence[Line]) -> Check | None:
    """With check-ssl of all of them or `http-check connect ssl`, and no certificate verified."""
    if kind is not None and kind.tls:
        _unverified(checked)
        return kind
    asking = [line for line in checked if "check-ssl" in line.options]
    if not asking or kind is None:
        return kind
    plain = all("verify" in o and o["verify"].text == "none" for o in (x.options for x in asking))
    if plain and len(asking) == len(checked) and kind.kind in ("tcp", "http"):
        for line in asking:
            line.options["check-ssl"].mapped()
            if "ssl" not in line.options:
                line.options["verify"].mapped()
        return Check("tls", port=kind.port) if kind.kind == "tcp" else replace(kind, tls=True)
    for line in asking:
        for name in ("check-ssl", "verify"):
            if name in line.options:
                line.options[name].changes("tcpmux would check it without TLS", "TLS")
    return kind


def _unverified(checked: Sequence[Line]) -> None:
    """Marks what `http-check connect ssl` makes of the words of servers."""
    for line in checked:
        options = line.options
        if "verify" not in options or options["verify"].text != "none":
            options["check"].changes("tcpmux does not verify the certificate", "TLS")
        for name in ("check-ssl", "verify"):
            if name in options and "ssl" not in options:
                options[name].mapped()


def _told_of_unchecked(lines: Sequence[Line], kind: Check, port: int) -> None:
    """A check that is a connect sees what connections meet with anyway. port: another; 0 = none."""
    for line in lines:
        if "check" in line.options:
            continue
        word = line.at.words[1]
        if kind.kind == "tcp" and not port:
            line.at.mapped(line.at.words[0], word, note="tcpmux also checks this server")
        else:
            line.at.changes(
                word,
                note=f"tcpmux would also check this server: {DIFFER}",
                needs="checks of one endpoint",
            )


def _mark_unchecked(lines: Sequence[Line], note: str) -> None:
    for line in lines:
        for name in OF_CHECKS:
            if name in line.options and not (name == "verify" and "ssl" in line.options):
                line.options[name].harmless(note)
        if "slowstart" in line.options:
            line.options["slowstart"].harmless(f"{note}, so it never goes down")


def _timing(checked: Sequence[Line], report: Report) -> Timing | None:
    """What they have in common."""
    found: list[Timing] = []
    for line in checked:
        guarded(report, line.at, lambda of=line: found.append(_timing_of(of)))  # type: ignore[misc]
    if len(found) < len(checked):
        return None
    same = found[0] if len(set(found)) == 1 else None
    unequal = _unequal(checked)
    for line in checked:
        for name in _DETAILS:
            option = line.options.get(name)
            if option is None or name == "addr":
                continue
            if same is None:
                note = f"{UNCHECKED}: {DIFFER}" if name in unequal else UNCHECKED
                option.changes(note, "checks of one endpoint")
            elif name == "downinter" and same.down != same.interval:
                option.changes(
                    "tcpmux checks servers that are down at `inter`", "the interval while down"
                )
            else:
                option.mapped()
    if same is None:
        for line in checked:
            line.options["check"].changes(f"{UNCHECKED}: {DIFFER}", "checks of one endpoint")
    return same


def _unequal(lines: Sequence[Line]) -> set[str]:
    """Options that servers differ in."""
    said = [{n: o.text for n, o in line.options.items() if n in _DETAILS} for line in lines]
    return {name for name in _DETAILS if len({of.get(name) for of in said}) > 1}


def _timing_of(line: Line) -> Timing:
    """Raises Refused."""
    options = line.options

    def time(name: str, otherwise: float) -> float:
        return whole_milliseconds(seconds(options[name].text)) if name in options else otherwise

    def number(name: str, otherwise: int, high: int) -> int:
        return whole(options[name].text, 1, high) if name in options else otherwise

    interval = time("inter", INTERVAL)
    port = number("port", 0, 65535) if line.options.get("port") else 0
    of = line.endpoint
    if isinstance(of, (Address, HostName)) and of.port == port:
        port = 0
    if "addr" in options:
        own = of.host if isinstance(of, Address) else of.name if of else line.host
        if options["addr"].text.strip("[]") == own:
            options["addr"].mapped()
        else:
            options["addr"].changes(
                "tcpmux checks the server's own address", "checks at another address"
            )
    return Timing(
        interval,
        time("fastinter", interval),
        time("downinter", interval),
        number("fall", FALL, 2**31 - 1),
        number("rise", RISE, 2**31 - 1),
        port,
    )


def _check(kind: Check | None, timing: Timing, times: Times) -> Check | None:
    """Raises nothing: what is beyond tcpmux's ranges has been refused before."""
    if kind is None:
        return None
    timeout = timing.interval
    if times.check:
        connect = min(times.connect or timing.interval, timing.interval)
        timeout = connect if kind.kind == "tcp" else connect + times.check
    return replace(
        kind,
        interval=min(max(timing.interval, 0.001), DAY),
        fast_interval=min(max(min(timing.fast, timing.interval), 0.001), DAY),
        timeout=min(max(timeout, 0.001), DAY),
        fall=min(timing.fall, 100),
        rise=min(timing.rise, 100),
        port=timing.port or kind.port,
    )


def out_of_range(checked: Sequence[Line]) -> None:
    """Marks what tcpmux can't have."""
    for line in checked:
        for name, low, high in (
            ("inter", 0.001, DAY), ("fastinter", 0.001, DAY), ("fall", 1, 100), ("rise", 1, 100),
        ):  # fmt: skip
            option = line.options.get(name)
            if option is None:
                continue
            try:
                if name in ("fall", "rise"):
                    inside = low <= whole(option.text, 0, 2**31 - 1) <= high
                else:
                    inside = low <= whole_milliseconds(seconds(option.text)) <= high
            except Refused:
                continue  # which is told where it is read
            if not inside:
                unit = "" if name in ("fall", "rise") else " s"
                option.changes(f"it is outside tcpmux's range, {low}..{high:.0f}{unit}")


_OBSERVING = ("observe", "on-error", "error-limit")


def _passive(checked: Sequence[Line], timing: Timing) -> Passive:
    """`observe layer4 on-error mark-down` ejects what fails."""
    observing = [line for line in checked if "observe" in line.options]
    for line in checked:
        if line not in observing:
            for option in _told(line)[1:]:
                option.harmless("has no effect without observe")
    if not observing:
        return OFF
    said = {
        tuple(line.options[n].text if n in line.options else "" for n in _OBSERVING)
        for line in checked
    }
    observe, action, limit = said.pop()
    plain = not said and observe == "layer4" and action == "mark-down"
    errors = int(limit or ERROR_LIMIT) if re.fullmatch(r"[0-9]{0,4}", limit, re.ASCII) else 0
    fits = plain and 1 <= errors <= 1000
    for line in observing:
        for option in _told(line):
            if fits:
                option.mapped(
                    "tcpmux uses it again when its check succeeds, later after each ejection"
                )
            else:
                option.changes(
                    "tcpmux does not count connection errors as failed checks", "observed errors"
                )
    back = whole_milliseconds(timing.rise * timing.interval)
    return Passive(errors, ejection_time=min(back, DAY), most_ejected=100) if fits else OFF


def _told(line: Line) -> list[Option]:
    return [line.options[name] for name in _OBSERVING if name in line.options]


def _slow_start(lines: Sequence[Line]) -> SlowStart:
    option: Option | None = agreed(
        lines, "slowstart", "tcpmux has one value for all endpoints of a destination"
    )
    if option is None:
        return AT_ONCE
    try:
        time = whole_milliseconds(seconds(option.text))
    except Refused:
        option.changes("HAProxy does not accept this time")
        return AT_ONCE
    option.mapped("slow start also applies to new endpoints")
    return SlowStart(time, 1) if time else AT_ONCE
