"""Timeouts, as they count in HAProxy: those of the client are the frontend's, the others the
backend's; one that is missing or 0 is infinite."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.config.duration import format_duration
from tcpmux.config.rows import DAY, HOUR
from tcpmux.convert.haproxy.proxies import Section, Setting, guarded
from tcpmux.convert.haproxy.values import Unsupported, seconds, whole_milliseconds, within
from tcpmux.convert.report import Report

MOST_IDLE = 30 * DAY
MOST_QUEUED = DAY


@dataclass(slots=True)
class Times:
    """In s; 0.0 = none is set, or it is infinite."""

    connect: float = 0.0
    client: float = 0.0
    server: float = 0.0
    tunnel: float = 0.0
    client_fin: float = 0.0
    server_fin: float = 0.0
    queue: float = 0.0
    check: float = 0.0

    @property
    def idle(self) -> float:
        """tunnel counts for both sides; else whichever side's is over first."""
        return self.tunnel or min(filter(None, (self.client, self.server)), default=0.0)

    @property
    def after_client(self) -> float:
        """Once the client has sent its FIN, the server is waited for."""
        return self.server_fin or self.tunnel or self.server

    @property
    def after_server(self) -> float:
        return self.client_fin or self.tunnel or self.client

    @property
    def half_open(self) -> float:
        """0.0 = as idle. Of two, that of a client that has sent all and waits for the answer."""
        found = self.after_client
        if found == self.idle:
            return 0.0
        return found or MOST_IDLE


_FRONT = {"client": "client", "client-fin": "client_fin"}
_BACK = {
    "connect": "connect",
    "server": "server",
    "tunnel": "tunnel",
    "server-fin": "server_fin",
    "queue": "queue",
    "check": "check",
}


def times_of(front: Section, back: Section, report: Report) -> Times:
    """All of them are marked."""
    times = Times()
    for section, names in ((front, _FRONT), (back, _BACK)):
        for name, field in names.items():
            setting = section.last(f"timeout {name}")
            if setting is not None:
                guarded(report, setting.at, lambda s=setting, f=field: _read(s, times, f))  # type: ignore[misc]
    _explain(front, back, times)
    return times


def _read(setting: Setting, times: Times, field: str) -> None:
    # Of the last word, as `timeout client 10s` has it.
    time = whole_milliseconds(seconds(setting.arg(0).text))
    if len(setting.args) > 1:
        setting.at.changes(*setting.args[1:], note="HAProxy does not expect this word")
    setting.at.mapped(*setting.at.words[:3])
    setattr(times, field, time)


def _explain(front: Section, back: Section, times: Times) -> None:
    """What of it tcpmux does otherwise."""
    tunnel = back.last("timeout tunnel")
    for key, section in (("client", front), ("server", back)):
        setting = section.last(f"timeout {key}")
        replaced = tunnel is not None and getattr(times, key) not in (0.0, times.tunnel)
        if setting is not None and times.tunnel and replaced:
            setting.at.mapped(note="timeout tunnel replaces it once the server is connected")
    client, server = front.last("timeout client"), back.last("timeout server")
    if not times.tunnel and 0 < times.client != times.server and client is not None:
        first = client if times.client < (times.server or MOST_IDLE) else server
        if first is not None:
            first.at.mapped(
                *first.at.words,
                note="the shorter of the two: when it expires, HAProxy "
                "sends a FIN to the other side; tcpmux closes both",
            )
    if times.after_client != times.after_server:
        for key, section in (("client-fin", front), ("server-fin", back)):
            setting = section.last(f"timeout {key}")
            if setting is not None:
                setting.at.changes(
                    note="after a FIN of one side, HAProxy waits for "
                    f"{format_duration(times.after_client) if times.after_client else 'ever'} for "
                    f"the server and for "
                    f"{format_duration(times.after_server) if times.after_server else 'ever'} for "
                    "the client; half_open_timeout applies to both",
                    needs="timeouts of one side",
                )


def connect_timeout(back: Section, times: Times) -> float:
    """No limit: the kernel gives up after about two minutes, before tcpmux's longest."""
    setting = back.last("timeout connect")
    if not times.connect:
        note = "without a limit, the kernel gives up after about two minutes; connect_timeout is 1h"
        if setting is not None:
            setting.at.mapped(note=note)
        return HOUR
    if times.connect > HOUR and setting is not None:
        setting.at.mapped(
            note="connect_timeout is at most 1h; the kernel gives up after about two minutes"
        )
    return min(times.connect, HOUR)


def queue_timeout(times: Times) -> float:
    """Of connections that wait for a server: as long as for a connect, if it is not said. Raises
    Unsupported."""
    time = times.queue or times.connect
    return within(time, 0.001, MOST_QUEUED) if time else MOST_QUEUED


def refuse_unsupported(setting: Setting, error: Unsupported) -> None:
    setting.at.changes(note=str(error), needs=error.needs)
