"""`python -m tcpmux.worker`: the guardian of a worker that another build has begun. Started
by that build's guardian, by exec, so that every descriptor is there; not for the shell."""

from __future__ import annotations

import os
import sys

from tcpmux.shm._shm import Live
from tcpmux.worker.process import Inheritance, guard


def main() -> int:
    inheritance = Inheritance.from_json(sys.argv[1])
    live = Live.attach(inheritance.live, writable=True, worker=inheritance.worker)
    live.builds += 1
    guard(inheritance, live)
    return 0


if __name__ == "__main__":
    os._exit(main())
