"""Envoy's bootstrap file: what its static resources say of TCP."""

from tcpmux.convert.envoy.bootstrap import read

__all__ = ["read"]
