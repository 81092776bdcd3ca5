"""What it costs to find the destination of a sticky client, from its address on: ns of CPU, with so
many destinations. `python -m bench.sticky`; needs gcc.

Of each, the median of several runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from bench.build import CSRC, build_with_worker

PICKS = 5_000_000
RUNS = 5


def main() -> int:
    found = build_with_worker("sticky_pick", [CSRC / "sticky.c"])
    for count in (1, 2, 4, 16):
        command = [str(found), str(count), str(PICKS)]
        times = [
            float(subprocess.run(command, check=True, capture_output=True).stdout)
            for _ in range(RUNS)
        ]
        median = statistics.median(times)
        print(f"{count:2} destinations {median:6.1f} ns ({min(times):.1f}..{max(times):.1f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
