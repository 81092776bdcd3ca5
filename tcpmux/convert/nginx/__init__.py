"""nginx.conf: what `stream` says there."""

from tcpmux.convert.nginx.stream import read

__all__ = ["read"]
