"""The configuration of health checks, as the master sends it to control."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tcpmux.config.check import Check
from tcpmux.config.settings import DestinationPolicy, Passive


@dataclass(frozen=True, slots=True)
class Watch:
    """What control has to know of a destination. slow_start: s; slow_start_floor: percent."""

    check: Check | None
    passive: Passive
    slow_start: float
    slow_start_floor: int


def watch_of(policy: DestinationPolicy) -> Watch:
    return Watch(policy.check, policy.passive, policy.slow_start.duration, policy.slow_start.floor)


def to_message(watch: Watch) -> dict[str, Any]:
    """For JSON: bytes as hexadecimal digits."""
    check = None
    if watch.check is not None:
        check = asdict(watch.check)
        check.update(send=watch.check.send.hex(), expect=watch.check.expect.hex())
    return {
        "check": check,
        "passive": asdict(watch.passive),
        "slow_start": watch.slow_start,
        "slow_start_floor": watch.slow_start_floor,
    }


def from_message(message: dict[str, Any]) -> Watch:
    """What to_message() has made."""
    check = message["check"]
    if check is not None:
        check = Check(
            **{
                **check,
                "send": bytes.fromhex(check["send"]),
                "expect": bytes.fromhex(check["expect"]),
                "status": tuple(check["status"]),
            }
        )
    passive = Passive(**message["passive"])
    return Watch(check, passive, message["slow_start"], message["slow_start_floor"])
