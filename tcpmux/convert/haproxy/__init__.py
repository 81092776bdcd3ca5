"""haproxy.cfg: what `mode tcp` says there."""

from tcpmux.convert.haproxy.sections import read

__all__ = ["read"]
