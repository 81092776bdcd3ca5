"""Changes of the configuration: a start, a takeover, a reload. Runs in the master."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tcpmux.config import Config, HostName, Source, load_sources
from tcpmux.config.fleet import NO_FLEET, FleetState
from tcpmux.errors import TcpmuxError
from tcpmux.levels import Line, level_of
from tcpmux.master.change import Change, Done, InForce, LogLine, Weights
from tcpmux.master.consequences import without_addresses
from tcpmux.master.mirror import mirrors_that_end, mirrors_that_last
from tcpmux.master.set_weights import dropped, overridden, weights_in_file
from tcpmux.master.weights import splits
from tcpmux.master.worker_count import wanted_workers

log = logging.getLogger("tcpmux.master")

POLL_AUTO = -1  # csrc/waiter.h: TM_POLL_AUTO


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the configuration comes from. endpoints, admin: as --endpoint and --admin give them."""

    each: tuple[Source, ...]
    endpoints: tuple[str, ...] = ()
    admin: str = ""

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.each]

    def absolute(self) -> Sources:
        """The same ones, whatever the working directory."""
        return replace(self, each=tuple(source.absolute() for source in self.each))

    def read(self, fleet: FleetState = NO_FLEET) -> Config:
        """What they say now, and what the fleet has said. As load(), and no fault of ours in
        reading them ends what serves traffic: raises TcpmuxError alone."""
        try:
            return load_sources(self.each, self.endpoints, self.admin, fleet)
        except TcpmuxError:
            raise
        except Exception as error:
            log.exception("internal error while reading %s", ", ".join(self.names))
            raise TcpmuxError(f"internal error while reading the files: {error!r}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Change):
    """The configuration of a new instance, which InForce has already. Listeners of the instance
    before it are kept until the first reload."""

    kind = "start"
    rebuilds = True
    closes = False

    def plan(self, now: InForce) -> InForce:
        return now

    def report(self, done: Done) -> Iterator[LogLine]:
        return iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume(Change):
    """Goes on where another master has ended. Weights that were set at run time stay, unless the
    file has changed them. most_workers: as many as there can be; None = their number stays."""

    kind = "start"
    rebuilds = True

    most_workers: int | None

    def plan(self, now: InForce) -> InForce:
        in_file = weights_in_file(now.config)
        weights: dict[str, dict[str, int]] = {}
        for split in splits(now.image):
            was_in_file = split.file_weights
            for name, weight in split.weights.items():
                if weight != was_in_file[name] == in_file.get((split.path, name)):
                    weights.setdefault(split.path, {})[name] = weight
        most, workers = self.most_workers, now.workers
        workers = workers if most is None else wanted_workers(now.config, most)
        mirrors = mirrors_that_last(now.config, now.image)
        return replace(now, weights=weights, workers=workers, mirrors=mirrors)

    def notes(self, before: InForce, after: InForce) -> Iterator[str]:
        yield from overridden(before.image, after.image)

    def warnings(self, before: InForce, after: InForce) -> Iterator[str]:
        yield from dropped(before.image, after.image)

    def report(self, done: Done) -> Iterator[LogLine]:
        for warning in done.warnings:
            yield LogLine("warning", Line(level_of(warning), warning))
        for change in done.changes:
            yield LogLine("", Line(logging.INFO, f"{change}, generation {done.generation}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload(Change):
    """What the files say now. Weights that were set at run time are dropped: the file wins.
    most_workers: as many as there can be. weights: of the fleet, which win over documents."""

    kind = "reload"
    cause = "weights"
    rebuilds = True
    can_be_undone = True

    config: Config
    most_workers: int
    weights: Weights = field(default_factory=dict)

    def plan(self, now: InForce) -> InForce:
        names = self.config.host_names
        return replace(
            now,
            config=self.config,
            workers=wanted_workers(self.config, self.most_workers),
            addresses={name: now.addresses.get(name, ()) for name in names},
            weights=self.weights,
            mirrors={},
        )

    def differences(self, before: InForce, after: InForce) -> Iterator[str]:
        old, new = before.config, after.config
        if new.fleet != old.fleet:
            yield "fleet changed"
        if new.busy_poll != old.busy_poll:
            yield f"busy_poll {_busy_poll_text(old)}->{_busy_poll_text(new)}"
        if new.buffers != old.buffers:
            yield "buffers changed"
        old_http, new_http = old.admin.http or "off", new.admin.http or "off"
        if old_http != new_http:
            yield f"admin.http {old_http}->{new_http}"
        for key in ("hosts", "insecure"):
            if getattr(old.admin, key) != getattr(new.admin, key):
                yield f"admin.{key} changed"
        for key in ("level", "format"):
            was, now = getattr(old.log, key), getattr(new.log, key)
            if was != now:
                yield f"log.{key} {was}->{now}"
        if new.access_log != old.access_log:
            was, now = _access_log_text(old), _access_log_text(new)
            yield f"access_log {was}->{now}" if was != now else "access_log changed"
        yield from _watch_changes(old, new)
        yield from _rollout_changes(old, new)

    def notes(self, before: InForce, after: InForce) -> Iterator[str]:
        yield from overridden(before.image, after.image)
        yield from mirrors_that_end(before.image, after.image)
        for what, old, new in (
            ("log.target", before.config.log.place, after.config.log.place),
            ("admin.socket", before.config.admin.socket, after.config.admin.socket),
            ("user", before.config.user, after.config.user),
            ("group", before.config.group, after.config.group),
            ("state_dir", before.config.state_dir, after.config.state_dir),
        ):
            if old != new:
                text = f"{what} changes with the next start, not with a reload"
                yield Line(logging.WARNING, text)

    def warnings(self, before: InForce, after: InForce) -> Iterator[str]:
        """What `tcpmux check` would say of the files, too."""
        for warning in self.config.warnings:
            yield Line(logging.WARNING, str(warning))
        yield from dropped(before.image, after.image)
        yield from without_addresses(after.config, after.image, after.addresses)

    def report(self, done: Done) -> Iterator[LogLine]:
        for warning in done.warnings:
            yield LogLine("warning", Line(level_of(warning), warning))
        if done.changes:
            yield from Change.report(self, done)
        else:
            text = f"reloaded: nothing changed, generation {done.generation}"
            yield LogLine(self.kind, Line(logging.INFO, text))


def unknown_names(config: Config, now: InForce) -> list[HostName]:
    """Those that nobody has looked up yet."""
    return sorted(config.host_names - now.addresses.keys(), key=str)


def busy_poll(config: Config) -> int:
    """As the table has it."""
    return POLL_AUTO if config.busy_poll is None else config.busy_poll


def _busy_poll_text(config: Config) -> str:
    value = busy_poll(config)
    return {POLL_AUTO: "auto", 0: "off"}.get(value, f"{value} us")


def _access_log_text(config: Config) -> str:
    return config.access_log.path if config.access_log else "off"


def _watch_changes(old: Config, new: Config) -> Iterator[str]:
    """How endpoints are watched is for control alone, and not in the image."""
    before = {(r.name, d.name): d.policy for r in old.routes for d in r.destinations}
    for route in new.routes:
        for destination in route.destinations:
            was, now = before.get((route.name, destination.name)), destination.policy
            if was is None:
                continue
            if was.check != now.check:
                kinds = [policy.check.kind if policy.check else "off" for policy in (was, now)]
                what = "->".join(kinds) if kinds[0] != kinds[1] else "changed"
                yield f"{route.name}: {destination.name} check {what}"
            if was.passive != now.passive:
                yield f"{route.name}: {destination.name} passive changed"


def _rollout_changes(old: Config, new: Config) -> Iterator[str]:
    """What a rollout would do is for control alone."""
    before = {route.name: route.rollout for route in old.routes}
    for route in new.routes:
        if route.name in before and before[route.name] != route.rollout:
            yield f"{route.name}: rollout changed"
