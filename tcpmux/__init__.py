"""tcpmux shifts TCP traffic between versions of a service by weight."""

from importlib.metadata import version

__version__ = version("tcpmux")
