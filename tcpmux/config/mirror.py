"""The settings of `mirror`, as rows: settings.py."""

from __future__ import annotations

from dataclasses import dataclass

from tcpmux.config.rows import other, section, size

MIRROR_WHOLE = 10_000  # of which a share is so many


@dataclass(frozen=True, slots=True)
class Compare:
    """How the two answers are compared. prefix: 0 = not their bytes."""

    prefix: int = size(
        "Bytes of each answer whose content is compared; beyond, only their number is.",
        64 * 1024, 0, 1 << 20, rule="mirror_prefix",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mirror:
    """A copy of what clients send, for another destination, whose answers nobody gets. to: its
    name; "" = there is none. share: of MIRROR_WHOLE connections. lag in bytes."""

    to: str = other(
        "The destination that gets the copy.", "", rule="mirror_to", unit="index of a destination"
    )
    share: int = other(
        "Percentage of the connections to other destinations that are mirrored, exactly: 10, 0.5 "
        "or, for none until `tcpmux mirror` says so, 0.",
        0, rule="mirror_share", unit="of 10,000 connections",
    )  # fmt: skip
    at_run_time: bool = other(
        "Whether it was set at run time.", False, rule="mirror_at_run_time", unit="0 or 1"
    )
    lag: int = size(
        "Bytes that may wait for the shadow of one connection; beyond, it is given up.",
        1 << 20, 64 * 1024, 1 << 20, rule="mirror_lag",
    )  # fmt: skip
    compare: Compare = section("How answers are compared.", Compare(), off="prefix")


def share_of(percent: float) -> int:
    """Of MIRROR_WHOLE. Raises ValueError."""
    share = round(percent * 100, 6)
    if not 0 <= share <= MIRROR_WHOLE or share != int(share):
        raise ValueError(
            f"expected 0..100 with at most two decimals, such as 10 or 0.25, got {percent:g}"
        )
    return int(share)


def percent_text(share: int) -> str:
    """As it stands in a file."""
    return f"{share / 100:g}"
