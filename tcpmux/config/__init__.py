"""Configuration: files in, frozen values or a list of mistakes out. Used by every process."""

from tcpmux.config.address import Address, Endpoint, HostName
from tcpmux.config.load import load
from tcpmux.config.model import AccessLog, Admin, Config, Destination, Route
from tcpmux.config.problems import ConfigError, Problem

__all__ = [
    "AccessLog",
    "Address",
    "Admin",
    "Config",
    "ConfigError",
    "Destination",
    "Endpoint",
    "HostName",
    "Problem",
    "Route",
    "load",
]
