"""The programs beside the workers, control and the log process, and what they are given.

Runs in the master. A configuration is prepared, which may fail, and then committed, which may not.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from tcpmux.build import build
from tcpmux.config import AccessLog, Config
from tcpmux.errors import TcpmuxError
from tcpmux.log_style import LogStyle
from tcpmux.log_targets import STANDARD_ERROR
from tcpmux.logs import set_style, style_in_use
from tcpmux.master import own_log, token
from tcpmux.master.answers import Answer
from tcpmux.master.control import ControlProcess
from tcpmux.master.duty import Duty, earliest
from tcpmux.master.fleet import HostFleet
from tcpmux.master.http_socket import bind_http
from tcpmux.master.instance import Instance
from tcpmux.master.log_process import LogProcess, open_for
from tcpmux.master.program import Arguments, Program
from tcpmux.master.reload import Sources
from tcpmux.master.state_file import StateFile
from tcpmux.master.token import NO_TOKENS, Look, Tokens, hash_descriptor
from tcpmux.privileges import User
from tcpmux.shm._declared import (
    ABSENT,
    CONTROL,
    LOG_ENDS,
    LOG_ENTRIES,
    LOG_ENTRY_SIZE,
    LOG_STARTS,
    LOGGER,
)
from tcpmux.shm._readings import unwritten_log
from tcpmux.worker.messages import STDERR

log = logging.getLogger("tcpmux.master")

CONTROL_SECONDS = 2.0  # s for control to answer what it has been asked
LOG_SECONDS = 10.0  # s for the log process to write what is left


@dataclass(slots=True)
class PreparedHelpers:
    """What HelperPrograms.prepare() has found to be possible. http: the socket to serve on from
    then on. tokens: the hashes of what admin's files hold."""

    helpers: HelperPrograms
    config: Config
    tokens: Tokens
    http: socket.socket | None
    http_is_new: bool

    def changes(self) -> list[str]:
        return token.changes(self.helpers.tokens, self.tokens)

    def commit(self) -> None:
        self.helpers.commit(self)

    def logged(self) -> None:
        self.helpers.restyle()

    def cancel(self) -> None:
        if self.http_is_new and self.http is not None:
            self.http.close()


