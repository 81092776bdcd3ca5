"""For all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """A shell has its background jobs ignore these, and what they start ignores them too; some
    tests send them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
