"""Follows what a fleet has in etcd, and has the master put it in force. Runs in control.

    read everything     range, of one moment
    put it in force     looked over by a child of the master, then applied as a reload is
    watch from there    each change the same way; weights alone need no look
    say what is so      hosts/HOST, under a lease

Whatever fails, everything is read anew, from the next member, and what is in force stays: etcd that
is gone, wiped, or older than what is in force takes nothing away.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

from tcpmux.config.fleet import NO_FLEET, Fleet, FleetState
from tcpmux.control.fleet.contents import Contents, Keys
from tcpmux.control.fleet.etcd import MAX_KEYS, Access, Away, Change, Denied, Etcd, EtcdError
from tcpmux.control.fleet.hosts import NO_PLACE, HostKeys, retry_delay
from tcpmux.control.fleet.own_weights import Weights
from tcpmux.control.fleet.problems import fleet_problems
from tcpmux.control.fleet.saved import SavedFleet
from tcpmux.control.master_link import MasterGone, MasterLink, MasterRefused
from tcpmux.control.tasks import Tasks, end_all
from tcpmux.control.timeouts import within
from tcpmux.errors import TcpmuxError, printable

if TYPE_CHECKING:
    from tcpmux.control.names import HostNames

log = logging.getLogger("tcpmux.control")

BEAT = 3.0  # s between two signs of life
LOOKS = 5  # beats between two looks at all that is there
MAX_JUMP = 1_000_000  # changes that there may have been while a host was not there
DENIED_AGAIN = 1.0  # s
BUSY_TIMES, BUSY_PAUSE = 25, 0.2  # s; while the master looks over something else
AGAIN = 5.0  # s until what the master could not do is tried again
LEAVE_TIME = 0.5  # s; the master does not wait long for our end
SAY_AGAIN = 600.0  # s; that etcd is away
SAY_FIRST = 10.0  # s; the same, if it has been back in between: it may come and go all the time
MAX_SHOWN = 600  # characters of a problem
BY = "the fleet"


_DECIDE = (
    "nothing of it is used; `tcpmux fleet restore` writes what is in force here into etcd, `tcpmux "
    "fleet confirm` takes what is there"
)


class Agent:
    """One instance in a fleet. facts: what hosts/HOST says besides, by the fleet's weights. state:
    what is in force, or
    None until the master has said it."""

    def __init__(
        self,
        fleet: Fleet,
        access: Access,
        saved: SavedFleet,
        facts: Callable[[Weights], Mapping[str, Any]],
        user_agent: str,
    ) -> None:
        self.fleet = fleet
        self.keys = Keys(fleet.keys)
        self.state: FleetState | None = None
        self.contents = Contents(self.keys)  # as far as we have heard
        self.refused = ""  # why the documents that are there are not in force
        self.held = ""  # why nothing of what is there is in force
        self.away = "it has not answered yet"  # why etcd is not followed
        self.since = time.time()  # that
        self.unusable = ""  # why etcd can't even be asked
        self._access = access
        self._saved = saved
        self._facts = facts
        self._user_agent = user_agent
        self._etcd: Etcd | None = None
        self._own: HostKeys | None = None
        self._master: MasterLink | None = None
        self._names: HostNames | None = None
        self._tasks = Tasks()
        self._lock = asyncio.Lock()  # one thing at a time is put in force
        self._refused_documents: Mapping[str, str] | None = None
        self._again_at = 0.0
        self._say_at = 0.0  # that etcd is away
        self._said_at = -SAY_FIRST
        self._is_said = True  # so that it is said as well when it is back
        self._problem = self._odd = ""  # as the log has it
        self._problem_seen, self._problem_since = "", 0.0
        self._newest = 0  # revision of etcd that has been seen
        self._is_older = False  # etcd has been older than what is in force, or than it was
        self._moved = asyncio.Event()
        self._place = NO_PLACE  # that the master knows
        self._unfit = ""  # weights of the fleet that are for nothing here

    def start(self, master: MasterLink, names: HostNames, tell: Callable[[str], object]) -> None:
        self._master, self._names = master, names
        self._tasks = Tasks(tell)
        self._etcd = Etcd(self._access, self._user_agent)
        self._own = HostKeys(self.keys, self.fleet.host_name, self._saved.id)
        self._tasks.keep("the fleet", self._run)

    async def close(self) -> None:
        await self._tasks.close()
        if self._etcd is not None:
            if self._own is not None and not self.away:
                with suppress(EtcdError, asyncio.TimeoutError):
                    async with within(LEAVE_TIME):
                        await self._own.leave(self._etcd)
            await self._etcd.close()
        await self._saved.close()

    @property
    def etcd(self) -> Etcd:
        assert self._etcd is not None
        return self._etcd

    @property
    def master(self) -> MasterLink:
        assert self._master is not None
        return self._master

    @property
    def own(self) -> HostKeys:
        assert self._own is not None
        return self._own

    @property
    def epoch(self) -> int:
        """Of the last change that is in force."""
        return 0 if self.state is None else self.state.epoch

    def problem(self) -> str:
        """What is wrong now, in a line; "" = nothing."""
        if self.away:
            more = self.held or self.refused
            return f"etcd is not followed: {self.away}{f'; {more}' * bool(more)}"
        if self.held or self.refused:
            return self.held or self.refused
        if self.contents.wrong_weights():
            return f"not used: {self.contents.wrong_weights()}"
        if self._unfit:
            return f"not used: {self._unfit}"
        if self.own.taken_by:
            return f"another instance says that it is host {self.fleet.host_name}"
        return ""

    @property
    def problem_since(self) -> float:
        """Unix time, s, as far as somebody has looked."""
        problem = self.problem()
        if not self.away and problem != self._problem_seen:
            self._problem_seen, self._problem_since = problem, time.time()
        return self._problem_since if problem and not self.away else self.since

    def overview(self) -> dict[str, Any]:
        """For the status."""
        return {
            "name": self.fleet.name,
            "host": self.fleet.host_name,
            "epoch": self.epoch,
            "problem": self.problem(),
            "since": self.problem_since,
            "kept": not self._saved.failed,
        }

    def problems(self) -> list[dict[str, Any]]:
        """As those of the status."""
        lasts = not self.away and bool(
            self.held or self.refused or self.contents.wrong or self._unfit
        )
        away_since = self.since if self.away else None
        return fleet_problems(self.fleet.name, self.problem(), away_since, lasts=lasts)

    # --- the loop ---------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self.master.gone:
            try:
                await self._learn()
                if self.unusable:
                    raise Away(self.unusable)
                await self._follow()
            except EtcdError as error:
                self._is_away(printable(str(error)))
                self.etcd.leave()
                if isinstance(error, Denied):  # it stays so
                    await asyncio.sleep(DENIED_AGAIN)
            except MasterGone:
                return
            except TcpmuxError as error:
                self._is_away(f"the master: {error}")
            await asyncio.sleep(retry_delay())

    async def _learn(self) -> None:
        """What is in force: the master outlives us."""
        if self.state is None:
            found = await self.master.request("fleet_now")
            self.state = FleetState.from_json(found["state"])
            if self.state.keys != self.keys.prefix:
                self.state = replace(NO_FLEET, keys=self.keys.prefix)
            self._problem = found["problem"]
            if self.state.documents or self.state.weights:  # who was before may not have saved it
                self._saved.save(self.state)

    async def _follow(self) -> None:
        """Until it fails: raises EtcdError."""
        found = await self.etcd.range(self.keys.first, self.keys.end)
        self.contents = Contents(self.keys)
        self.contents.take(found.found)
        self._is_older |= found.revision < self._newest
        self._newest = found.revision
        await self._put_in_force()
        await self.own.beat(self.etcd)
        await self._say_own()
        self._is_back()
        tasks = {
            asyncio.create_task(self._watch(found.revision + 1)),
            asyncio.create_task(self._beat()),
            asyncio.create_task(self._tell()),
        }
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_all(tasks)
        errors = [task.exception() for task in tasks if not task.cancelled()]
        for error in filter(None, errors):  # all have been looked at
            raise error

    async def _watch(self, revision: int) -> None:
        changes: AsyncIterator[Change] = self.etcd.watch(self.keys.first, self.keys.end, revision)
        async for change in changes:
            self._newest = max(self._newest, change.revision)
            if change.events:
                was_full = self.contents.is_full
                self.contents.take(change.events)
                if was_full or len(self.contents.revisions) > MAX_KEYS:
                    raise Away(f"{self.etcd.member}: more keys than a fleet has: all is read anew")
                await self._put_in_force()

    async def _beat(self) -> None:
        """Says that we live, and looks whether the watch does."""
        for number in count(1):
            await self.own.beat(self.etcd)
            self._moved.set()
            whole = number % LOOKS == 0
            if await self._has_missed(whole=whole):
                await asyncio.sleep(1.0)
                if await self._has_missed(whole=whole):
                    raise Away(f"{self.etcd.member}: the watch does not tell of what has changed")
            if self._again_at and time.monotonic() >= self._again_at:
                self._again_at, self._refused_documents = 0.0, None
                await self._put_in_force()
            await asyncio.sleep(BEAT)

    async def _has_missed(self, *, whole: bool) -> bool:
        """Whether there is a version, or with `whole` anything, that we have not heard of. While
        something is being put in force what came after that has not been read yet."""
        first, end = (self.keys.first, self.keys.end) if whole else (self.keys.version, "")
        found = await self.etcd.range(first, end)
        within_key = "" if whole else self.keys.version
        misses = self.contents.misses(found.found, found.revision, within_key)
        return misses and not self._lock.locked()

    async def _tell(self) -> None:
        """In hosts/HOST, whenever something has changed."""
        while True:
            await self._moved.wait()
            self._moved.clear()
            await self._say_own()

    async def _say_own(self) -> None:
        await self.own.write(self.etcd, self.about())
        if self.own.place != self._place:
            await self.master.request("fleet_place", place=self.own.place)
            self._place = self.own.place

    def about(self) -> dict[str, Any]:
        """What hosts/HOST says."""
        weights = {} if self.state is None else self.state.weights
        facts = dict(self._facts(weights))
        unfit: Mapping[str, str] = facts.pop("unfit", {})
        self._unfit = "; ".join(
            f"{self.keys.weights(path)}: {why}: delete or mend it" for path, why in unfit.items()
        )[:MAX_SHOWN]
        problem = self.held or self.refused or self.contents.wrong_weights() or self._unfit
        return {**facts, "epoch": self.epoch, "problem": problem}

    # --- what is there, and what is in force ------------------------------------------------

    async def _put_in_force(self) -> None:
        async with self._lock:
            try:
                await self._put(self.contents.state(self._state))
                await self._say_what_is_odd()
            finally:
                self._moved.set()

    @property
    def _state(self) -> FleetState:
        assert self.state is not None
        return self.state

    async def _put(self, wanted: FleetState) -> None:
        """Raises TcpmuxError where the master does not answer."""
        before = self._state
        why = self.older(self.contents)
        if why:
            await self._hold(why)
            return
        why = self.contents.wrong_document()
        if wanted.documents == before.documents and not why:
            self._accept()
        elif await self._take(wanted, why) or self.held:
            return
        else:  # weights are followed even so
            wanted = replace(wanted, documents=before.documents)
        await self._hand_over(wanted)

    async def _take(self, wanted: FleetState, why: str) -> bool:
        """Whether its documents are in force now; if not, why is said, or has been. why: what is
        wrong with one that has not even become one."""
        if why:
            await self._refuse(wanted, why)
            self._refused_documents = None  # without that one they may be right
            return False
        if wanted.documents == self._refused_documents:
            return False
        if not await self._look(wanted):
            return False
        try:
            await self._hand_over(wanted)
        except MasterRefused as error:  # a port that somebody else has, for example
            await self._refuse(wanted, str(error))
            self._again_at = time.monotonic() + AGAIN
            return False
        self._accept()
        return True

    async def _hand_over(self, wanted: FleetState) -> None:
        """Raises TcpmuxError."""
        assert self._names is not None
        told = self.contents.told.get(next(iter(self._changed(wanted)), ""))
        by = BY if told is None or not told.who else f"{BY}: {told.who}"
        # Whoever sets weights anew wants them everywhere, also where a host has others of its own.
        epoch = self._state.epoch
        again = [path for path, each in self.contents.told.items() if each.epoch > epoch]
        await self._names.reload(by, "fleet", state=wanted.as_json(), again=again)
        if wanted != self._state:
            self.state = wanted
            self._saved.save(wanted)
        self.held = ""

    def _changed(self, wanted: FleetState) -> list[str]:
        """Routes and rules that get other weights."""
        was = self._state.weights
        return [path for path in wanted.weights if wanted.weights[path] != was.get(path)]

    async def _look(self, wanted: FleetState) -> bool:
        """Whether the documents may be put in force; if not, why is said."""
        try:
            found = await self.check(wanted)
        except MasterRefused as error:
            await self._refuse(wanted, str(error))
            if error.kind != "bad_file":
                self._again_at = time.monotonic() + AGAIN
            return False
        why = self.lost(self.contents, found)
        if why:
            await self._hold(why)
        return not why

    def older(self, contents: Contents) -> str:
        """Why it is not used, if it is older than what is in force here, or if others have gone on
        from something older, and nobody has decided that this is right; "" = it is not."""
        before, what = self._state, ""
        if before.epoch and contents.epoch > before.epoch + MAX_JUMP:
            return (
                f"etcd has change {contents.epoch}, and change {before.epoch} is in force here: "
                f"nobody makes so many: {_DECIDE}"
            )
        if contents.epoch < before.epoch:
            what = f"has change {contents.epoch or 'none'}, which is older than"
        elif (
            self._is_older and contents.decided <= before.epoch and contents.state(before) != before
        ):
            what = f"has change {contents.epoch or 'none'}, made without"
        if not what:
            return ""
        self._is_older = True
        return f"etcd {what} change {before.epoch}, in force here: {_DECIDE}"

    @staticmethod
    def lost(contents: Contents, found: Mapping[str, Any]) -> str:
        """Why it is not used, if most routes are gone and nobody has said so. found: as of
        check()."""
        lost, had = found["lost_count"], found["had_count"]
        if 2 * lost <= had or contents.are_confirmed:
            return ""
        names = ", ".join(found["lost"][:5])
        return (
            f"{lost} of {had} routes are gone from etcd ({names}), and no change through tcpmux "
            f"says so: {_DECIDE}"
        )

    async def held_back(self, contents: Contents) -> str:
        """Why this is not used, if it is what is there; "" = it is, or is wrong. Raises
        MasterGone."""
        if self.state is None:
            return ""
        why = self.held or self.older(contents)
        wanted = contents.state(self._state)
        if (
            why
            or contents.wrong_document()
            or contents.are_confirmed
            or wanted.documents == self._state.documents
        ):
            return why
        try:
            return self.lost(contents, await self.check(wanted))
        except MasterRefused:
            return ""

    async def check(self, wanted: FleetState) -> dict[str, Any]:
        """What it would change. Raises TcpmuxError: what is wrong with it."""
        for left in range(BUSY_TIMES, -1, -1):
            try:
                return await self.master.request("fleet_check", state=wanted.as_json())
            except MasterRefused as error:
                if "under way" not in str(error) or not left:
                    raise
            await asyncio.sleep(BUSY_PAUSE)
        raise AssertionError

    # --- what is said -----------------------------------------------------------------------

    async def _refuse(self, wanted: FleetState, why: str) -> None:
        self._refused_documents = wanted.documents
        lines = why.splitlines()
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        self.refused = f"{lines[0][:MAX_SHOWN]}{more}"
        self.held = ""
        await self._say(
            logging.ERROR,
            f"refused, the last good configuration stays: {self.refused}",
        )

    async def _hold(self, why: str) -> None:
        self.held = why
        await self._say(logging.ERROR, why)

    def _accept(self) -> None:
        self.refused = self.held = self._problem = ""
        self._is_older = False
        self._refused_documents, self._again_at = None, 0.0

    async def _say(self, level: int, text: str) -> None:
        """Once, for as long as it is so."""
        if text != self._problem:
            self._problem = text
            whole = f"fleet {self.fleet.name}: {text}"
            with suppress(MasterRefused):
                await self.master.request("fleet_says", text=whole, level=level)

    async def _say_what_is_odd(self) -> None:
        """Weights that make no sense: those of before stay."""
        text = self.contents.wrong_weights()
        if text != self._odd:
            self._odd = text
            if text:
                await self._told(logging.WARNING, f"not used, what was there before stays: {text}")

    def _is_away(self, why: str) -> None:
        now = time.monotonic()
        if not self.away:
            self.since, self._say_at = time.time(), min(self._say_at, self._said_at + SAY_FIRST)
        self.away = why
        if now >= self._say_at:
            self._say_at, self._said_at, self._is_said = now + SAY_AGAIN, now, True
            text = f"etcd is not followed: {why}; what is in force stays"
            self._tasks.once("telling of etcd", self._told(logging.WARNING, text))

    def _is_back(self) -> None:
        if self.away:
            self.away, self.since = "", time.time()
            if not self._is_said:
                return
            self._is_said = False
            text = f"follows etcd at {self.etcd.member}: change {self.epoch}"
            self._tasks.once("telling of etcd", self._told(logging.INFO, text))

    async def _told(self, level: int, text: str) -> None:
        with suppress(TcpmuxError):
            await self.master.request(
                "fleet_says", text=f"fleet {self.fleet.name}: {text}", level=level
            )
