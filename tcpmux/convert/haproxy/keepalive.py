"""TCP keepalive: off in HAProxy, unless an option says otherwise."""

from __future__ import annotations

from functools import partial

from tcpmux.config.settings import Keepalive
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import seconds, whole
from tcpmux.convert.report import Report

KERNEL = (7200, 75, 9)  # its defaults: idle, interval (s), count
OFF = Keepalive(idle=0)
MOST = 32767  # s
Numbers = tuple[int, int, int]


def keepalive_of(front: Section, back: Section, report: Report) -> Keepalive:
    client = _on(front, "clitcpka")
    server = _on(back, "srvtcpka")
    found = [
        _numbers(section, name, report)
        for section, name, on in ((front, "clitcpka", client), (back, "srvtcpka", server))
        if on
    ]
    if not found:
        return OFF
    if len(set(found)) > 1:
        for section, name in ((front, "clitcpka"), (back, "srvtcpka")):
            for part in ("idle", "intvl", "cnt"):
                setting = section.last(f"{name}-{part}")
                if setting is not None:
                    setting.at.changes(
                        note="tcpmux uses the same keepalive on both sides of a connection",
                        needs="keepalive of one side",
                    )
    if client != server:
        for section, key in ((front, "option clitcpka"), (back, "option srvtcpka")):
            setting = section.last(key)
            if setting is not None:
                setting.at.mapped(
                    *setting.at.words, note="tcpmux uses keepalive on both sides of a connection"
                )
    idle, interval, count = found[0]
    if not (1 <= idle <= MOST and 1 <= interval <= MOST and 1 <= count <= 127):
        return Keepalive(*KERNEL)
    return Keepalive(idle, interval, count)


def _on(section: Section, name: str) -> bool:
    both = section.is_on("option tcpka")
    return section.is_on(f"option {name}") or both


def _numbers(section: Section, name: str, report: Report) -> Numbers:
    found = list(KERNEL)
    for index, part in enumerate(("idle", "intvl", "cnt")):
        setting = section.last(f"{name}-{part}")
        if setting is not None:
            guarded(report, setting.at, partial(_read, setting, found, index))
    return (found[0], found[1], found[2])


def _read(setting: Setting, found: list[int], index: int) -> None:
    """index: 2 = a count, else a time whose unit is s. Raises Refused."""
    text = setting.arg().text
    found[index] = whole(text, 1, 2**31 - 1) if index == 2 else round(seconds(text, "s"))
    most = 127 if index == 2 else MOST
    if 1 <= found[index] <= most:
        setting.at.mapped()
    else:
        setting.at.changes(note=f"it is outside tcpmux's range, 1..{most}")
