"""Limits of requests to the admin API. Used by control and by its clients.

Clients can't load what is behind: a test compares.
"""

from __future__ import annotations

MAX_EVENTS = 10**15  # no event has a greater number
MAX_TARGETS = 4096  # of one request
MAX_SECONDS = 30 * 86400  # that an endpoint's state may last
MAX_RATE = 100_000  # per second
MAX_FILES = 1000  # in a diff
MAX_NAME = 4096  # characters, of such a file
MAX_CONNECTIONS = 20_000  # in one answer, or one order to reset them
MAX_WEIGHT = 1_000_000
MAX_WORKERS = 64  # TM_MAX_SHARDS of csrc/route_table.h
ADMIN_STATES = ("ready", "draining", "disabled")
CONVERGE_ORDERS = ("idle", "oldest", "random")
CONVERGE_THENS = ("keep", "reset")
CONVERGE_METHODS = ("close", "rehome")
ROLLOUT_ACTIONS = ("pause", "resume", "promote", "abort")
FLEET_ACTIONS = ("undo", "restore", "confirm")
