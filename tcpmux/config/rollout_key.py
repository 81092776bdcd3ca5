"""The schema of `rollout` in a route. Private to the package."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, WithJsonSchema

from tcpmux.config.duration import format_duration
from tcpmux.config.hooks_key import HooksModel
from tcpmux.config.problems import describe
from tcpmux.config.rows import DAY
from tcpmux.config.values import DURATION_SCHEMA, Name, Strict, duration, whole
from tcpmux.config.written import Pairs, flow
from tcpmux.rollout.judgement import DEFAULT_LIMITS, Limits
from tcpmux.rollout.plan import (
    EARLY,
    EXISTING,
    SHADOW,
    THENS,
    Plan,
    confidence,
    early_within,
    factor,
    factors,
    percent,
    percent_text,
    steps,
    steps_text,
)

_PERCENT = {"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,3})?%$"}
_SHADOW = {
    "type": "object",
    "properties": {SHADOW: DURATION_SCHEMA},
    "required": [SHADOW],
    "additionalProperties": False,
}
_SHARE = {"anyOf": [_PERCENT, {"enum": ["off", False]}]}
_FACTOR = {"anyOf": [{"type": "string", "pattern": r"^[0-9.]+x$"}, {"enum": ["off", False]}]}
_FACTORS = {"type": "string", "pattern": r"^[0-9.]+x\.\.[0-9.]+x$"}
_DEFAULT = Plan(to="")


def _or_off(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is False or value == "off" else read(value)


def _confidence(value: Any) -> float:
    return confidence(value)


def _share(value: Any) -> float:
    found = percent(value)
    if found >= 1:
        raise ValueError(f"expected less than 100%, got {describe(value)}")
    return found


class Steps(NamedTuple):
    """shadow: s before the first share; 0 = none."""

    shares: tuple[float, ...]
    shadow: float = 0.0


def _steps(value: Any) -> Steps:
    if not isinstance(value, list):
        raise ValueError(f"expected a list such as [1%, 10%, 100%], got {describe(value)}")
    first = value[0] if value else None
    if isinstance(first, dict) and [*first] == [SHADOW]:
        return Steps(steps(value[1:]), duration(first[SHADOW], 0.001, 30 * DAY))
    return Steps(steps(value))


def _word(words: tuple[str, ...]) -> Any:
    def check(value: Any) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError(f"expected one of {', '.join(words)}, got {describe(value)}")
        return value

    return Annotated[str, BeforeValidator(check), WithJsonSchema({"enum": list(words)})]


def _duration(low: float = 0.0) -> Any:
    return Annotated[
        float,
        BeforeValidator(lambda value: duration(value, low, 30 * DAY)),
        WithJsonSchema(DURATION_SCHEMA),
    ]


Share = Annotated[float | None, BeforeValidator(_or_off(_share)), WithJsonSchema(_SHARE)]


class EarlyModel(Strict):
    within: Annotated[
        float,
        BeforeValidator(lambda value: early_within(duration(value, 0.0, DAY))),
        WithJsonSchema({"enum": [format_duration(each) for each in EARLY if each >= 0.001]}),
    ] = Field(default=DEFAULT_LIMITS.early_within, description="How soon after the accept.")
    above: Share = Field(default=DEFAULT_LIMITS.early_close, description="More by so much.")


class FirstByteModel(Strict):
    p95: Annotated[float | None, BeforeValidator(_or_off(factor)), WithJsonSchema(_FACTOR)] = Field(
        default=DEFAULT_LIMITS.first_byte_p95, description="Times the other version's."
    )


class DurationModel(Strict):
    p50: Annotated[tuple[float, float], BeforeValidator(factors), WithJsonSchema(_FACTORS)] = Field(
        description="Times the other version's: anything between these is accepted."
    )


class JudgeModel(Strict):
    connect_failures: Share = Field(
        default=DEFAULT_LIMITS.connect_failures, description="Connects that failed, more by this."
    )
    resets: Share = Field(
        default=DEFAULT_LIMITS.resets, description="Connections that its endpoints reset."
    )
    early_close: EarlyModel = Field(
        default=EarlyModel(),
        description="Connections that its endpoints close at once, without a byte.",
    )
    first_error: Share = Field(
        default=DEFAULT_LIMITS.first_error,
        description="Connections whose first answer is an error, by converge.protocol.",
    )
    first_byte: FirstByteModel = Field(
        default=FirstByteModel(), description="Time to the first byte, by its 95th percentile."
    )
    duration: DurationModel | None = Field(
        default=None, description="Duration of connections, by its median; off unless set."
    )
    confidence: Annotated[
        float,
        BeforeValidator(_confidence),
        WithJsonSchema({"type": ["number", "string"], "examples": ["1e-5"]}),
    ] = Field(
        default=DEFAULT_LIMITS.confidence,
        description="How probable it may be at most that a measure condemns a version that is as "
        "good as the other: 1e-12..0.01.",
    )

    def made(self) -> Limits:
        return Limits(
            self.connect_failures,
            self.resets,
            self.early_close.above,
            self.first_error,
            self.early_close.within,
            self.first_byte.p95,
            self.duration.p50 if self.duration else None,
            self.confidence,
        )


class RollbackModel(Strict):
    existing: _word(EXISTING) = Field(  # type: ignore[valid-type]
        default=_DEFAULT.existing,
        description="What a rollback does with connections that the new version has: keep, "
        "converge or reset.",
    )


class RolloutModel(Strict):
    to: Name = Field(description="The destination that is to take over.")
    steps: Annotated[
        Steps,
        BeforeValidator(_steps),
        WithJsonSchema({"type": "array", "items": {"anyOf": [_PERCENT, _SHADOW]}, "minItems": 1}),
    ] = Field(
        default=Steps(_DEFAULT.steps),
        description="Its shares, one after the other. Before them `shadow: 5m`: for so long it "
        "gets copies of connections alone.",
    )
    bake: _duration() = Field(  # type: ignore[valid-type]
        default=_DEFAULT.bake, description="How long each step lasts at least."
    )
    min_connections: Annotated[
        int,
        BeforeValidator(lambda value: whole(value, 1, 10_000_000)),
        WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 10_000_000}),
    ] = Field(
        default=_DEFAULT.min_connections,
        description="Connections that each version must have had in a step before it ends.",
    )
    max_wait: _duration(1.0) = Field(  # type: ignore[valid-type]
        default=_DEFAULT.max_wait, description="How long a step may last."
    )
    then: _word(THENS) = Field(  # type: ignore[valid-type]
        default=_DEFAULT.then, description="What follows max_wait: pause or rollback."
    )
    judge: JudgeModel = Field(default=JudgeModel(), description="What counts as worse.")
    rollback: RollbackModel = RollbackModel()
    hooks: HooksModel = Field(
        default=HooksModel(), description="What is asked before a step, and told what happens."
    )

    def made(self) -> Plan:
        return Plan(
            self.to,
            self.steps.shares,
            self.bake,
            self.min_connections,
            self.max_wait,
            self.then,
            self.judge.made(),
            self.rollback.existing,
            self.steps.shadow,
            self.hooks.made(),
        )


# --- as text ------------------------------------------------------------------------------------


def _off_or(share: float | None) -> str:
    return "off" if share is None else percent_text(share)


def _judge(limits: Limits) -> Iterator[tuple[str, str]]:
    default = DEFAULT_LIMITS
    for key in ("connect_failures", "resets", "first_error"):
        if getattr(limits, key) != getattr(default, key):
            yield key, _off_or(getattr(limits, key))
    if (limits.early_close, limits.early_within) != (default.early_close, default.early_within):
        within = format_duration(limits.early_within)
        yield "early_close", flow([("within", within), ("above", _off_or(limits.early_close))])
    if limits.first_byte_p95 != default.first_byte_p95:
        factor = "off" if limits.first_byte_p95 is None else f"{limits.first_byte_p95:g}x"
        yield "first_byte", flow([("p95", factor)])
    if limits.duration_p50:
        low, high = limits.duration_p50
        yield "duration", flow([("p50", f"{low:g}x..{high:g}x")])
    if limits.confidence != default.confidence:
        yield "confidence", f"{limits.confidence:g}"


def plan_pairs(plan: Plan) -> Pairs:
    """As it stands in a file."""
    yield "to", plan.to
    before = f"{SHADOW}: {format_duration(plan.shadow)}, " if plan.shadow else ""
    yield "steps", f"[{before}{steps_text(plan.steps)}]"
    yield "bake", format_duration(plan.bake)
    yield "min_connections", str(plan.min_connections)
    yield "max_wait", format_duration(plan.max_wait)
    yield "then", plan.then
    if judged := [*_judge(plan.limits)]:
        yield "judge", flow(judged)
    yield "rollback", flow([("existing", plan.existing)])
