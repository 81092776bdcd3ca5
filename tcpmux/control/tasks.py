"""Background tasks whose failures are logged and which are restarted. Runs in control.

An exception that nobody has expected is logged as an ERROR with its traceback, and told, which
makes it an event of the instance. A task that is to go on is started again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("tcpmux.control")

FIRST_DELAY, MAX_DELAY = 0.5, 30.0  # s before a task is started again
CALM = 60.0  # s without a fault, and the next delay is the first one again
CANCEL_AGAIN = 0.1  # s; a library may swallow a cancellation
TELL_AGAIN = 10.0  # s; of the same task not before
Work = Coroutine[Any, Any, None]


def _was_cancelled() -> bool:
    """By somebody who wants the task to end, and not by something that it has awaited."""
    task = asyncio.current_task()
    cancelling = getattr(task, "cancelling", None)  # Python 3.11
    return cancelling is None or cancelling() > 0


async def end_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels them, and waits for their ends. One that goes on is cancelled again."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=CANCEL_AGAIN)


class Tasks:
    """Those of one owner. tell: gets one line for each fault, from the event loop."""

    def __init__(self, tell: Callable[[str], object] = lambda _: None) -> None:
        self.tell = tell
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: dict[str, float] = {}  # by name; time of the loop

    def keep(self, name: str, work: Callable[[], Work]) -> asyncio.Task[None]:
        """Runs work() until it returns or is cancelled, anew after each exception."""
        return self._start(self._kept(name, work))

    def once(self, name: str, work: Work) -> asyncio.Task[None]:
        """Runs it once."""
        return self._start(self._watched(name, work))

    async def close(self) -> None:
        """Cancels all, and waits for their ends."""
        while self._tasks:
            await end_all(set(self._tasks))

    def fault(self, name: str, error: BaseException, then: str) -> None:
        """Logs and tells of an exception that has been caught elsewhere. then: what follows."""
        now = asyncio.get_running_loop().time()
        log.error("internal error in %s: %r; %s", name, error, then, exc_info=error)
        if now >= self._told.get(name, now):
            self._told[name] = now + TELL_AGAIN
            self.tell(f"internal error in {name}: {error!r:.200}; {then}; see the log for details")

    def _start(self, work: Work) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _kept(self, name: str, work: Callable[[], Work]) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_DELAY
        while True:
            began = loop.time()
            try:
                await work()
            except asyncio.CancelledError as error:
                if _was_cancelled():
                    raise
                fault: BaseException = error
            except Exception as error:
                fault = error
            else:
                return
            if loop.time() - began >= CALM:
                delay = FIRST_DELAY
            self.fault(name, fault, f"it is restarted in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(delay * 2, MAX_DELAY)

    async def _watched(self, name: str, work: Work) -> None:
        try:
            await work
        except asyncio.CancelledError as error:
            if _was_cancelled():
                raise
            self.fault(name, error, "it was not done")
        except Exception as error:
            self.fault(name, error, "it was not done")
