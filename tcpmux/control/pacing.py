"""How fast live connections may be closed, and when not at all. Pure; times are monotonic, in s."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

SECOND = 1.0
SAMPLES_APART = 0.5  # s
UNCERTAIN = 1.2  # s after an order until it is certain that it is not carried out any more
RECENT = 2.0  # s in which failed connects count
RETURN_TIME = 30.0  # s in which clients that have been closed are expected back
ALLOWED_LEAD = 5.0  # s of closing at full rate that nobody need have come back from
MIN_LEAD = 10  # connections
FIRST_HOLD, MAX_HOLD = 5.0, 60.0  # s after failures
STOP_SHARE = 0.5  # of connects that fail


class Pace:
    """Counts orders so that no second sees more connections end than the rate says, whenever the
    workers carry them out. Keys are those of the caller."""

    def __init__(self) -> None:
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
        while self._done and self._done[0] <= now - window:
            self._done.popleft()
        return max(0, max(1, int(rate)) - len(self._done) - len(self._open))


class Sample(NamedTuple):
    """Counts since the start, of a route. connects: those that succeeded; failures: those that
    did not; both by destination."""

    closed: int
    connects: Mapping[str, int]
    failures: Mapping[str, int]


class Brake:
    """Says why none may be closed now, from samples of one route's counters."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Sample]] = deque()
        self._hold, self._held_until, self._why = FIRST_HOLD, 0.0, ""

    def is_due(self, now: float) -> bool:
        """Whether a sample is wanted."""
        return not self._samples or now - self._samples[-1][0] >= SAMPLES_APART

    def add(self, sample: Sample, now: float) -> None:
        self._samples.append((now, sample))
        while self._samples[0][0] < now - RETURN_TIME and len(self._samples) > 1:
            self._samples.popleft()

    def reason(self, rate: float, now: float) -> str:
        """ "" = go on. There is a sample. Only closes have to come back."""
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
        return self._outrun(rate)

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
        return why

    def _outrun(self, rate: float) -> str:
        first, last = self._samples[0][1], self._samples[-1][1]
        closed = last.closed - first.closed
        back = sum(last.connects.values()) - sum(first.connects.values())
        if closed - back <= max(MIN_LEAD, ALLOWED_LEAD * rate):
            return ""
        return (
            f"{closed} connections were closed within {RETURN_TIME:.0f} s, and {max(0, back)} have "
            "come"
        )
