"""Assembles a control process from its command line. Runs in control, while it is root."""

from __future__ import annotations

import argparse
import os
import socket
from typing import TYPE_CHECKING

from tcpmux import __version__
from tcpmux.control.access import Rules
from tcpmux.control.conditions import Conditions
from tcpmux.control.connections import Connections
from tcpmux.control.convergences import Convergences
from tcpmux.control.event_log import EventLog
from tcpmux.control.health import Health
from tcpmux.control.history import History
from tcpmux.control.metrics import Metrics
from tcpmux.control.names import HostNames
from tcpmux.control.process import Control
from tcpmux.control.readiness import Readiness
from tcpmux.control.rollouts import Rollouts
from tcpmux.control.server import Identity, Readings
from tcpmux.control.slices import Slices
from tcpmux.control.stream import Stream
from tcpmux.logs import follow
from tcpmux.peer import peer_of
from tcpmux.shm._beat import Beat
from tcpmux.shm.stats import StatusReader
from tcpmux.shm.view import View

if TYPE_CHECKING:
    from tcpmux.control.fleet.changes import FleetChanges


def assembled(options: argparse.Namespace) -> Control:
    """Takes over the descriptors that the options name."""
    view = View(options.table_fd, options.live_fd, commons_fd=options.commons_fd)
    follow(lambda: view.table.log_style, socket.socket(fileno=options.stderr_link))
    admin = socket.socket(fileno=options.admin_fd)
    config = [path for paths in options.config for path in paths]
    path = options.admin_path or str(admin.getsockname())
    return Control(
        admin,
        socket.socket(fileno=options.master_fd),
        _readings(view, options),
        Identity(__version__, config, path, _rules(options, admin), options.build),
        None if options.http_fd is None else socket.socket(fileno=options.http_fd),
        started_by=options.master_pid,
        master_pid=lambda: view.table.master_pid,
        goes_on=Beat.attach(options.beat_fd).step,
    )


def _readings(view: View, options: argparse.Namespace) -> Readings:
    events, health, names, slices = EventLog(), Health(view), HostNames(), Slices()
    conditions, convergences = Conditions(view, health, names), Convergences(view, slices)
    identity = {"version": __version__}
    connections = Connections(view)
    rollouts = Rollouts(view, connections, slices, options.state_fd, options.state_problem)
    fleet = _fleet(view, options)
    agent = None if fleet is None else fleet.agent
    stream = Stream(view, events, identity, health, names, slices, conditions, convergences)
    return Readings(
        StatusReader(view, health.detail, names.detail),
        connections,
        events,
        Metrics(view, __version__, conditions, convergences, rollouts, agent),
        stream,
        health,
        names,
        slices,
        conditions,
        Readiness(view, conditions),
        History(view, events, slices),
        convergences,
        rollouts,
        fleet,
    )


def _fleet(view: View, options: argparse.Namespace) -> FleetChanges | None:
    """Loaded where there is one: most have none."""
    if not options.fleet:
        return None
    from tcpmux.control.fleet.begin import changes_of

    return changes_of(options.fleet, options.fleet_fd, view, options.admin_path)


def _hash(descriptor: int | None) -> bytes:
    return b"" if descriptor is None else os.pread(descriptor, 64, 0)


def _rules(options: argparse.Namespace, admin: socket.socket) -> Rules:
    _, owner = peer_of(admin)  # who made the socket, a master
    return Rules(
        frozenset({owner, *options.uid}),
        options.http_address,
        tuple(options.http_host),
        _hash(options.token_fd),
        _hash(options.viewer_token_fd),
        options.insecure,
    )
