r"""What pools of real drivers see while their connections follow the weights. The drivers come
from PyPI, and are no part of the tests' environment.

    pip install --target /tmp/drivers 'psycopg[binary,pool]' asyncpg redis pymysql dbutils \
        sqlalchemy
    PYTHONPATH=/tmp/drivers python -m tests.docs.pools
    PYTHONPATH=/tmp/drivers python -m tests.docs.pools asyncpg --blind

One server (PostgreSQL, MariaDB, redis) is both versions, at two addresses. 200 clients share a
pool of as many connections, each at work for a fifth of the time: transactions that take 100 ms,
and single statements. Each adds an entry of its own, so that what the server has in the end says of
each statement whether it was executed, and how often. Prints a line for each pool.
Exit codes: 0 as docs/how-to/converge.md says, 1 something was cut, in doubt, lost or done twice.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.docs.pool_drivers import DRIVERS, SERVERS, Driver, Psycopg
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.integration.test_converge_servers import PROGRAMS
from tests.support import free_port, patient, short_directory, wait_for

IN_A_TRANSACTION = 0.1  # s
PAUSE = 0.45  # s between two pieces of work, on average
SINGLE = 3  # one of so many pieces of work is a single statement
# Statement 0 is BEGIN.
PGBENCH = """BEGIN;
INSERT INTO ledger VALUES (:client_id);
SELECT pg_sleep(0.1);
COMMIT;
\\sleep 400 ms
"""
POOLS = [*DRIVERS, "pgbench", "pgbench -C"]
AFTER = 3.0  # s without a change
DEADLINE = patient(60)  # s for the live connections


class Seen:
    """What became of each piece of work, by its number. errors: what clients were told, with the
    stage it had got to."""

    def __init__(self) -> None:
        self.done: set[int] = set()
        self.undone: dict[int, str] = {}
        self.errors: Counter[str] = Counter()

    @property
    def stages(self) -> Counter[str]:
        return Counter(self.undone.values())


class Work:
    """A piece of it. stage: begin (nothing has been answered), inside, commit, done
    (what failed then was giving the connection back)."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_single = number % SINGLE == 0
        self.stage = "begin"


