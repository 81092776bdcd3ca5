"""The whole cross product: every call of the relay that can fail, with every error, at many
points of a conversation; and the worker's death there. Takes some minutes.

    python -m tests.fault [--seed N] [--only SITE] [--part I/N]
    python -m tests.fault --case JSON [--times N]   one case again, as a failure has printed it
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter

from tests.fault.cases import Case, everything, once_each, storms
from tests.fault.runner import run, shim

STORMS = 300


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fault")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--case", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--times", type=int, default=1)
    arguments = parser.parse_args()
    seed = arguments.seed
    part, parts = map(int, arguments.part.split("/"))
    if arguments.case:
        cases = [Case.load(arguments.case)] * arguments.times
    else:
        print(f"seed {seed}", flush=True)
        cases = [*once_each(seed), *everything(seed), *storms(seed, STORMS)]
    if arguments.only:
        cases = [case for case in cases if any(rule.site == arguments.only for rule in case.rules)]
    cases = cases[part - 1 :: parts]
    failed = 0
    fired: Counter[str] = Counter()
    with shim() as control:
        for number, result in enumerate(run(cases, control), 1):
            for rule, times in zip(result.case.all_rules(), result.fired, strict=False):
                fired[rule.site] += times
            if result.problems:
                failed += 1
                print(result.report(), flush=True)
            if number % 500 == 0:
                print(f"{number} of {len(cases)}, {failed} failed", flush=True)
    print(f"{len(cases)} cases, {failed} failed; faults: {dict(fired.most_common())}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