class HelperPrograms(Duty):
    """Control and the log process of an instance. answer: what control asks. on_ready: when control
    serves."""

    def __init__(
        self,
        instance: Instance,
        sources: Sources,
        config: Config,
        fleet: HostFleet,
        answer: Callable[[dict[str, Any]], Answer],
        on_ready: Callable[[], object],
    ) -> None:
        self._instance = instance
        self._sources = sources
        self._fleet = fleet
        self._answer = answer
        self._on_ready = on_ready
        self._config = config
        self._http: socket.socket | None = None
        self.tokens = NO_TOKENS
        self._token_fds: dict[str, list[int]] = {}  # by option; what control reads them from
        self._state = StateFile(config, instance.admin.path, "rollouts")
        self._state.log_problem("no rollout can be started, as its state can't be kept")
        self._style = style_in_use()
        self._access = _access(config)
        self._restyled: dict[str, str] = {}  # by the last commit(), and not in use yet
        self._own_file = config.log.file  # as at the start
        instance.table.log_style = self._style.number
        self._started = False
        self.control = ControlProcess(instance.user, self._control_arguments)
        self._logger = LogProcess(
            instance.user, self._log_path, self._dropped, self._logger_arguments
        )
        self._programs: dict[int, Program] = {CONTROL: self.control, LOGGER: self._logger}
        for number, program in self._programs.items():
            program.starts, program.hangs = instance.table.program(number)[2:]

    @property
    def has_http(self) -> bool:
        """Whether the page is served over TCP."""
        return self._http is not None

    # --- what they are given ----------------------------------------------------------------

    def _control_arguments(self) -> Arguments:
        instance = self._instance
        fds = {
            "--admin-fd": [instance.admin.socket.fileno()],
            "--table-fd": [instance.table.reader_fd],
            "--commons-fd": [instance.commons.reader_fd],
            "--live-fd": [worker.live.reader_fd for worker in instance.workers],
            "--http-fd": [] if self._http is None else [self._http.fileno()],
            "--state-fd": [] if self._state.fd < 0 else [self._state.fd],
            **self._token_fds,
            "--fleet-fd": self._fleet.descriptors,
        }
        arguments = ["--admin-path", instance.admin.path, "--master-pid", str(os.getpid())]
        arguments += ["--build", build(), "--state-problem", self._state.problem]
        for uid in sorted({0, os.geteuid()}):
            arguments += ["--uid", str(uid)]
        for option, numbers in fds.items():
            for number in numbers:
                arguments += [option, str(number)]
        for name in self._sources.names:
            arguments += ["--config", name]
        if self._config.fleet is not None:
            arguments += ["--fleet", json.dumps(asdict(self._config.fleet))]
        admin = self._config.admin
        if admin.http is not None:
            arguments += ["--http-address", str(admin.http)]
            arguments += ["--insecure"] if admin.insecure else []
            for host in admin.hosts:
                arguments += ["--http-host", host]
        return arguments, [number for numbers in fds.values() for number in numbers]

    def _log_path(self) -> str:
        wanted = self._config.access_log
        return wanted.path if wanted is not None else ""

    def _logger_arguments(self) -> Arguments | None:
        wanted = self._config.access_log
        if wanted is None:
            return None
        instance = self._instance
        fds = [instance.table.reader_fd, *instance.workers.live_fds]
        arguments = ["--table-fd", str(fds[0]), "--master-pid", str(os.getpid())]
        for fd in fds[1:]:
            arguments += ["--live-fd", str(fd)]
        arguments += ["--path", wanted.path, "--format", wanted.format]
        arguments += ["--told", str(self._logger.told)]
        return [*arguments, "--interval", f"{wanted.interval:g}"], fds

    # --- life -------------------------------------------------------------------------------

    def open_http(self) -> None:
        """For a start: as the configuration says. Raises TcpmuxError."""
        self.prepare(self._config).commit()

    def register(self, selector: selectors.BaseSelector) -> None:
        link = self.control.link
        if link is not None and link.socket is not None:
            selector.register(link.socket, link.events)

    def due(self) -> float | None:
        programs = self._programs.values()
        times = [moment for one in programs for moment in (one.next_start(), one.next_check())]
        return earliest(*times, self.control.next_serve())

    def do(self, now: float) -> None:
        """Answers control, has a program that does not go on ended, and starts those that are to
        run."""
        self.control.serve(self._answer, self._on_ready)
        for program in self._programs.values():
            program.check(now)
        self.start_due(now)

    def start_due(self, now: float) -> None:
        self._started = True
        for program in self._programs.values():
            program.start_due(now)
        self._note()

    def _note(self) -> None:
        """In the table, for control to show and for a master to come."""
        for number, program in self._programs.items():
            wanted = program.pid or number == CONTROL or self._config.access_log is not None
            presence = program.presence if wanted else ABSENT
            self._instance.table.set_program(
                number, program.pid, presence, program.starts, program.hangs
            )

    def died(self, pid: int, status: int) -> bool:
        """Takes note of a child's end; False if it was neither of them."""
        if self._logger.died(pid, status):
            if self._config.access_log is None:
                self._count_unwritten()
            return True
        return self.control.died(pid, status)

    def end(self, timeout: float, *, for_good: bool) -> None:
        """Ends both; by force, control after `timeout` s. The log process writes what is left;
        for_good: no other one comes after it."""
        self.control.end(timeout)
        if for_good and self._unwritten():
            self._logger.start_due(float("inf"))
        self._logger.end(LOG_SECONDS)
        if for_good:
            self._count_unwritten()
        if self._http is not None:
            self._http.close()
            self._http = None

    def _unwritten(self) -> int:
        return sum(unwritten_log(worker.live) for worker in self._instance.workers)

    def _dropped(self) -> int:
        return sum(worker.live.log_dropped for worker in self._instance.workers)

    def _count_unwritten(self) -> None:
        left = self._unwritten()
        if left:
            log.warning("%d lines of the access log were lost at the end", left)

    def reopen_log(self) -> None:
        """Has the files of both logs opened anew, as after they were moved away."""
        if self._config.access_log is None and not self._own_file:
            log.info("SIGUSR1 ignored: no access log is configured (access_log), nor log.file")
        if self._own_file:
            self._reopen_own_log()
        if self._config.access_log is not None:
            self._logger.reopen()

    def _reopen_own_log(self) -> None:
        try:
            own_log.redirect(own_log.open_file(self._own_file, self._instance.user))
        except TcpmuxError as error:
            log.warning("can't reopen the log, lines still go where they went: %s", error)
            return
        self.give_stderr()
        self._set_style(self._style._replace(target="file"))

    def give_stderr(self) -> None:
        """What is standard error here now is so in every process."""
        for worker in self._instance.workers.running:
            worker.line.post(STDERR, fds=[STANDARD_ERROR])
        for program in self._programs.values():
            program.give_stderr()

    def set_log_level(self, level: str) -> None:
        """Of the diagnostic log, in every process, until the next start."""
        self._set_style(self._style._replace(level=level))

    def restyle(self) -> None:
        """As the configuration says since the last commit(). To be called after the change has been
        logged, which a higher level would hide."""
        changed, self._restyled = self._restyled, {}
        if changed:
            self._set_style(self._style._replace(**changed))

    def _set_style(self, style: LogStyle) -> None:
        self._style = style
        self._instance.table.log_style = style.number
        set_style(style)  # events are noted at any level
        self.control.push({"push": "log"})

    # --- configuration ----------------------------------------------------------------------

    def prepare(self, config: Config) -> PreparedHelpers:
        """Raises TcpmuxError if it can't be done, with everything as it was."""
        tokens = token.hashes(*token.files(config.admin))
        _check_log(config.access_log, self._instance.user)
        if self._http is not None and config.admin.http == self._config.admin.http:
            return PreparedHelpers(self, config, tokens, self._http, http_is_new=False)
        if config.admin.http is None:
            return PreparedHelpers(self, config, tokens, None, http_is_new=False)
        return PreparedHelpers(self, config, tokens, bind_http(config.admin.http), http_is_new=True)

    def look_at_tokens(self) -> Look:
        """What a reload would find in the files of the configuration in force."""
        return Look.now(self._config.admin, self.tokens)

    def commit(self, change: PreparedHelpers) -> None:
        old, new = self._config, change.config
        self._restyled = {
            key: getattr(new.log, key)
            for key in ("level", "format")
            if getattr(new.log, key) != getattr(old.log, key)
        }
        old_tokens, self.tokens = self.tokens, change.tokens
        if self._http is not None and self._http is not change.http:
            self._http.close()
        self._http, self._config = change.http, new
        if self._started and change.http_is_new:
            log.info("page http://%s/", new.admin.http)
        for descriptors in self._token_fds.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._token_fds = {
            "--token-fd": _descriptors(self.tokens.operator),
            "--viewer-token-fd": _descriptors(self.tokens.viewer),
        }
        if new.admin.http is not None and new.admin.insecure:
            log.warning(
                "admin.insecure: anyone who can connect to %s can see and change everything",
                new.admin.http,
            )
        self._fleet.open(new)
        old_access, self._access = self._access, _access(new)
        if self._started and (old_tokens, old_access) != (change.tokens, self._access):
            self.control.restart(CONTROL_SECONDS)
        wanted = new.access_log
        kinds = LOG_ENDS | (LOG_STARTS if wanted and wanted.start else 0)
        entries = min(wanted.buffer // LOG_ENTRY_SIZE, LOG_ENTRIES) if wanted else 0
        self._instance.table.log(kinds if wanted else 0, entries)
        if self._started and old.access_log != wanted:
            self._logger.restart(LOG_SECONDS)


def _access(config: Config) -> tuple[object, ...]:
    """What control has to be started anew for."""
    admin = config.admin
    return admin.http, admin.hosts, admin.insecure, config.fleet, _written(config)


def _written(config: Config) -> list[object]:
    """When the files by which etcd and this host know each other have been written: control reads
    them at its start."""
    found: list[object] = []
    for path in config.fleet.etcd.files if config.fleet is not None else ():
        try:
            status = os.stat(path)
            found.append((path, status.st_ino, status.st_size, status.st_mtime_ns))
        except OSError as error:
            found.append((path, error.errno))
    return found


def _descriptors(digest: bytes) -> list[int]:
    return [hash_descriptor(digest)] if digest else []


def _check_log(wanted: AccessLog | None, user: User) -> None:
    """Raises TcpmuxError if it could not be written."""
    fd = None if wanted is None else open_for(user, wanted.path)
    if fd is not None:
        os.close(fd)
