"""Whole rollouts over traffic that is drawn by chance: how long they take, and how often they are
wrong. The steps, the judge and its limits are those of a real one."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tcpmux.rollout.judgement import Counts, Histograms
from tcpmux.rollout.machine import Do, Reading, Rollout, advance
from tcpmux.rollout.plan import Plan

TICK = 0.25  # s between two looks of a real one
NEVER = 1e-12  # as improbable as that is never
EXACT = 200  # draws that are expected; more are drawn by the normal distribution
LIMIT = 30 * 86400.0  # s of simulated time


@dataclass(frozen=True, slots=True)
class Model:
    """How a version behaves. failures, resets, early: shares of connections. median: us to the
    first byte; spread: the standard deviation of its logarithm."""

    failures: float = 0.0
    resets: float = 0.0
    early: float = 0.0
    median: float = 3000.0
    spread: float = 0.7


@dataclass(frozen=True, slots=True)
class Outcome:
    """end: of machine.Do. seconds: simulated. connections: that the new version had. step: in which
    it ended."""

    end: Do
    text: str
    seconds: float
    connections: int
    step: int


def drawn(random: Random, of: int, share: float) -> int:
    """How many of so many are so, each with this probability."""
    if share > 0.5:
        return of - drawn(random, of, 1 - share)
    if share < NEVER or of <= 0:
        return 0
    if of * share > EXACT:
        found = random.gauss(of * share, math.sqrt(of * share * (1 - share)))
        return min(of, max(0, round(found)))
    # From each that is so to the next.
    scale, at, count = math.log1p(-share), 0, 0
    while True:
        at += 1 + int(math.log(1.0 - random.random()) / scale)
        if at > of:
            return count
        count += 1


class Traffic:
    """Of one version: its counts grow."""

    def __init__(self, model: Model, bounds: Sequence[float], random: Random) -> None:
        self._model = model
        self._random = random
        self._bounds = bounds
        below = [0.5 * math.erfc(-self._z(bound) / math.sqrt(2)) for bound in bounds]
        self._shares = [b - a for a, b in zip([0.0, *below], [*below, 1.0], strict=True)]
        self.counts = Counts(early=(0,) * (len(bounds) + 1), first_byte=(0,) * (len(bounds) + 1))

    def _z(self, bound: float) -> float:
        return math.log(bound / self._model.median) / self._model.spread

    def add(self, opened: int) -> None:
        model, random = self._model, self._random
        failures = drawn(random, opened, model.failures)
        connects = opened - failures
        resets = drawn(random, connects, model.resets)
        early = drawn(random, connects - resets, model.early)
        empty = [0] * len(self._shares)
        self.counts += Counts(
            opened,
            connects,
            failures,
            resets,
            early=(early, *empty[1:]),
            first_byte=self._times(connects - resets - early),
        )

    def _times(self, count: int) -> tuple[int, ...]:
        left, rest, found = count, 1.0, []
        if count < len(self._shares):
            made = [0] * len(self._shares)
            for _ in range(count):
                made[self._bucket()] += 1
            return tuple(made)
        for share in self._shares[:-1]:
            n = drawn(self._random, left, min(1.0, share / rest)) if rest > 1e-12 else 0
            found.append(n)
            left, rest = left - n, rest - share
        return (*found, left)

    def _bucket(self) -> int:
        us = self._model.median * math.exp(self._random.gauss(0.0, self._model.spread))
        return bisect_left(self._bounds, us)


def simulated(
    plan: Plan, new: Model, old: Model, rate: float, histograms: Histograms, random: Random
) -> Outcome:
    """One rollout, to its end or its first pause. rate: connections per second of the route."""
    others = "v1" if plan.to != "v1" else "v2"
    before = {others: 1, plan.to: 0}
    rollout = Rollout("simulated", plan, 0.0, before, dict(before))
    traffic = Traffic(new, histograms.latency, random), Traffic(old, histograms.latency, random)
    now = owed = split = 0.0
    while True:
        reading = Reading(now, traffic[0].counts, traffic[1].counts)
        action = advance(rollout, reading, histograms)
        if action.do is Do.STEP:
            rollout.entered(action.step, reading)
        elif action.do is not Do.NOTHING or now > LIMIT:
            had = traffic[0].counts.opened
            return Outcome(action.do, action.text, now, had, rollout.step)
        # About as often as the new version has a connection: nothing can be decided in between.
        tick = max(TICK, min(1 / (rate * rollout.share), plan.max_wait / 4))
        if now - rollout.window_at < plan.bake:
            tick = min(tick, max(TICK, plan.bake / 4))
        now += tick
        owed += rate * tick
        arrived, owed = int(owed), owed % 1.0
        split += arrived * rollout.share
        given, split = int(split), split % 1.0
        traffic[0].add(given)
        traffic[1].add(arrived - given)
