"""The host names among the endpoints: which there are, and what they mean. Runs in the master.

Control looks them up, for as long as they are in use; here is what it has found. Only before
control runs, at a start, a program of its own is asked.
"""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from tcpmux import programs
from tcpmux.config import Address, Config, HostName
from tcpmux.config.address import parse_endpoint
from tcpmux.master.change import Known
from tcpmux.privileges import User

log = logging.getLogger("tcpmux.master")

LOOKUP_TIME = 5.0  # s, at a start
PROGRAM_TIME = 5.0  # s more, for the program to load and end


def look_up(config: Config, user: User) -> Known:
    """What all names of a configuration mean; one that can't be looked up has no addresses.
    user: as whom the program runs."""
    names = sorted(config.host_names, key=str)
    if not names:
        return {}
    asked = {
        "names": [str(name) for name in names],
        "servers": [str(server) for server in config.dns_servers],
        "seconds": LOOKUP_TIME,
    }
    try:
        finished = subprocess.run(
            programs.command("tcpmux.control.lookup", [], user),
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=LOOKUP_TIME + PROGRAM_TIME,
            check=True,
            cwd="/",
            env=programs.environment(),
        )
        answer: dict[str, Any] = json.loads(finished.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.error("can't resolve host names: %s", error)  # noqa: TRY400
        answer = {}
    return {name: _addresses(name, answer.get(str(name), "no answer")) for name in names}


def _addresses(name: HostName, answer: object) -> tuple[Address, ...]:
    if isinstance(answer, dict):
        for note in answer["notes"]:
            log.warning("%s: %s", name, note)
        return tuple(Address.parse(text) for text in answer["addresses"])
    log.warning("can't resolve %s (%s): it has no address until it resolves", name, answer)
    return ()


def from_request(found: Mapping[str, Any]) -> Known:
    """What control has found: {"shop.example.org:80": ["192.0.2.1:80"]}."""
    known: dict[HostName, tuple[Address, ...]] = {}
    for text, addresses in found.items():
        name = parse_endpoint(text)
        assert isinstance(name, HostName)
        known[name] = tuple(Address.parse(address) for address in addresses)
    return known


def to_push(known: Mapping[HostName, Sequence[Address]], config: Config) -> dict[str, Any]:
    """What control has to know to look them up from now on, and to tell whose they are."""
    used = [
        [
            route.name,
            destination.name,
            [str(e) for e in dict.fromkeys(destination.endpoints) if isinstance(e, HostName)],
        ]
        for route in config.routes
        for destination in route.destinations
    ]
    return {
        "push": "names",
        "names": {str(name): list(map(str, addresses)) for name, addresses in known.items()},
        "servers": [str(server) for server in config.dns_servers],
        "used": [row for row in used if row[2]],
    }
