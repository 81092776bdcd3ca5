"""Makes the part that control has in a fleet, from its command line. Runs in control, while it is
root: it reads the files by which etcd and this host know each other."""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import islice
from typing import TYPE_CHECKING, Any

from tcpmux import __version__
from tcpmux.config.fleet import Etcd as EtcdSettings
from tcpmux.config.fleet import Fleet
from tcpmux.control.fleet.agent import Agent
from tcpmux.control.fleet.changes import FleetChanges
from tcpmux.control.fleet.etcd import Access
from tcpmux.control.fleet.hosts import MAX_OWN_WEIGHTS
from tcpmux.control.fleet.own_weights import Weights, own_weights, unfit_weights
from tcpmux.control.fleet.saved import SavedFleet
from tcpmux.control.rollouts import boot_id
from tcpmux.errors import TcpmuxError
from tcpmux.shm._declared import ORDER_RETIRE
from tcpmux.shm.stats import is_running
from tcpmux.token_file import read_secret

if TYPE_CHECKING:
    from tcpmux.shm.view import View

COUNTED = 10.0  # s; counts in etcd are no newer


def fleet_from(text: str) -> Fleet:
    """As the master gives it."""
    value: dict[str, Any] = json.loads(text)
    etcd = dict(value["etcd"])
    etcd["endpoints"] = tuple(etcd["endpoints"])
    return Fleet(value["name"], EtcdSettings(**etcd), value["host"])


def changes_of(text: str, fd: int | None, view: View, admin: str) -> FleetChanges:
    """text: the settings. fd: of the state file. admin: path of the admin socket."""
    fleet = fleet_from(text)
    access, problem = _access(fleet.etcd)
    instance = f"{boot_id()} {admin} {view.table.started_at}"
    saved = SavedFleet(fd, sha256(instance.encode()).hexdigest()[:16])
    agent = Agent(fleet, access, saved, Facts(view).now, f"tcpmux/{__version__}")
    agent.unusable = problem
    return FleetChanges(agent)


def _access(etcd: EtcdSettings) -> tuple[Access, str]:
    """And why it can't be asked: a file of it can't be read."""
    tls, password = None, ""
    try:
        if any(member.startswith("https:") for member in etcd.endpoints):
            tls = ssl.create_default_context(cafile=etcd.ca or None)
            tls.minimum_version = ssl.TLSVersion.TLSv1_2
            if etcd.certificate:
                tls.load_cert_chain(etcd.certificate, etcd.key)
        if etcd.password_file:
            password = read_secret("fleet.etcd.password_file", etcd.password_file, [os.getegid()])
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(path for path in (etcd.ca, etcd.certificate, etcd.key) if path)
        return Access(etcd.endpoints), f"{files}: {error.strerror or error}"
    except TcpmuxError as error:
        return Access(etcd.endpoints), str(error)
    return Access(etcd.endpoints, tls, etcd.user, password), ""


class Facts:
    """What a host says of itself, from shared memory."""

    def __init__(self, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._clock = clock
        self._counted_at = -COUNTED
        self._counts: dict[str, int] = {}

    def now(self, weights: Weights) -> Mapping[str, Any]:
        """weights: of the fleet."""
        generation, image = self._view.image()
        running = [
            live for live in self._view.lives if is_running(live) and not live.orders & ORDER_RETIRE
        ]
        done = sum(live.generation_seen >= generation for live in running)
        if self._clock() >= self._counted_at + COUNTED:
            self._counted_at = self._clock()
            opened = sum(self._view.counters.slot(route.slot).opened for route in image.routes)
            connections = sum(live.connections for live in running)
            self._counts = {"opened": opened, "connections": connections}
        return {
            "version": __version__,
            "generation": generation,
            "workers": len(running),
            "workers_done": done,
            "own_weights": list(islice(own_weights(image, weights), MAX_OWN_WEIGHTS)),
            "unfit": dict(islice(unfit_weights(image, weights), MAX_OWN_WEIGHTS)),
            **self._counts,
        }
