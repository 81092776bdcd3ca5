"""`python -m tests.docs.redis_load PORT`: an application in front of redis, for draining.py. Its
driver, redis-py, comes from PyPI.

60 clients share a pool of as many connections; a command that fails is not tried again, so that it
counts. Of ten, six count (INCR), three do so in a transaction of 100 ms (WATCH, MULTI, EXEC), and
one waits for work (BLPOP, for 1 s at most). Each second prints a line of JSON, and at the end of
stdin the last one, with what has been counted and confirmed.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import threading
import time
from collections import Counter
from importlib import import_module
from typing import Any

from tests.support import patient

SECOND = patient(1)
CLIENTS = 60
PAUSE = 0.25  # s between two pieces of work, on average
IN_A_TRANSACTION = 0.1  # s


class Application:
    def __init__(self, port: int) -> None:
        redis = import_module("redis")
        retry = import_module("redis.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)
        pool = redis.BlockingConnectionPool(port=port, max_connections=CLIENTS, retry=retry)
        self._client = redis.Redis(connection_pool=pool)
        self._numbers = itertools.count()
        self._over = threading.Event()
        self.done: list[int] = []
        self.failed: list[int] = []
        self.errors: Counter[str] = Counter()
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _work(self, client: int) -> None:
        act = (*[self._count] * 6, *[self._count_in_a_transaction] * 3, self._wait)[client % 10]
        while not self._over.wait(random.expovariate(1 / PAUSE)):
            number = next(self._numbers)
            try:
                act(number)
                self.done.append(number)
            except Exception as error:
                self.failed.append(number)
                text = " ".join(str(error).split())
                self.errors[f"{type(error).__name__}: {text[:60]}"] += 1

    def _count(self, number: int) -> None:
        self._client.incr(f"n:{number}")

    def _count_in_a_transaction(self, number: int) -> None:
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.watch("watched")
            time.sleep(IN_A_TRANSACTION)
            pipeline.multi()
            pipeline.incr(f"n:{number}")
            pipeline.execute()

    def _wait(self, number: int) -> None:
        del number
        self._client.blpop("work", timeout=1)

    def said(self) -> dict[str, Any]:
        return {"done": len(self.done), "errors": self.errors.total(), "by": dict(self.errors)}


def main() -> None:
    application = Application(int(sys.argv[1]))
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(SECOND):
            print(json.dumps(application.said()), flush=True)

    reporting = threading.Thread(target=report)
    reporting.start()
    sys.stdin.read()
    application.stop()
    ended.set()
    reporting.join()
    print(json.dumps({**application.said(), "failed": application.failed}), flush=True)


if __name__ == "__main__":
    main()
