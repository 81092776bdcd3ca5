"""The program tcpmux.worker: the guardian of a worker that another build has begun. Started by that
build's guardian, by exec, so that every descriptor is there; not for the shell."""

from __future__ import annotations

import os
import sys

from tcpmux.privileges import drop
from tcpmux.shm._live import Live
from tcpmux.worker.process import Inheritance, guard

TRY = "try"  # instead of an inheritance: whether it could be started is all that is asked


def main() -> int:
    if sys.argv[1] == TRY:
        return 0
    inheritance = Inheritance.from_json(sys.argv[1])
    drop(inheritance.runs_as)  # it is that user already, and exec has forgotten what hides it
    live = Live.attach(inheritance.live, writable=True, worker=inheritance.worker)
    live.builds += 1
    guard(inheritance, live)
    os._exit(0)


if __name__ == "__main__":  # how a build of before does it
    os._exit(main())
