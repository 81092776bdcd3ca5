"""Configuration: texts in, frozen values or a list of mistakes out. Used by every process."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from tcpmux.config.address import Address, Endpoint, HostName
from tcpmux.config.check import Check
from tcpmux.config.model import AccessLog, Admin, Config, Destination, Log, Route
from tcpmux.config.problems import ConfigError, Problem
from tcpmux.config.rule import Rule
from tcpmux.config.settings import (
    Bandwidth,
    Clients,
    DestinationPolicy,
    EndpointPolicy,
    Keepalive,
    Network,
    Passive,
    Rate,
    RoutePolicy,
)

if TYPE_CHECKING:
    from tcpmux.config.document import Text, variables_in
    from tcpmux.config.loader import load, load_sources, load_texts
    from tcpmux.config.sources import Source, read_texts, sources_of

# Else pydantic looks for plugins in all that is installed, and runs them, in the master too.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

# Loaded when asked for, with pydantic and a YAML parser: most commands and control read no file.
_READING = {
    "Source": "sources",
    "Text": "document",
    "load": "loader",
    "load_sources": "loader",
    "load_texts": "loader",
    "read_texts": "sources",
    "sources_of": "sources",
    "variables_in": "document",
}

__all__ = [
    "AccessLog",
    "Address",
    "Admin",
    "Bandwidth",
    "Check",
    "Clients",
    "Config",
    "ConfigError",
    "Destination",
    "DestinationPolicy",
    "Endpoint",
    "EndpointPolicy",
    "HostName",
    "Keepalive",
    "Log",
    "Network",
    "Passive",
    "Problem",
    "Rate",
    "Route",
    "RoutePolicy",
    "Rule",
    "Source",
    "Text",
    "load",
    "load_sources",
    "load_texts",
    "read_texts",
    "sources_of",
    "variables_in",
]


def __getattr__(name: str) -> Any:
    if name not in _READING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_READING[name]}")
    found = globals()[name] = getattr(module, name)
    return found
