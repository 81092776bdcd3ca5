"""Time limits within which nothing swallows a cancellation. Used by control.

asyncio.wait_for() of Python before 3.12 returns a result that comes at the same moment as the
cancellation, and forgets the latter: a task that is to end goes on, and who waits for its end
waits for ever.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout as within
else:
    from async_timeout import timeout as within

__all__ = ["within"]
