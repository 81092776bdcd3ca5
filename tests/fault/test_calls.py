"""Each call of a worker fails in each way, or the worker dies at it, in the middle of eight
kinds of conversations.

Whatever happens: nothing hangs, what arrives is what was sent, a connection is either intact or
reset, no descriptor is left, every count balances, and the worker stays alive. A death harms no
connection at all. `python -m tests.fault` tries all of it.
"""

from __future__ import annotations

import errno as codes
import random

import pytest

from tests.fault.cases import Case, once_each, sample, with_shadows
from tests.fault.control import Control, Rule
from tests.fault.runner import run
from tests.fault.sites import AFTER_ACCEPT, DIE_AFTER, SITES
from tests.relay.harness import Family

SAMPLE = 120
PARTS = 4


def play(cases: list[Case], control: Control) -> dict[str, int]:
    """How often each site's rules fired."""
    fired: dict[str, int] = {}
    reports = []
    for result in run(cases, control):
        for rule, times in zip(result.case.all_rules(), result.fired, strict=False):
            fired[rule.site] = fired.get(rule.site, 0) + times
        if result.problems:
            reports.append(result.report())
    assert not reports, "\n".join(reports)
    return fired


@pytest.mark.parametrize("part", range(PARTS))
def test_every_call_fails_once(control: Control, part: int) -> None:
    """The first one of each site with each error, and a death before and after it."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    fired = play(once_each(seed)[part::PARTS], control)
    # That a call is made at all is a matter of timing for some: not for these.
    never = {site for site, times in fired.items() if times == 0}
    assert never <= {"write", "epoll_ctl_mod", "shutdown", "read", "recvmsg", *AFTER_ACCEPT}
    assert fired.keys() <= SITES.keys()


@pytest.mark.parametrize("part", range(PARTS))
def test_every_call_fails_once_beside_shadows(control: Control, part: int) -> None:
    """Which harm no connection either, hear nothing that was not said, and are counted."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    fired = play(with_shadows(once_each(seed))[part::PARTS], control)
    assert sum(fired.values()) > len(fired) // 2


@pytest.mark.parametrize("client", ["v4", "v6", "unix"])
def test_a_half_close_outlives_deaths_when_the_kernel_tells_nothing(
    control: Control, client: Family
) -> None:
    """The next incarnation asks a UNIX endpoint's socket whether its FIN has gone out. Without an
    answer the connection is not given up."""
    rule = Rule("send_nothing", codes.EAGAIN, every=2, count=20)
    cases = [
        Case((rule,), client=client, server="unix", deaths=2, seed=seed)
        for seed in (557349521, 1, 2, 3)
    ]
    assert play(cases, control)["send_nothing"]


def test_deaths_one_after_another_behind_a_reset(control: Control) -> None:
    """The first recovery takes the socket's pending error; the next ones tell a FIN from a reset
    without it, or the client gets a byte less."""
    rule = Rule("recv_drop", DIE_AFTER, first=1, every=5, count=20)
    cases = [Case((rule,), client="v4", server="v4", pipes=0, seed=seed) for seed in range(8)]
    assert play(cases, control)["recv_drop"] > 100


def test_some_of_all_the_rest(control: Control) -> None:
    """Later calls, every k-th, with deaths in between, and everything at once."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    assert sum(play(sample(seed, SAMPLE), control).values()) > SAMPLE // 2


def test_some_of_all_the_rest_beside_shadows(control: Control) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    cases = with_shadows(sample(seed, SAMPLE // 2))
    assert sum(play(cases, control).values()) > SAMPLE // 4
