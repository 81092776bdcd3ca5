"""What a fleet has said to this instance: documents with routes, and weights. Runs in the master.

Control talks to etcd (control/fleet/), and hands on what it has found there. What was in force last
is in a file in state_dir, which control writes and the master reads at a start: so a start needs no
etcd.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from tcpmux.config import Config
from tcpmux.config.fleet import NO_FLEET, FleetState
from tcpmux.errors import TcpmuxError, one_line, plural
from tcpmux.halves import FLEET as FILE
from tcpmux.levels import Line, level_of
from tcpmux.master.answers import Refusal
from tcpmux.master.change import Change, Done, InForce, LogLine, Weights
from tcpmux.master.reload import Sources
from tcpmux.master.set_weights import weights_in_file
from tcpmux.master.state_file import StateFile
from tcpmux.master.weights import SetWeights, Split

log = logging.getLogger("tcpmux.master")


class HostFleet:
    """state: what is in force of it. file: None = the configuration names no fleet. problem: why
    what is in the file is not in force; "" = it is, or there is none. waits: routes of it are in
    force that were another master's, and nobody knows what they were made of: they must stay."""

    def __init__(self) -> None:
        self.state = NO_FLEET
        self.file: StateFile | None = None
        self.problem = ""
        self.waits = False
        self._saved = False

    def begin(self, config: Config, sources: Sources) -> Config:
        """For a start: the configuration with the routes that the fleet had last. They never keep
        an instance from starting: of a file of its own, that would be the way out; what is wrong
        here has to be mended elsewhere."""
        if config.fleet is None:
            return config
        self.open(config)
        self.state = replace(NO_FLEET, keys=config.fleet.keys)
        try:
            found = self._read()
            if found is None:
                return config
            with_fleet = sources.read(found)
        except (TcpmuxError, OSError, ValueError) as error:
            self.problem = one_line(error) if isinstance(error, TcpmuxError) else str(error)
            return config
        self.state, self._saved = found, True
        return with_fleet

    def open(self, config: Config) -> None:
        """The file, if there is to be one and is not yet."""
        if config.fleet is not None and self.file is None:
            self.file = StateFile(config, config.admin.socket, "fleet")

    def _read(self) -> FleetState | None:
        """What was in force last of this fleet. Raises OSError, ValueError."""
        assert self.file is not None
        body = FILE.read(self.file.fd) if self.file.fd >= 0 else None
        if body is None:
            return None
        try:
            found = FleetState.from_json(json.loads(body)["state"])
        except (KeyError, TypeError, RecursionError):
            raise ValueError("what was saved of the fleet makes no sense") from None
        return found if found.keys == self.state.keys else None

    def log_start(self, config: Config) -> None:
        """Of what begin() has found."""
        if config.fleet is None or self.file is None:
            return
        self.file.log_problem(
            "what the fleet says can't be kept: a start without etcd would have no routes of it",
            logging.WARNING,
        )
        name = config.fleet.name
        if self.problem:
            log.error(
                "fleet %s: its last good configuration can't be used, and its routes are not "
                "served until etcd answers: %s",
                name,
                self.problem,
                extra={"event": "fleet"},
            )
        elif self._saved:
            log.info(
                "fleet %s: its last good configuration is in force: %s, change %d; etcd has not "
                "answered yet",
                name,
                plural(len(config.fleet_routes), "route"),
                self.state.epoch,
                extra={"event": "fleet"},
            )
        else:
            log.info(
                "fleet %s: nothing of it is known yet: its routes come when etcd answers",
                name,
                extra={"event": "fleet"},
            )

    @property
    def descriptors(self) -> list[int]:
        """That of the file, if there is one."""
        return [] if self.file is None or self.file.fd < 0 else [self.file.fd]

    def is_unknown(self, config: Config) -> bool:
        """Whether there is a fleet, and nothing can be told of what it had last."""
        return config.fleet is not None and not self._saved


def _by_path(config: Config) -> dict[str, dict[str, int]]:
    """The weights in files and documents."""
    found: dict[str, dict[str, int]] = {}
    for (path, name), weight in weights_in_file(config).items():
        found.setdefault(path, {})[name] = weight
    return found


def reweighted(old: Config, new: Config) -> list[str]:
    """Routes and rules whose weights are others in the new documents: of who writes them wants
    these to be in force."""
    before, after = _by_path(old), _by_path(new)
    return sorted(path for path in before if before[path] != after.get(path))


def fitting(fleet: FleetState, config: Config) -> Weights:
    """Its weights that differ from the documents', as InForce has them. Names that are not there
    are left out, and so is a split that would have none."""
    by_path = _by_path(config)
    found: dict[str, dict[str, int]] = {}
    for path, wanted in fleet.weights.items():
        known = by_path.get(path, {})
        whole = {name: wanted.get(name, weight) for name, weight in known.items()}
        differing = {name: weight for name, weight in whole.items() if weight != known[name]}
        if differing and any(whole.values()):
            found[path] = differing
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetWeights(Change):
    """Weights that the fleet has changed, of several routes at once. None: they are the
    documents' again. Whoever wrote them has looked whether somebody is left to take connections."""

    kind = "weights"
    cause = "weights"
    can_be_undone = True

    weights: Mapping[str, Mapping[str, int] | None]

    def plan(self, now: InForce) -> InForce:
        for path, wanted in self.weights.items():
            try:
                split = Split.of(now.image, path)
            except Refusal:
                continue  # warnings() says it
            known = {**split.file_weights, **(wanted or {})}
            whole = {name: known[name] for name in split.weights}
            if any(whole.values()):
                now = SetWeights(route=path, weights=whole, force=True).plan(now)
        return now

    def warnings(self, before: InForce, after: InForce) -> Iterator[str]:  # noqa: ARG002
        for path, wanted in self.weights.items():
            yield from unfit(path, wanted or {}, after)

    def report(self, done: Done) -> Iterator[LogLine]:
        for warning in done.warnings:
            yield LogLine("warning", Line(level_of(warning), warning))
        if done.changes:
            yield from Change.report(self, done)


def unfit(path: str, wanted: Mapping[str, int], now: InForce) -> Iterator[str]:
    """Weights of the fleet that can't be followed here, a line each."""
    try:
        names = Split.of(now.image, path).weights
    except Refusal as error:
        yield Line(logging.WARNING, f"weights of the fleet for {path} are not used: {error}")
        return
    unknown = sorted(wanted.keys() - names.keys())
    if unknown:
        text = f"{path}: weights of the fleet for {', '.join(unknown)} are not used: no such names"
        yield Line(logging.WARNING, text)
