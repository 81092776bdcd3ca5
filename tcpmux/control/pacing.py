"""How fast live connections may be closed, and when not at all. Pure; times are monotonic, in s."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

SECOND = 1.0
SAMPLES_APART = 0.5  # s
UNCERTAIN = 1.2  # s after an order until it is certain that it is not carried out any more
RECENT = 2.0  # s in which failed connects count
RETURN_TIME = 30.0  # s in which clients that have been closed are expected back
ALLOWED_LEAD = 5.0  # s of closing at full rate that nobody need have come back from
MIN_LEAD = 10  # connections
FIRST_HOLD, MAX_HOLD = 5.0, 60.0  # s after failures
UNANSWERED = 5  # connections in a row that an endpoint ends without a byte
STOP_SHARE = 0.5  # of connects that fail
LINES_AT_ONCE, LINES_APART = 4, 30.0  # s; of the log


class Pace:
    """Counts orders so that no second sees more connections end than the rate says, whenever the
    workers carry them out. Keys are those of the caller. since: when it took over from another,
    who may have ordered as many as the rate allows."""

    def __init__(self, since: float = float("-inf")) -> None:
        self._since = since
        self._open: dict[object, float] = {}  # ordered, and not seen to be done; when
        self._done: deque[float] = deque()  # when each was seen

    @property
    def outstanding(self) -> list[object]:
        return list(self._open)

    def ordered(self, key: object, now: float) -> None:
        self._open[key] = now

    def seen(self, key: object, now: float) -> None:
        """It has been carried out."""
        if self._open.pop(key, None) is not None:
            self._done.append(now)

    def expired(self, now: float) -> list[object]:
        """Those that will not be carried out any more; they count no longer."""
        late = [key for key, at in self._open.items() if now - at > UNCERTAIN]
        for key in late:
            del self._open[key]
        return late

    def allowed(self, rate: float, now: float) -> int:
        """How many may be ordered now. rate: per second."""
        window = max(SECOND, 1 / rate)
        if now - self._since <= window:
            return 0
        while self._done and self._done[0] <= now - window:
            self._done.popleft()
        return max(0, max(1, int(rate)) - len(self._done) - len(self._open))


class Telling:
    """Whether a pause, or its end, is worth a line now: the first few are, at once; of a pause
    that comes and goes only some are."""

    def __init__(self) -> None:
        self._told = False
        self._left, self._at = float(LINES_AT_ONCE), 0.0

    def is_due(self, now: float, *, is_paused: bool) -> bool:
        """If so, it is told."""
        if is_paused == self._told:
            return False
        self._left = min(LINES_AT_ONCE, self._left + (now - self._at) / LINES_APART)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        self._told = is_paused
        return True


class Sample(NamedTuple):
    """Counts of a route. live: open connections; the others since the start. By destination:
    connects: those that succeeded; failures: those that did not; unanswered: how many in a row one
    of its endpoints has ended without a byte."""

    live: int
    closed: int  # for the weights, in one way or the other
    connects: Mapping[str, int]
    failures: Mapping[str, int]
    unanswered: Mapping[str, int] = MappingProxyType({})


class Brake:
    """Says why none may be closed now, from samples of one route's counters."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Sample]] = deque()
        self._hold, self._held_until, self._why = FIRST_HOLD, 0.0, ""
        self._ordered = 0  # since the last sample

    def is_due(self, now: float) -> bool:
        """Whether a sample is wanted."""
        return not self._samples or now - self._samples[-1][0] >= SAMPLES_APART

    def add(self, sample: Sample, now: float) -> None:
        self._samples.append((now, sample))
        self._ordered = 0
        while self._samples[0][0] < now - RETURN_TIME and len(self._samples) > 1:
            self._samples.popleft()

    def reason(self, rate: float, now: float, *, come_back: bool = True) -> str:
        """Empty = go on. There is a sample. come_back: clients have to, before more are closed."""
        failing = self._failing(now)
        if failing:
            if now >= self._held_until:
                self._held_until = now + self._hold
                self._hold = min(self._hold * 2, MAX_HOLD)
            self._why = failing
        if now < self._held_until:
            return f"{self._why}; next try in {self._held_until - now:.0f} s"
        if now > self._held_until + self._hold:
            self._hold = FIRST_HOLD
        if not come_back or self._room(rate) > 0:
            return ""
        closed, back = self._closed_and_back()
        return (
            f"{closed} connections were closed within {RETURN_TIME:.0f} s, and {max(0, back)} have "
            "come"
        )

    def ordered(self, count: int) -> None:
        """So many more are to be closed, which no sample knows of yet."""
        self._ordered += count

    def room(self, rate: float) -> int:
        """How many may be closed before clients have to come back."""
        return max(0, self._room(rate) - self._ordered)

    def _failing(self, now: float) -> str:
        """Of the destination that fails most, if too many connects there do."""
        last = self._samples[-1][1]
        then = next((sample for at, sample in self._samples if at >= now - RECENT), last)
        worst, why = 0, ""
        for name, count in last.failures.items():
            failed = count - then.failures.get(name, count)
            made = last.connects.get(name, 0) - then.connects.get(name, 0)
            if failed > worst and failed >= STOP_SHARE * (failed + max(0, made)):
                worst = failed
                why = f"{failed} of {failed + max(0, made)} connects to {name} failed just now"
        for name, count in last.unanswered.items():
            if count >= UNANSWERED and count > then.unanswered.get(name, 0):
                why = why or f"{name} ended the last {count} connections without an answer"
        return why

    def _room(self, rate: float) -> int:
        closed, back = self._closed_and_back()
        lead = max(MIN_LEAD, int(ALLOWED_LEAD * rate))
        before = self._samples[-1][1].live + max(0, closed - back)
        return min(lead, (before + 1) // 2) - (closed - back)

    def _closed_and_back(self) -> tuple[int, int]:
        """Within RETURN_TIME."""
        first, last = self._samples[0][1], self._samples[-1][1]
        return (
            last.closed - first.closed,
            sum(last.connects.values()) - sum(first.connects.values()),
        )
