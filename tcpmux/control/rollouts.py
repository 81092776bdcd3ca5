"""Conducts rollouts: reads what both versions do, has the master set weights, keeps the state. Runs
in control.

What is to be done is decided in tcpmux/rollout, which knows neither clocks nor processes. A change
of weights is written to the state file before the master is asked for it, and asked for again by
whoever finds it there: so it takes place once, whoever is killed in between.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcpmux import __version__
from tcpmux.control.hooks import RolloutHooks
from tcpmux.control.master_link import MasterGone, MasterRefused, MasterSilent
from tcpmux.control.rollout_file import SAVE_TIME, RolloutFile
from tcpmux.control.rollout_readings import HISTOGRAMS, reading_of, weights_of
from tcpmux.control.rollout_status import brief, ended, shown
from tcpmux.control.tasks import Tasks
from tcpmux.errors import TcpmuxError, one_line
from tcpmux.rollout import saved
from tcpmux.rollout.machine import (
    ABORTED,
    PROMOTED,
    ROLLED_BACK,
    RUNNING,
    STEPPING,
    Action,
    Do,
    Reading,
    Rollout,
    advance,
    held,
    problem_of,
    step_text,
)
from tcpmux.rollout.plan import Plan, percent_text, plan_from, steps_text
from tcpmux.shm.image import ADMIN_STATES, READY, RouteRow
from tcpmux.shm.mirror import mirroring_of, set_at_run_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tcpmux.control.connections import Connections
    from tcpmux.control.master_link import MasterLink
    from tcpmux.control.slices import Slices
    from tcpmux.shm.view import View

log = logging.getLogger("tcpmux.control")

TICK = 0.25  # s between two looks
RETRY = 1.0  # s
BEGIN_TIME = 5.0  # s that a rollout which is to begin does
KILLED_AT_ONCE = 1000  # ids in one request to the master
MAX_KILLED = 20_000
BY = "rollout"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Another one after each boot; "" = the kernel does not say."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def mount_namespace() -> int:
    """Another one in each container; 0 = the kernel does not say."""
    try:
        return os.stat("/proc/self/ns/mnt").st_ino
    except OSError:
        return 0


class Rollouts:
    """Of the routes of a View. fd: of the state file, or None, and problem says why."""

    def __init__(
        self,
        view: View,
        connections: Connections,
        slices: Slices,
        fd: int | None = None,
        problem: str = "",
    ) -> None:
        self._view = view
        self._connections = connections
        self._slices = slices
        self._file = RolloutFile(fd, problem)
        self._boot, self._namespace = boot_id(), mount_namespace()
        self._master: MasterLink | None = None
        self._tasks = Tasks()
        self._lock = asyncio.Lock()  # one change at a time
        self._begun = asyncio.Event()
        self.hooks = RolloutHooks(f"tcpmux/{__version__}", self._save_later)
        self._tell_of_pause: list[Rollout] = []  # once their hooks are known
        self.runs: dict[str, Rollout] = {}
        self.history: dict[str, list[dict[str, Any]]] = {}
        self.ends: dict[tuple[str, str], int] = {}  # how many, by route and end

    def start(self, master: MasterLink, tell: Callable[[str], object] = lambda _: None) -> None:
        """tell: gets a line for each fault in here."""
        self._master = master
        self._tasks = Tasks(tell)
        self.hooks.start(self._tasks)
        self._load()
        self._tasks.keep("rollouts", self._go_on)

    async def close(self) -> None:
        await self._tasks.close()
        await self.hooks.close()
        self._file.close()

    # --- the state file ---------------------------------------------------------------------

    def _load(self) -> None:
        try:
            found = self._file.read()
            for value in found.get("rollouts", []):
                rollout = saved.rollout_from(value)
                self.runs[rollout.route] = rollout
            for value in found.get("history", []):
                end = saved.end_from(value)
                self.history.setdefault(end["route"], []).append(end)
                self._count(end)
            self.hooks.restore(found.get("untold", []))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.error(  # noqa: TRY400
                "the state of rollouts can't be read: %s; rollouts that were under way are "
                "forgotten, and their weights stay",
                error,
            )
            self.runs, self.history = {}, {}
            return
        self._pause_what_is_old(found)

    def _pause_what_is_old(self, found: Mapping[str, Any]) -> None:
        why = ""
        if found.get("boot") != self._boot:
            why = "the host was booted anew"
        elif (
            found.get("started_at") != self._view.table.started_at
            or found.get("namespace", self._namespace) != self._namespace
        ):
            why = "tcpmux was started anew"
        for rollout in self.runs.values():
            if why and rollout.state == RUNNING:
                rollout.pending = ""
                rollout.paused(f"{why}: the weights are those of the file; resume sets the step's")
                rollout.note(time.time(), f"paused: {rollout.reason}")
                self._tell_of_pause.append(rollout)

    def _count(self, end: Mapping[str, Any]) -> None:
        key = end["route"], end["end"]
        self.ends[key] = self.ends.get(key, 0) + 1

    def _recent(self) -> list[dict[str, Any]]:
        """The ends that the state file has room for, the oldest first."""
        every = [end for ends in self.history.values() for end in ends]
        return sorted(every, key=lambda end: float(end["ended"]))[-saved.MAX_SAVED :]

    async def _save_later(self) -> None:
        async with self._lock:
            await self._save()

    async def _save(self, patience: float = SAVE_TIME) -> None:
        state = {
            "boot": self._boot,
            "namespace": self._namespace,
            "started_at": self._view.table.started_at,
            "rollouts": [saved.rollout_as_json(each) for each in self.runs.values()],
            "history": self._recent(),
            "untold": self.hooks.untold(),
        }
        await self._file.write(state, patience)

    # --- the loop ---------------------------------------------------------------------------

    async def _go_on(self) -> None:
        assert self._master is not None
        await self._say_what_is_lost()
        await self._read_all_hooks()
        while not self._master.gone:
            if not self.runs:
                self._begun.clear()
                await self._begun.wait()
            began = time.monotonic()
            if not self._view.table.draining:
                try:
                    for rollout in list(self.runs.values()):
                        async with self._lock:
                            await self._read_hooks(rollout.route)
                            await self._look(rollout)
                except MasterGone:
                    return
                except TcpmuxError as error:
                    log.warning("rollouts wait for the master: %s", one_line(error))
                    await asyncio.sleep(RETRY)
            await asyncio.sleep(max(0.0, TICK - (time.monotonic() - began)))

    async def _read_hooks(self, name: str) -> None:
        """Raises MasterGone."""
        assert self._master is not None
        try:
            await self.hooks.read(name, self._master)
        except MasterSilent:
            return  # those that are known will do
        except MasterRefused:
            if name not in self.runs:
                self.hooks.forget(name)

    async def _read_all_hooks(self) -> None:
        """And has told what control has not told before it died."""
        with suppress(MasterGone):
            for name in {*self.runs, *self.hooks.waiting()}:
                await self._read_hooks(name)
        for rollout in self._tell_of_pause:
            says = f"{rollout.route}: rollout paused: {rollout.reason}"
            self.hooks.tell(rollout, "paused", says)
            await self._say(rollout.route, says, logging.WARNING)
        if self._tell_of_pause:
            await self._save_later()
        self._tell_of_pause.clear()
        self.hooks.go()

    async def _look(self, rollout: Rollout) -> None:
        if self.runs.get(rollout.route) is not rollout:
            return
        route = self._row(rollout.route)
        why = _gone(rollout, route)
        if why or route is None:
            await self._ended(rollout, ABORTED, why)
            return
        if rollout.pending == STEPPING:
            step = rollout.next_step
            said = [each["text"] for each in rollout.verdicts[-1:]]
            await self._enter(rollout, step, "".join(said) or step_text(rollout, step))
        elif rollout.pending:
            await self._end(rollout, rollout.pending, rollout.reason)
        elif rollout.state == RUNNING and (why := _changed(rollout, route)):
            await self._pause(rollout, why)
        elif rollout.state == RUNNING:
            reading = self._reading(rollout, route)
            action = advance(rollout, reading, HISTOGRAMS)
            if action.do in (Do.STEP, Do.PROMOTE):
                why = self.hooks.holds(rollout, action, reading.now)
                action = held(rollout, reading, why) if why else action
            await self._act(rollout, action)

    async def _act(self, rollout: Rollout, action: Action) -> None:
        if action.do is Do.STEP:
            verdict = rollout.last.text if rollout.last and rollout.step >= 0 else ""
            await self._step(rollout, action.step, f"{action.text}{f': {verdict}' * bool(verdict)}")
        elif action.do is Do.PROMOTE:
            await self._end(rollout, PROMOTED, action.text)
        elif action.do is Do.ROLL_BACK:
            await self._end(rollout, ROLLED_BACK, action.text)
        elif action.do is Do.PAUSE:
            await self._pause(rollout, action.text)

    def _row(self, name: str) -> RouteRow | None:
        routes = self._view.image()[1].routes
        return next((route for route in routes if route.name == name), None)

    def _reading(self, rollout: Rollout, route: RouteRow, step: int | None = None) -> Reading:
        """step: that is read for; None = the present one."""
        at = rollout.step if step is None else step
        return reading_of(self._view, rollout, route, time.monotonic(), rollout.is_shadow(at))

    # --- changes ----------------------------------------------------------------------------

    async def _step(
        self, rollout: Rollout, step: int, text: str, by: str = "", event: str = "step"
    ) -> None:
        """Has the weights of a step set, which is written down before. Raises MasterRefused."""
        route = self._row(rollout.route)
        if route is not None and not _gone(rollout, route):
            try:
                rollout.adopt(weights_of(route))
            except ValueError as error:
                raise MasterRefused("refused", f"{rollout.route}: {error}") from None
        rollout.pending, rollout.next_step = STEPPING, step
        rollout.weights = rollout.weights_of(step)
        rollout.state, rollout.reason = RUNNING, ""
        rollout.note(time.time(), text)
        says = f"{rollout.route}: rollout: {text}"
        self.hooks.tell(rollout, event, says, by, step)
        await self._save()
        await self._enter(rollout, step, text, by)

    async def _enter(self, rollout: Rollout, step: int, text: str, by: str = "") -> None:
        """What is said before it is done with may be said twice, but is not lost with control."""
        try:
            await self._mirror(rollout, on=rollout.is_shadow(step))
            await self._set_weights(rollout, rollout.weights_of(step))
        except MasterRefused as error:
            rollout.pending = ""
            await self._pause(rollout, f"the step is refused: {one_line(error)}")
            return
        route = self._row(rollout.route)
        if route is not None:
            rollout.entered(step, self._reading(rollout, route, step))
        await self._say(rollout.route, f"{rollout.route}: rollout: {text}", by=by)
        await self._save()
        self.hooks.go()

    async def _mirror(self, rollout: Rollout, *, on: bool) -> None:
        """The new version gets copies of all connections, or of none. If the file has it get some,
        it stays as the file says. Raises TcpmuxError."""
        assert self._master is not None
        route = self._row(rollout.route)
        if not rollout.plan.shadow or route is None:
            return
        here, is_own = mirroring_of(route), set_at_run_time(route) is not None
        ours = here.to == rollout.plan.to and here.share > 0
        if ours != on and (on or is_own):
            await self._master.request(
                "set_mirror",
                route=rollout.route,
                percent=100 if on else 0,
                to=rollout.plan.to,
                by=BY,
            )

    async def _set_weights(
        self, rollout: Rollout, weights: Mapping[str, int], *, back: bool = False
    ) -> None:
        """Raises TcpmuxError."""
        assert self._master is not None
        route = self._row(rollout.route)
        there = weights_of(route) if route is not None else {}
        await self._master.request(
            "set_weights",
            route=rollout.route,
            weights={name: weight for name, weight in weights.items() if name in there},
            force=back,
            rollback=back,
            by=BY,
        )

    async def _pause(self, rollout: Rollout, reason: str, by: str = "") -> None:
        rollout.paused(reason)
        rollout.note(time.time(), f"paused: {reason}")
        says = f"{rollout.route}: rollout paused: {reason}"
        self.hooks.tell(rollout, "paused", says, by)
        level = logging.INFO if by else logging.WARNING
        await self._say(rollout.route, says, level, by)
        await self._save()
        self.hooks.go()

    async def _end(self, rollout: Rollout, end: str, text: str, by: str = "") -> None:
        """The weights that belong to this end, and then it is over."""
        rollout.state, rollout.pending, rollout.reason = RUNNING, end, text
        is_back = end in (ROLLED_BACK, ABORTED)
        if is_back:
            rollout.weights = rollout.back()
        await self._save()  # what is said of it now is so, whoever is killed
        if is_back:
            await self._set_weights(rollout, rollout.weights, back=True)
        with suppress(MasterRefused):  # a route that is gone mirrors nothing
            await self._mirror(rollout, on=False)
        if is_back:  # last: whatever is tried again, these are not converged or reset twice
            await self._follow(rollout)
        await self._ended(rollout, end, text, by)

    async def _follow(self, rollout: Rollout) -> None:
        """What becomes of the connections that the new version has."""
        assert self._master is not None
        try:
            if rollout.plan.existing == "converge":
                await self._master.request(
                    "start_convergence", route=rollout.route, settings={}, by=BY
                )
            elif rollout.plan.existing == "reset":
                await self._reset(rollout)
        except (MasterRefused, MasterSilent) as error:
            log.warning(
                "%s: connections of %s stay: %s", rollout.route, rollout.plan.to, one_line(error)
            )

    async def _reset(self, rollout: Rollout) -> None:
        assert self._master is not None
        query = {"route": rollout.route, "destination": rollout.plan.to, "limit": str(MAX_KILLED)}
        _, rows = await self._connections.rows(self._connections.filter(query), self._slices)
        ids = [row["id"] for row in rows]
        for at in range(0, len(ids), KILLED_AT_ONCE):
            part = ids[at : at + KILLED_AT_ONCE]
            await self._master.request("kill", ids=part, by=BY, told=len(ids) if at == 0 else 0)

    async def _ended(self, rollout: Rollout, end: str, text: str, by: str = "") -> None:
        del self.runs[rollout.route]
        found = ended(rollout, end, text, time.time(), by)
        ends = self.history.setdefault(rollout.route, [])
        ends.append(found)
        del ends[: -saved.HISTORY]
        self._count(found)
        share = "all" if rollout.share >= 1 else percent_text(rollout.share)
        what = f"promoted: {share} to {rollout.plan.to}" if end == PROMOTED else end
        says = f"{rollout.route}: rollout {what}{f': {text}' * bool(text)}"
        self.hooks.tell(rollout, end.replace(" ", "_"), says, by)
        self.hooks.ended(rollout.route)
        level = (
            logging.WARNING if end == ROLLED_BACK or (end == ABORTED and not by) else logging.INFO
        )
        await self._say(rollout.route, says, level, by)
        await self._save()
        self.hooks.go()

    async def _say(
        self, route: str, text: str, level: int = logging.INFO, by: str = ""
    ) -> list[str]:
        """In the log and the events; and which are under way. Returns those that the master has
        known to be, and that are not any more."""
        assert self._master is not None
        running = [each.route for each in self.runs.values() if each.state == RUNNING]
        with suppress(MasterGone, MasterSilent):
            answer = await self._master.request(
                "rollout_says", route=route, text=text, level=level, running=running, by=by
            )
            return [str(name) for name in answer.get("over", [])]
        return []

    async def _say_what_is_lost(self) -> None:
        """Rollouts of the control before this one that the state file does not know."""
        if not self._file.is_there:
            return  # there was none, either
        for name in await self._say("", ""):
            if name not in self.runs:
                text = (
                    f"{name}: its rollout is forgotten, as its state could not be kept or read: "
                    "its weights stay, and nobody judges them; set them, or start it again"
                )
                await self._say(name, text, logging.ERROR)

    # --- what people ask --------------------------------------------------------------------

    async def begin(self, name: str, values: Mapping[str, Any], by: str) -> dict[str, Any]:
        """Raises MasterRefused."""
        route = self._connections.route(name)
        if not self._file.is_there:
            raise MasterRefused(
                "refused",
                f"no rollout can be started, as its state can't be kept: {self._file.problem}; "
                "make it a directory that tcpmux's user can write to, or set another state_dir, "
                "and start tcpmux again",
            )
        plan = await self._plan(name, values)
        weights = weights_of(route)
        states = {row.name: ADMIN_STATES[row.state] for row in route.destinations}
        async with self._lock:
            self._check_free(name)
            problem = problem_of(plan, weights, states) or _mirror_problem(plan, route)
            if problem:
                raise MasterRefused("refused", f"{name}: {problem}")
            rollout = Rollout(name, plan, time.time(), weights, dict(weights), by=by)
            rollout.begun(self._reading(rollout, route))
            self.runs[name] = rollout
            self._begun.set()
            await self._save(BEGIN_TIME)
            if self._file.failed:
                del self.runs[name]
                raise MasterRefused(
                    "refused",
                    f"no rollout can be started, as its state can't be kept: {self._file.failed}",
                )
            says = f"{name}: rollout to {plan.to}: {steps_text(plan.shares)}"
            self.hooks.tell(rollout, "started", says, by)
            await self._say(name, says, by=by)
            self.hooks.go()
            if not self.hooks.of(name).gate:  # else when that says so
                await self._step(rollout, 0, step_text(rollout, 0))
        return self.status(name)

    def _check_free(self, name: str) -> None:
        if name in self.runs:
            raise MasterRefused(
                "refused",
                f"{name}: a rollout to {self.runs[name].plan.to} is {self.runs[name].state} "
                "already: abort or promote it first",
            )

    async def _plan(self, name: str, values: Mapping[str, Any]) -> Plan:
        assert self._master is not None
        found = await self._master.request("rollout_plan", route=name)
        self.hooks.take(name, found["hooks"])
        in_file = found["plan"]
        try:
            base = plan_from(in_file, Plan(to="")) if in_file else Plan(to="")
            plan = plan_from(values, base)
        except ValueError as error:
            raise MasterRefused("invalid", str(error)) from None
        if not plan.to:
            raise MasterRefused(
                "invalid",
                f"{name}: the file has no `rollout` for it: name the version that is to take over, "
                "with to",
            )
        return plan

    def _run(self, name: str) -> Rollout:
        self._connections.route(name)
        if name not in self.runs:
            raise MasterRefused("refused", f"{name}: no rollout is under way")
        return self.runs[name]

    async def change(
        self, name: str, action: str, by: str, *, full: bool = False
    ) -> dict[str, Any]:
        """action: pause, resume, promote or abort. Raises MasterRefused."""
        async with self._lock:
            rollout = self._run(name)
            if full and action != "promote":
                raise MasterRefused("invalid", f"full is for promote, not for {action}")
            if action in ("resume", "promote"):
                self._check_ready(rollout)
            if action == "pause":
                if rollout.state != RUNNING:
                    raise MasterRefused("refused", f"{name} is paused already: {rollout.reason}")
                await self._pause(rollout, "by an operator", by)
            elif action == "resume":
                if rollout.state == RUNNING:
                    raise MasterRefused("refused", f"{name}: its rollout is not paused")
                await self._resume(rollout, by)
            elif action == "promote":
                await self._promote(rollout, by, full=full)
            else:
                await self._end(rollout, ABORTED, "by an operator", by)
            return self.status(name)

    def _check_ready(self, rollout: Rollout) -> None:
        """Raises MasterRefused if it would be paused at once."""
        route = self._row(rollout.route)
        if route is not None and (why := _not_ready(rollout, route)):
            raise MasterRefused("refused", f"{rollout.route}: {why}: enable it first")

    async def _resume(self, rollout: Rollout, by: str) -> None:
        step = max(0, rollout.step)
        text = f"resumed: {step_text(rollout, step)}"
        if rollout.step >= 0 or not self.hooks.of(rollout.route).gate:
            await self._step(rollout, step, text, by, "resumed")
            return
        route = self._row(rollout.route)
        if route is not None:
            rollout.begun(self._reading(rollout, route))  # and its gate is asked
        rollout.note(time.time(), "resumed")
        says = f"{rollout.route}: rollout resumed, before its first step"
        self.hooks.tell(rollout, "resumed", says, by)
        await self._say(rollout.route, says, by=by)
        await self._save()
        self.hooks.go()

    async def _promote(self, rollout: Rollout, by: str, *, full: bool) -> None:
        """To the next step, or past the last one."""
        last = len(rollout.plan.shares) - 1
        is_over = full or rollout.step >= last
        if rollout.step < last or rollout.state != RUNNING:
            step = last if is_over else rollout.step + 1
            await self._step(rollout, step, f"{step_text(rollout, step)}, by an operator", by)
        if is_over and rollout.state == RUNNING:
            await self._end(rollout, PROMOTED, "by an operator", by)

    def status(self, name: str) -> dict[str, Any]:
        """Of one route."""
        route, rollout = self._row(name), self.runs.get(name)
        now = None
        if rollout is not None:
            # What is gone is about to be aborted.
            reading = Reading(time.monotonic(), rollout.base_new, rollout.base_old)
            if route is not None and not _gone(rollout, route):
                reading = self._reading(rollout, route)
            now = shown(rollout, reading)
        history = self.history.get(name, [])
        return {
            "route": name,
            "rollout": now,
            "history": history,
            "hooks": self.hooks.shown(name),
            "unsaved": self._file.failed if rollout is not None else "",
        }

    def annotated(self, route: dict[str, Any]) -> dict[str, Any]:
        """A route of the instance's status, with how far its rollout is."""
        rollout = self.runs.get(route["name"])
        route["rollout"] = brief(rollout) if rollout else None
        return route

    def statuses(self, name: str | None) -> dict[str, Any]:
        """Of all routes that have, or had, one; or of one. Raises MasterRefused."""
        if name is not None:
            self._connections.route(name)
            return {"rollouts": [self.status(name)]}
        names = dict.fromkeys([*self.runs, *self.history])
        return {"rollouts": [self.status(each) for each in names]}


