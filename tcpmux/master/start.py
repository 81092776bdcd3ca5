"""How a master begins: a new instance, one that another master has left, or an upgrade. Runs in the
master, before its loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from tcpmux.config import Address, Config, load_sources, sources_of
from tcpmux.config.instance_schema import socket_path
from tcpmux.errors import TcpmuxError, UsageError
from tcpmux.logs import begin_log
from tcpmux.master import handoff, own_log
from tcpmux.master.denied import log_denied
from tcpmux.master.fleet import HostFleet
from tcpmux.master.handoff import Handoff
from tcpmux.master.instance import make, resume
from tcpmux.master.limits import raise_nofile
from tcpmux.master.names import look_up
from tcpmux.master.path_safety import check_socket
from tcpmux.master.port_guard import note_holders
from tcpmux.master.process import Master
from tcpmux.master.reload import Sources
from tcpmux.master.supervisor import inherited_sockets
from tcpmux.master.takeover import claim
from tcpmux.master.upgrade import REHEARSAL, check_program
from tcpmux.privileges import User, keep_for_master, resolve, try_out
from tcpmux.shm._image import read_image
from tcpmux.shm.build import build_image
from tcpmux.shm.slots import Names

ADMIN_VARIABLE = "TCPMUX_ADMIN"

log = logging.getLogger("tcpmux.master")


def run(arguments: Sequence[str], endpoints: Sequence[str] = (), admin: str = "") -> int:
    """Runs tcpmux on what these -c arguments name until it is stopped; returns the exit code.
    admin: path of the admin socket, for files that name none; "" = what $TCPMUX_ADMIN says, or the
    default.

    Takes over an instance with the same admin socket whose master has died. Raises
    TcpmuxError if it can't start: ConfigError for a bad file, ListenError for an address
    or the admin socket, Occupied if another master is there.
    """
    begin_log()
    try:
        return _run(arguments, endpoints, admin)
    except TcpmuxError as error:
        own_log.failed(error)
        raise


def _run(arguments: Sequence[str], endpoints: Sequence[str], admin: str) -> int:
    raise_nofile()  # first: an instance that is taken over comes as descriptors
    inherited = inherited_sockets(os.environ)
    sources = Sources(sources_of(arguments), tuple(endpoints), _admin_socket(admin))
    fleet = HostFleet()
    config = load_sources(sources.each, sources.endpoints, sources.admin)
    config = fleet.begin(config, sources)
    if not (inherited or handoff.VARIABLE in os.environ or os.path.exists(config.admin.socket)):
        note_holders(_addresses(config))  # with all rights; what is taken over holds its own
    user = _give_up_rights(config)
    saved = os.environ.pop(handoff.VARIABLE, None)
    if not saved:
        if admin and config.admin.socket != sources.admin:
            raise UsageError(
                f"the files say admin.socket: {config.admin.socket}; --admin is for files that "
                "name none"
            )
        check_socket(config.admin.socket)
    rehearsal = os.environ.pop(REHEARSAL, None)
    left = Handoff.load(int(saved)) if saved else claim(config.admin.socket)
    if rehearsal:
        return _rehearse(config, left)
    own_log.begin(config.log, user if left is None else left.runs_as)
    for warning in config.warnings:
        log.warning("%s", warning)
    user = _log_user(user, user if left is None else left.runs_as)
    log_denied(config, user)
    known = look_up(config, user)
    instance = make(config, user) if left is None else resume(config, left)
    instance.listeners.inherit(inherited)
    fleet.log_start(config)
    return Master(sources, config, instance, known, fleet, upgraded=saved is not None).run()


def _addresses(config: Config) -> list[Address]:
    """All TCP addresses that a start listens on."""
    every = [address for route in config.routes for address in route.listen]
    every += [config.admin.http] if config.admin.http is not None else []
    return [address for address in every if not address.path]


def _admin_socket(given: str) -> str:
    """Raises UsageError."""
    path = given or os.environ.get(ADMIN_VARIABLE, "")
    try:
        return socket_path(os.path.abspath(path)) if path else ""
    except ValueError as error:
        where = "--admin" if given else ADMIN_VARIABLE
        raise UsageError(f"{where}: {error}") from None


def _give_up_rights(config: Config) -> User:
    """Returns as whom all other processes are to run. Raises UserError."""
    user = resolve(config.user, config.group)
    try_out(user)
    try:
        keep_for_master(user)
    except OSError as error:
        raise TcpmuxError(f"can't drop unneeded privileges: {error.strerror}") from None
    return user


def _log_user(wanted: User, user: User) -> User:
    if wanted != user:
        log.warning(
            "a change of user or group takes effect at the next start; until then it stays %s", user
        )
    if user.is_root:
        log.warning("all processes run as root, with all privileges (user: root)")
    else:
        log.info("all processes except the master run as %s, without privileges", user)
    return user


def _rehearse(config: Config, left: Handoff | None) -> int:
    """Looks at what an upgrade would take over, and touches nothing of it."""
    assert left is not None
    check_program(left.runs_as)
    regions = handoff.attach(left)
    if regions is not None:
        table = regions[0]
        generation, image = read_image(table)
        names = Names.new(lambda _: True)
        names.restore(image, table.numbers_given)
        listeners = dict.fromkeys((a for route in config.routes for a in route.listen), 0)
        build_image(config, {}, names, listeners, generation + 1, {})
    return 0
