"""What hooks of rollouts are asked before a step, and told of what happens. Runs in control.

Nobody waits for one: each look at a rollout finds out what has been answered by then, and what is
told waits in a queue with bounds. The queue is part of the state that outlives control, so what was
not delivered when it died is sent again, by the same id.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tcpmux.control.hook_programs import run_program
from tcpmux.control.hook_requests import HookFailed, HookRequests, outside
from tcpmux.errors import plural, printable
from tcpmux.rollout.hooks import NO_HOOKS, Hooks, hooks_from, site_of
from tcpmux.rollout.machine import Action, Do, Rollout
from tcpmux.rollout.plan import share_name

if TYPE_CHECKING:
    from tcpmux.control.master_link import MasterLink
    from tcpmux.control.tasks import Tasks

log = logging.getLogger("tcpmux.control")

READ_AGAIN = 2.0  # s; a reload may have brought others
ASK_AGAIN = 5.0  # s between two questions to a gate
FRESH = 2.0  # s that a yes is good for
TRIES, FIRST_DELAY = 5, 1.0  # of an event; s, and twice as long each time
PASSING = (408, 429)  # with 5xx: answers after which to try again makes sense
MAX_UNTOLD = 100_000  # bytes of what is kept of them
MAX_WAITING = 100  # events for one hook of a route
MAX_TEXT = 500  # characters
PROGRAMS_AT_ONCE = 4
MAX_SHOWN = 60  # characters of a query
TOLD = ("events", "exec")


@dataclass
class _Gate:
    """What is asked before one step. text: why it waits; "" = it does not, as of `at`."""

    key: tuple[object, ...]
    text: str
    at: float = 0.0  # monotonic; of the last answer
    is_asking: bool = False


class RolloutHooks:
    """Of all routes. save: has the state written, with what untold() says."""

    def __init__(self, user_agent: str, save: Callable[[], Awaitable[None]]) -> None:
        self._requests = HookRequests(user_agent)
        self._save = save
        self._tasks: Tasks | None = None
        self._known: dict[str, tuple[float, Hooks]] = {}  # by route; when read: monotonic, s
        self._gates: dict[str, _Gate] = {}
        self._queues: dict[tuple[str, str], deque[dict[str, Any]]] = {}
        self._busy: set[tuple[str, str]] = set()
        self._programs = asyncio.Semaphore(PROGRAMS_AT_ONCE)
        self.problems: dict[tuple[str, str], str] = {}  # by route and hook: the last one
        self.failures: Counter[tuple[str, str]] = Counter()

    def start(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def close(self) -> None:
        """After its tasks have ended."""
        await self._requests.close()

    def of(self, route: str) -> Hooks:
        return self._known[route][1] if route in self._known else NO_HOOKS

    async def read(self, route: str, master: MasterLink) -> None:
        """Those of the file in force, from the master, now and then. Raises TcpmuxError; then those
        that were known before stay."""
        if route not in self._known or time.monotonic() - self._known[route][0] > READ_AGAIN:
            found = await master.request("rollout_plan", route=route)
            self.take(route, found["hooks"])

    def take(self, route: str, hooks: Mapping[str, Any]) -> None:
        self._known[route] = time.monotonic(), hooks_from(hooks)

    # --- what is asked ----------------------------------------------------------------------

    def holds(self, rollout: Rollout, action: Action, now: float) -> str:
        """Why this step, or the end, has to wait; "" = it has not. now: monotonic, s."""
        hooks, route = self.of(rollout.route), rollout.route
        asks_gate = hooks.gate and action.do is Do.STEP
        asks_queries = hooks.prometheus and rollout.step >= 0
        if not asks_gate and not asks_queries:
            return ""
        key = (rollout.began, rollout.windows, action.do, action.step, hooks)
        gate = self._gates.get(route)
        if gate is None or gate.key != key:
            gate = self._gates[route] = _Gate(key, "its hooks")
        if not gate.at or now - gate.at > (ASK_AGAIN if gate.text else FRESH):
            if not gate.is_asking and self._tasks is not None:
                gate.is_asking = True
                headers = _headers(rollout, action) if asks_gate else None
                work = self._ask(route, gate, hooks, headers, queries=bool(asks_queries))
                self._tasks.once("a hook", work)
            return gate.text or "its hooks"
        return gate.text

    async def _ask(
        self,
        route: str,
        gate: _Gate,
        hooks: Hooks,
        headers: Mapping[str, str] | None,
        *,
        queries: bool,
    ) -> None:
        text = "its hooks, which can't be asked"
        try:
            text = await self._asked(route, hooks, headers) if headers is not None else ""
            if not text and queries:
                text = await self._measured(route, hooks)
        finally:
            if text and text not in (gate.text, *self.problems.values()):
                log.info("%s: rollout waits: %s", route, text)
            gate.text, gate.at, gate.is_asking = text, time.monotonic(), False

    async def _asked(self, route: str, hooks: Hooks, headers: Mapping[str, str]) -> str:
        try:
            status = await self._requests.get(hooks.gate, headers, hooks.timeout)
        except HookFailed as error:
            return self._failed(route, "gate", f"gate {error}")
        self._worked(route, "gate")
        return "" if status == 200 else f"gate {site_of(hooks.gate)}: answered {status}, not 200"

    async def _measured(self, route: str, hooks: Hooks) -> str:
        for query in hooks.prometheus:
            name = query.query if len(query.query) <= MAX_SHOWN else f"{query.query[:MAX_SHOWN]}..."
            try:
                why = outside(await self._requests.value_of(query, hooks.timeout), query)
            except HookFailed as error:
                return self._failed(route, "prometheus", f"prometheus {error} ({name})")
            if why:
                return f"prometheus {site_of(query.url)}: {why} ({name})"
        self._worked(route, "prometheus")
        return ""

    # --- what is told -----------------------------------------------------------------------

    def tell(
        self, rollout: Rollout, event: str, text: str, by: str = "", step: int | None = None
    ) -> None:
        """Puts it into the queues; go() delivers. step: index of the one that begins."""
        hooks = self.of(rollout.route)
        for hook in TOLD:
            if getattr(hooks, hook):
                step_now = rollout.step if step is None else step
                self._put(rollout.route, hook, _document(rollout, event, text, by, step_now))

    def _put(self, route: str, hook: str, document: dict[str, Any]) -> None:
        queue = self._queues.setdefault((route, hook), deque())
        if len(queue) >= MAX_WAITING:
            del queue[1]  # the first one may be on its way
            self._failed(route, hook, f"{hook}: more than {MAX_WAITING} events wait: one is lost")
        queue.append(document)

    def go(self) -> None:
        """Has what waits delivered, in the background."""
        for at, queue in self._queues.items():
            if queue and at not in self._busy and at[0] in self._known and self._tasks is not None:
                self._busy.add(at)
                self._tasks.once("a hook", self._deliver(at, queue))

    async def _deliver(self, at: tuple[str, str], queue: deque[dict[str, Any]]) -> None:
        route, hook = at
        try:
            while queue:
                document = queue[0]
                await self._delivered(route, hook, document)
                if queue and queue[0] is document:
                    queue.popleft()
                await self._save()
        finally:
            self._busy.discard(at)

    async def _delivered(self, route: str, hook: str, document: dict[str, Any]) -> None:
        hooks = self.of(route)
        if not getattr(hooks, hook):
            return  # the file has it no more
        try:
            if hook == "exec":
                await self._run(hooks, document)
            else:
                await self._post(route, hooks, document)
        except HookFailed as error:
            self._failed(route, hook, f"{hook} {error}; event {document['event']!r} is lost")
        else:
            self._worked(route, hook)

    async def _run(self, hooks: Hooks, document: Mapping[str, Any]) -> None:
        async with self._programs:
            try:
                await run_program(hooks.exec, environment(document), hooks.timeout)
            except HookFailed as error:
                raise HookFailed(f"{hooks.exec}: {error}") from None

    async def _post(self, route: str, hooks: Hooks, document: Mapping[str, Any]) -> None:
        """Raises HookFailed when it is given up."""
        why, delay = "", FIRST_DELAY
        for number in range(1, TRIES + 1):
            try:
                status = await self._requests.post(hooks.events, document, hooks.timeout)
            except HookFailed as error:
                why = str(error)
            else:
                if 200 <= status < 300:
                    return
                why = f"{site_of(hooks.events)}: answered {status}"
                if status < 500 and status not in PASSING:
                    raise HookFailed(why)
            if number < TRIES:
                self._failed(route, "events", f"events {why}; it is tried again in {delay:g} s")
                await asyncio.sleep(delay)
                delay *= 2
        raise HookFailed(f"{why}; tried {plural(TRIES, 'time')}")

    def ended(self, route: str) -> None:
        """Its rollout: nobody waits for these any more."""
        self._gates.pop(route, None)
        for hook in ("gate", "prometheus"):
            self.problems.pop((route, hook), None)

    # --- how they do ------------------------------------------------------------------------

    def _failed(self, route: str, hook: str, text: str) -> str:
        self.failures[route, hook] += 1
        text = printable(text)[:MAX_TEXT]
        if self.problems.get((route, hook)) != text:
            log.warning("%s: hook of its rollout: %s", route, text)
        self.problems[route, hook] = text
        return text

    def _worked(self, route: str, hook: str) -> None:
        if self.problems.pop((route, hook), None) is not None:
            log.info("%s: hook of its rollout: %s works again", route, hook)

    def shown(self, route: str) -> list[dict[str, Any]]:
        """The last failure of each that has not worked since."""
        return [
            {"hook": hook, "text": text}
            for (of, hook), text in self.problems.items()
            if of == route
        ]

    # --- what outlives control --------------------------------------------------------------

    def untold(self) -> list[dict[str, Any]]:
        """Of each queue the last ones, for which the state file has room."""
        room = MAX_UNTOLD // max(1, sum(bool(queue) for queue in self._queues.values()))
        found = []
        for (_, hook), queue in self._queues.items():
            kept, size = [], 0
            for document in reversed(queue):
                size += len(json.dumps(document))
                if size > room:
                    break
                kept.append({"hook": hook, "event": document})
            found += reversed(kept)
        return found

    def waiting(self) -> set[str]:
        """The routes of which something has not been told."""
        return {route for (route, _), queue in self._queues.items() if queue}

    def forget(self, route: str) -> None:
        """There is no such route any more."""
        for hook in TOLD:
            self._queues.pop((route, hook), None)

    def restore(self, untold: Any) -> None:
        """What untold() has said. Nothing is trusted. Raises ValueError, TypeError, KeyError."""
        for each in untold:
            document = each["event"]
            words = document["route"], document["event"]
            if each["hook"] not in TOLD or not all(isinstance(word, str) for word in words):
                raise ValueError("an event in it makes no sense")
            self._put(document["route"], each["hook"], dict(document))


def _headers(rollout: Rollout, action: Action) -> dict[str, str]:
    return {
        "Tcpmux-Route": rollout.route,
        "Tcpmux-To": rollout.plan.to,
        "Tcpmux-Step": str(action.step + 1),
        "Tcpmux-Share": share_name(rollout.plan.shares[action.step]),
    }


def _document(rollout: Rollout, event: str, text: str, by: str, step: int) -> dict[str, Any]:
    """What an event is for others: docs/how-to/rollout.md."""
    return {
        "id": secrets.token_hex(8),
        "event": event,
        "time": round(time.time(), 3),
        "host": os.uname().nodename,
        "route": rollout.route,
        "to": rollout.plan.to,
        "step": step + 1,
        "steps": [share_name(share) for share in rollout.plan.shares],
        "weights": rollout.weights,
        "text": printable(text),
        "by": printable(by),
    }


def environment(document: Mapping[str, Any]) -> dict[str, str]:
    """What the program finds in its environment of an event."""
    return {f"TCPMUX_{key.upper()}": _word(value) for key, value in document.items()}


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={number}" for name, number in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)