def _gone(rollout: Rollout, route: RouteRow | None) -> str:
    """Why it can't go on at all, by what is in force; "" = it can."""
    if route is None:
        return "the route is gone"
    names = {row.name for row in route.destinations}
    if rollout.plan.to not in names:
        return f"{rollout.plan.to} is gone"
    if not names.intersection(rollout.others):
        return f"{rollout.names.old} is gone"
    return ""


def _mirror_problem(plan: Plan, route: RouteRow) -> str:
    """Why the route can't begin with a shadow; "" = it can, or need not."""
    now = mirroring_of(route)
    if plan.shadow and now.share and now.to != plan.to:
        return f"its connections are mirrored to {now.to} already: end that, or leave out shadow"
    return ""


def _changed(rollout: Rollout, route: RouteRow) -> str:
    """What somebody else has done to its route; "" = nothing."""
    weights = weights_of(route)
    if weights != rollout.weights:
        now = " ".join(f"{name}={weight}" for name, weight in weights.items())
        return f"its weights are {now} now, which somebody else has set; resume sets the step's"
    mirror = mirroring_of(route)
    if rollout.is_shadow(rollout.step) and not (mirror.share and mirror.to == rollout.plan.to):
        return f"its mirror is {mirror} now, which somebody else has set; resume sets it again"
    return _not_ready(rollout, route)


def _not_ready(rollout: Rollout, route: RouteRow) -> str:
    """The new version is drained or disabled; "" = it is not, or is gone."""
    for row in route.destinations:
        if row.name == rollout.plan.to and row.state != READY:
            return f"{row.name} is {ADMIN_STATES[row.state]}"
    return ""
