"""Configuration: files in, frozen values or a list of mistakes out. Used by every process."""

from tcpmux.config.address import Address, Endpoint, HostName
from tcpmux.config.document import Text, variables_in
from tcpmux.config.load import load, load_texts, read_texts
from tcpmux.config.model import (
    AccessLog,
    Admin,
    Bandwidth,
    Check,
    Clients,
    Config,
    Destination,
    DestinationPolicy,
    EndpointPolicy,
    Keepalive,
    Network,
    Passive,
    Rate,
    Route,
    RoutePolicy,
)
from tcpmux.config.problems import ConfigError, Problem

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
    "Network",
    "Passive",
    "Problem",
    "Rate",
    "Route",
    "RoutePolicy",
    "Text",
    "load",
    "load_texts",
    "read_texts",
    "variables_in",
]
