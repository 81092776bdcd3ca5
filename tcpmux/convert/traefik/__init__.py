"""Traefik's static and dynamic files: what they say of TCP."""

from tcpmux.convert.traefik.files import read

__all__ = ["read"]