class Clients:
    """Of one pool; each in a thread, or in a task where the driver is asynchronous."""

    def __init__(self, driver: Driver, count: int) -> None:
        self.seen = Seen()
        self._driver, self._count = driver, count
        self._numbers = itertools.count(1)
        self._over = threading.Event()
        run = self._loop if driver.is_async else self._thread
        self._threads = [
            threading.Thread(target=run, daemon=True)
            for _ in range(1 if driver.is_async else count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(patient(60))
            assert not thread.is_alive(), "a client hangs"

    def _thread(self) -> None:
        while not self._over.wait(random.expovariate(1 / PAUSE)):
            work = Work(next(self._numbers))
            try:
                self._driver.do(work, IN_A_TRANSACTION)
                self.seen.done.add(work.number)
            except Exception as error:
                self._failed(work, error)

    def _loop(self) -> None:
        asyncio.run(self._tasks())

    async def _tasks(self) -> None:
        await self._driver.start()
        await asyncio.gather(*(self._task() for _ in range(self._count)))
        await self._driver.stop()

    async def _task(self) -> None:
        while not self._over.is_set():
            await asyncio.sleep(random.expovariate(1 / PAUSE))
            work = Work(next(self._numbers))
            try:
                await self._driver.do(work, IN_A_TRANSACTION)
                self.seen.done.add(work.number)
            except Exception as error:
                self._failed(work, error)

    def _failed(self, work: Work, error: Exception) -> None:
        if work.stage == "done":
            self.seen.done.add(work.number)
        else:
            self.seen.undone[work.number] = work.stage
        told = " ".join(str(error).split())[:90]
        self.seen.errors[f"{work.stage}: {type(error).__name__}: {told}"] += 1


def _live(proxy: Proxy) -> dict[str, int]:
    return {d["name"]: d["connections_active"] for d in proxy.status()["routes"][0]["destinations"]}


def _is_over(proxy: Proxy) -> bool:
    return proxy.client.routes()[0]["convergence"] is None


def _shift(proxy: Proxy, weights: dict[str, int]) -> str:
    """Waits until the live connections follow. Returns a report."""
    began = time.monotonic()
    proxy.client.set_weights("r", weights)
    wait_for(partial(_is_over, proxy), "its end", 2 * DEADLINE)
    return f"{weights['v1']}/{weights['v2']} in {time.monotonic() - began:.0f} s {_live(proxy)}"


def judge(seen: Seen, executed: Counter[int]) -> dict[str, int]:
    """cut: transactions that had begun. twice, lost: what the server has that it should not, or has
    not and should. in_doubt: executed though its client does not know."""
    return {
        "done": len(seen.done),
        "not begun": seen.stages["begin"],
        "cut": seen.stages["inside"],
        "failed commits": seen.stages["commit"],
        "in doubt": sum(number in executed for number in seen.undone),
        "twice": sum(times > 1 for times in executed.values()),
        "lost": sum(number not in executed for number in seen.done),
    }


def in_front(stack: ExitStack, server: int, protocol: str, options: argparse.Namespace) -> Proxy:
    """All goes to v1. Its first route has that port."""
    port = free_port()
    r = route("r", port, v1=(1, f"127.0.0.1:{server}"), v2=(0, f"127.0.0.2:{server}"))
    converge: dict[str, Any] = {
        "when": ["weights"], "rate": options.rate, "quiet": options.quiet,
        "deadline": f"{DEADLINE:g}s",
    }  # fmt: skip
    if not options.blind:
        converge["protocol"] = protocol
        converge["goodbye"] = options.goodbye and protocol != "redis"
    made = routes({**r, "converge": converge}, workers=2)
    proxy = Proxy(stack.enter_context(short_directory()), made)
    stack.callback(proxy.stop)
    return proxy


def port_of(proxy: Proxy) -> int:
    return int(proxy.status()["routes"][0]["listen"][0].rpartition(":")[2])


def to_and_fro(proxy: Proxy) -> str:
    """Shifts all to v2, and then half of them back. Returns a report."""
    before = _live(proxy)
    said = [_shift(proxy, {"v1": 0, "v2": 100}), _shift(proxy, {"v1": 50, "v2": 50})]
    destinations = proxy.status()["routes"][0]["destinations"]
    closed = sum(each["closed"]["converged"] for each in destinations)
    return f"{closed} connections closed; {before}; {'; '.join(said)}"


def run_pgbench(name: str, options: argparse.Namespace) -> bool:
    """It does not connect again. Whether the server has what it has counted."""
    with ExitStack() as stack:
        server = stack.enter_context(SERVERS["postgres"]())
        proxy = in_front(stack, server, "postgres", options)
        script = stack.enter_context(short_directory()) / "script"
        script.write_text(PGBENCH)
        command = [
            f"{PROGRAMS}pgbench", "-h", "127.0.0.1", "-p", str(port_of(proxy)), "-U", "postgres",
            "-n", "-c", str(options.clients), "-T", "40", "-f", str(script),
        ]  # fmt: skip
        more = ["-C"] if name.endswith("-C") else []
        process = subprocess.Popen(
            [*command, *more, "postgres"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        stack.callback(process.kill)
        time.sleep(AFTER)
        said = to_and_fro(proxy)
        printed = process.communicate(timeout=patient(120))[0]
        executed = Psycopg.executed_at(server).total()
    found = re.search(r"actually processed: (\d+)", printed)
    done = int(found[1]) if found else 0
    aborted = re.findall(r"client \d+ (?:script \d+ )?aborted in command \d+", printed)
    ends = Counter(each.rpartition(" aborted ")[2] for each in aborted)
    print(f"{name}: {done} done, the server has {executed}; clients aborted: {dict(ends)}; {said}")
    return done == executed


def run(name: str, options: argparse.Namespace) -> bool:
    """One pool. Whether it went well."""
    if name.startswith("pgbench"):
        return run_pgbench(name, options)
    make = DRIVERS[name]
    with ExitStack() as stack:
        server = stack.enter_context(SERVERS[make.server]())
        proxy = in_front(stack, server, make.protocol, options)
        driver = make(server, port_of(proxy), options.clients)
        stack.callback(driver.close)
        clients = Clients(driver, options.clients)
        wait_for(lambda: len(clients.seen.done) > 3 * options.clients, "all to work", DEADLINE)
        said = to_and_fro(proxy)
        time.sleep(AFTER)
        clients.stop()
        found = judge(clients.seen, driver.executed())
    words = ", ".join(f"{count} {what}" for what, count in found.items())
    print(f"{name}: {words}; {said}")
    for error, times in clients.seen.errors.most_common(6):
        print(f"    {times} x {error}")
    sys.stdout.flush()
    never = ("in doubt", "twice", "lost") if options.blind else (
        "cut", "failed commits", "in doubt", "twice", "lost"
    )  # fmt: skip
    return not any(found[what] for what in never)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.docs.pools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pool", nargs="*", choices=[[], *POOLS])
    parser.add_argument("--clients", type=int, default=200, metavar="N")
    parser.add_argument("--rate", default="20/s")
    parser.add_argument("--quiet", default="200ms")
    parser.add_argument("--no-goodbye", dest="goodbye", action="store_false")
    parser.add_argument("--blind", action="store_true", help="tcpmux is not told the protocol")
    options = parser.parse_args()
    logging.disable()  # what pools say of each connection
    good = [run(name, options) for name in options.pool or POOLS]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
