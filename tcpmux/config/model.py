"""The configuration as the rest of the program sees it: frozen, checked, in base units."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tcpmux.config.address import Address


@dataclass(frozen=True, slots=True)
class Destination:
    """One version of a service. weight: 0..1000000. endpoints may be empty: its share is
    rejected."""

    name: str
    weight: int
    endpoints: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Addresses to listen on and the destinations behind them. Timeouts in s; idle 0.0 = off."""

    name: str
    listen: tuple[Address, ...]
    connect_timeout: float
    idle_timeout: float
    destinations: tuple[Destination, ...]


@dataclass(frozen=True, slots=True)
class Admin:
    """socket: path of the UNIX socket of the admin API."""

    socket: str


@dataclass(frozen=True, slots=True)
class Config:
    """All files together. workers: None = as many as usable CPUs. busy_poll: how long a worker
    looks for events before it sleeps, in us; None = as it pays. drain_timeout in s."""

    workers: int | None
    busy_poll: int | None
    admin: Admin
    drain_timeout: float
    routes: tuple[Route, ...]
    files: tuple[Path, ...]
