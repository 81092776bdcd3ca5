"""Whether one version of a service is worse than another, by what both did in the same window.

How often one looks must not matter: whoever tests often enough finds something. So `confidence`,
which is the chance for a measure to condemn a version that is as good as the other, is spent bit by
bit over the windows of a rollout and the looks in each. The w-th window has 1 / (w (w + 1)) of it,
and the k-th look of a window 1 / (k (k + 1)) of that; both series add up to 1. A measure that
counts events is looked at with each event of the new version from the third on, since none but an
event can condemn it; one of times whenever the new version has a quarter more of them.

A version that accepts and never answers has no times, and fails in no other way that is counted. So
as long as fewer of its connections have been answered than of the other version's, it is doubtful.

Where the other version gets nothing any more, there is only what it did before. Times of another
time condemn nobody, since they change with the load of the machines; they can be a reason to doubt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from tcpmux.rollout.statistics import binomial, fisher, mann_whitney, tail_quantile

FIRST_EVENT = 3  # of the new version, before which nothing is decided
FIRST_TIMES, GROWTH = 20, 1.25  # looks at times: after so many, and so many times as many
DOUBT = 0.01  # p below which what is worse by the stated effect is not promoted
SICK_RATE, SICK_P = 0.05, 1e-4  # the old version fails as well: more connects than that, surely
SICK_TIMES = 5  # times the stated effect at least
FEW_ANSWERS = 0.9  # times the old version's rate: less is a reason to doubt
MUCH_WORSE = 3  # times the old version's rate: then it does not matter that it fails as well
Bounds = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as worse; None = not judged. Shares are 0..1 and more than the other version's by
    so much; early_within in s; first_byte_p95 a factor; duration_p50 two, between which it
    is accepted."""

    connect_failures: float | None = 0.01
    resets: float | None = 0.01
    early_close: float | None = 0.02
    first_error: float | None = 0.01
    early_within: float = 1.0
    first_byte_p95: float | None = 1.5
    duration_p50: Bounds | None = None
    confidence: float = 1e-5


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Counts:
    """Of a version, since the start of the instance or in a window. opened: connections that it was
    given. connects: those to its endpoints that succeeded; failures: that did not. resets: its
    endpoints' own. first_errors: connections whose first answer was an error. early, first_byte,
    duration: histograms of tcpmux.shm, in us; early: the ages of connections that an endpoint has
    closed without a byte. Of shadows, and not judged: agreed, whose answers did; given_up, for
    another reason than failures and resets, and in no other count."""

    opened: int = 0
    connects: int = 0
    failures: int = 0
    resets: int = 0
    first_errors: int = 0
    early: tuple[int, ...] = ()
    first_byte: tuple[int, ...] = ()
    duration: tuple[int, ...] = ()
    agreed: int = 0
    given_up: int = 0

    def __add__(self, other: Counts) -> Counts:
        return _each(self, other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return _each(self, other, -1)

    @property
    def tried(self) -> int:
        """Connections that say something: not those that waited for a place, or found none, or for
        which this host had no port."""
        return min(self.opened, self.connects + self.failures)

    @property
    def is_whole(self) -> bool:
        """Nothing in it is negative, as if what was counted had begun anew in between."""
        return all(
            min(value, default=0) >= 0 if isinstance(value, tuple) else value >= 0
            for value in (getattr(self, each.name) for each in fields(self))
        )


NO_COUNTS = Counts()


def _each(a: Counts, b: Counts, sign: int) -> Counts:
    made: list[Any] = []
    for each in fields(Counts):
        x, y = getattr(a, each.name), getattr(b, each.name)
        if isinstance(x, tuple):
            size = max(len(x), len(y))
            x, y = x + (0,) * (size - len(x)), y + (0,) * (size - len(y))
            made.append(tuple(p + sign * q for p, q in zip(x, y, strict=True)))
        else:
            made.append(x + sign * y)
    return Counts(*made)


@dataclass(frozen=True, slots=True)
class Histograms:
    """The bounds of the buckets of each, in us."""

    latency: tuple[float, ...]
    duration: tuple[float, ...]


class Finding(NamedTuple):
    """What one measure says. is_worse: by the effect that was stated. text: its arithmetic."""

    measure: str
    p: float
    threshold: float
    is_worse: bool
    text: str

    @property
    def condemns(self) -> bool:
        return self.is_worse and self.p < self.threshold

    @property
    def is_doubtful(self) -> bool:
        return self.is_worse and self.p < DOUBT


class Verdict(NamedTuple):
    """kind: good, doubtful (wait), sick (the old version fails as well), worse."""

    kind: str
    text: str
    findings: tuple[Finding, ...] = ()


class Names(NamedTuple):
    """As people know the two versions."""

    new: str
    old: str


def rate_text(share: float) -> str:
    return f"{share * 100:.3g} %"


def p_text(p: float) -> str:
    return f"{p:.1e}".replace("e-0", "e-") if p < 0.001 else f"{p:.2g}"


def time_text(us: float) -> str:
    return f"{us / 1e6:.3g} s" if us >= 1e6 else f"{us / 1e3:.3g} ms"


def share_of(confidence: float, window: int, look: int) -> float:
    """What a look may spend; both are counted from 1."""
    return confidence / (window * (window + 1)) / (look * (look + 1))


@dataclass
class Judge:
    """Of one window, the `window`-th of its rollout. is_same: the old version's counts are of the
    same window, and not of the one before."""

    limits: Limits
    names: Names
    histograms: Histograms
    window: int = 1
    is_same: bool = True
    # By measure: at how many events, or at which look at times, and what p was then.
    looked: dict[str, int] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)

    def look(self, new: Counts, old: Counts) -> Verdict:
        """What both have done in the window until now."""
        found = [*self._findings(new, old)]
        worst = next((each for each in found if each.condemns), None)
        if worst is not None and (self._is_much_worse(worst, new, old) or not self._sick(old)):
            return Verdict("worse", worst.text, tuple(found))
        if why := self._sick(old):
            return Verdict("sick", why, tuple(found))
        doubtful = next((each for each in found if each.is_doubtful), None)
        if doubtful is not None:
            return Verdict("doubtful", doubtful.text, tuple(found))
        return Verdict("good", "; ".join(each.text for each in found), tuple(found))

    @property
    def _old(self) -> str:
        return self.names.old if self.is_same else f"{self.names.old} before"

    # --- events -----------------------------------------------------------------------------

    def _findings(self, new: Counts, old: Counts) -> Iterator[Finding]:
        limits = self.limits
        if limits.connect_failures is not None:
            yield self._events(
                "connect_failures", "connects failed", limits.connect_failures,
                (new.failures, new.connects + new.failures),
                (old.failures, old.connects + old.failures),
            )  # fmt: skip
        if limits.resets is not None:
            yield self._events(
                "resets", "connections reset by it", limits.resets,
                (new.resets, new.connects), (old.resets, old.connects),
            )  # fmt: skip
        if limits.early_close is not None:
            what = f"connections closed by it within {limits.early_within:g} s, without a byte"
            yield self._events(
                "early_close", what, limits.early_close,
                (self._early(new), new.connects), (self._early(old), old.connects),
            )  # fmt: skip
        if limits.first_error is not None and (new.first_errors or old.first_errors):
            yield self._events(
                "first_error", "connections answered with an error at first", limits.first_error,
                (new.first_errors, new.connects), (old.first_errors, old.connects),
            )  # fmt: skip
        if limits.first_byte_p95 is not None:
            if (found := self._answers(new, old)).is_worse:
                yield found
            yield self._times(
                "first_byte", "first byte", 0.95, (0.0, limits.first_byte_p95),
                (new.first_byte, old.first_byte), self.histograms.latency,
            )  # fmt: skip
        if limits.duration_p50 is not None:
            yield self._times(
                "duration", "duration", 0.5, limits.duration_p50,
                (new.duration, old.duration), self.histograms.duration,
            )  # fmt: skip

    def _early(self, counts: Counts) -> int:
        within = self.limits.early_within * 1e6
        return sum(
            n
            for n, bound in zip(counts.early, self.histograms.latency, strict=False)
            if bound <= within
        )

    def _events(
        self, measure: str, what: str, effect: float, new: tuple[int, int], old: tuple[int, int]
    ) -> Finding:
        # What ends now may have begun before the window.
        (bad, of), (old_bad, old_of) = ((n, max(n, m)) for n, m in (new, old))
        rate, old_rate = bad / max(1, of), old_bad / max(1, old_of)
        p = fisher(bad, of, old_bad, old_of) if rate > old_rate else 1.0
        look = bad - FIRST_EVENT + 1
        threshold = 0.0
        if look >= 1:
            threshold = share_of(self.limits.confidence, self.window, look)
        if self.looked.get(measure) == bad:
            threshold = 0.0  # no event has come since
        self.looked[measure] = bad
        is_worse = rate - old_rate > effect
        within = f" (not {rate_text(effect)} more)" if p < DOUBT and not is_worse else ""
        text = (
            f"{self.names.new}: {bad:,} of {of:,} {what}, {self._old}: {old_bad:,} of "
            f"{old_of:,}{within}{self._p(p, threshold, look)}"
        )
        return Finding(measure, p, threshold, is_worse, text)

    def _p(self, p: float, threshold: float, look: int) -> str:
        if p >= 1.0:
            return ""
        if p < threshold:
            of = f"{p_text(self.limits.confidence)}, look {look} in window {self.window}"
            return f"; p = {p_text(p)} < {p_text(threshold)} ({of})"
        return f"; p = {p_text(p)}"

    # --- times ------------------------------------------------------------------------------

    def _answers(self, new: Counts, old: Counts) -> Finding:
        """Whether it answers at all. Those whose answer is yet to come count as well, those whose
        clients have not asked, and those that found no place; so none is condemned by that."""
        (had, of), (old_had, old_of) = (self._answered(each) for each in (new, old))
        is_worse = had / max(1, of) < old_had / max(1, old_of) * FEW_ANSWERS
        p = fisher(of - had, of, old_of - old_had, old_of) if is_worse else 1.0
        text = (
            f"{self.names.new}: {had:,} of {of:,} connections answered, {self._old}: "
            f"{old_had:,} of {old_of:,}{self._p(p, 0.0, 0)}"
        )
        return Finding("answers", p, 0.0, is_worse, text)

    @staticmethod
    def _answered(counts: Counts) -> tuple[int, int]:
        """(how many, of how many): without those of which other measures tell."""
        others = counts.failures + counts.resets + sum(counts.early)
        of = max(0, max(counts.opened, counts.connects) - others)
        return min(sum(counts.first_byte), of), of

    def _times(
        self,
        measure: str,
        what: str,
        part: float,
        between: Bounds,
        counts: tuple[Sequence[int], Sequence[int]],
        bounds: Sequence[float],
    ) -> Finding:
        new, old = counts
        found, before = (tail_quantile(each, bounds, part) for each in counts)
        if not sum(new) or not sum(old):
            return Finding(measure, 1.0, 0.0, is_worse=False, text=f"{what}: nothing to compare")
        ratio = found / before if before else math.inf
        low, high = between
        look, threshold = 0, 0.0
        if sum(new) >= FIRST_TIMES:
            look = 1 + int(math.log(sum(new) / FIRST_TIMES) / math.log(GROWTH))
        if look and (self.looked.get(measure) != look or not self.is_same):
            if self.is_same:
                threshold = share_of(self.limits.confidence, self.window, look)
                threshold /= 2 if low else 1  # either way
            self.known[measure] = mann_whitney(*((old, new) if low and ratio < 1 else (new, old)))
        self.looked[measure] = look
        p = self.known.get(measure, 1.0)
        is_worse = not low <= ratio <= high
        bound = high if ratio >= 1 or not low else low
        limit = f" ({ratio:.3g}x {'>' if ratio > bound else '<'} {bound:g}x)"
        limit = limit if look else "; too few to judge"
        text = (
            f"{self.names.new}: {what} p{part * 100:g} {time_text(found)}, {self._old}: "
            f"{time_text(before)}{limit}{self._p(p, threshold, look)}"
        )
        return Finding(measure, p, threshold, is_worse, text)

    # --- the old version --------------------------------------------------------------------

    def _sick(self, old: Counts) -> str:
        """Why nothing can be said of the new one; "" = it can."""
        of = old.connects + old.failures
        floor = max(SICK_RATE, SICK_TIMES * (self.limits.connect_failures or 0.0))
        if old.failures < FIRST_EVENT or binomial(old.failures, of, min(0.9, floor)) >= SICK_P:
            return ""
        return (
            f"{self.names.old} fails as well: {old.failures:,} of its {of:,} connects failed, "
            f"which is surely more than {rate_text(floor)}: nothing can be said of {self.names.new}"
        )

    def _is_much_worse(self, finding: Finding, new: Counts, old: Counts) -> bool:
        if finding.measure != "connect_failures":
            return False
        rates = [each.failures / max(1, each.connects + each.failures) for each in (new, old)]
        return rates[0] > MUCH_WORSE * rates[1]
