"""Routes from haproxy.cfg and nginx.conf, as far as they are about TCP and the mapping is plain.

For `tcpmux convert` alone: tcpmux can't run with them. What has no equivalent is a warning.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tcpmux.config.haproxy import Haproxy
from tcpmux.config.model import Admin, Config, Route
from tcpmux.config.nginx import Nginx
from tcpmux.config.problems import ConfigError, Problem
from tcpmux.config.schema import FileModel
from tcpmux.config.sources import Files, source_of
from tcpmux.files import Unreadable, read_file

DEFAULTS = FileModel()


def is_other(path: str) -> bool:
    return isinstance(source_of(path), Files) and Path(path).suffix in (".cfg", ".conf")


def load_other(paths: Sequence[str]) -> Config:
    """One configuration of all files. Raises ConfigError."""
    warnings: list[Problem] = []
    problems: list[Problem] = []
    routes: list[Route] = []
    for path in paths:
        try:
            text = read_file(path).data.decode("utf-8")
        except Unreadable as error:
            raise ConfigError([Problem(path, 0, 0, "", str(error))]) from None
        except UnicodeDecodeError as error:
            raise ConfigError([Problem(path, 0, 0, "", f"can't be read: {error}")]) from None
        kind = Haproxy if Path(path).suffix == ".cfg" else Nginx
        routes += kind(path, warnings, problems).routes(text)
    if problems:
        raise ConfigError(problems)
    if not routes:
        message = "it contains no TCP proxy with a destination"
        raise ConfigError([*warnings, Problem(", ".join(paths), 0, 0, "", message)])
    return Config(
        DEFAULTS.workers,
        DEFAULTS.busy_poll,
        Admin(DEFAULTS.admin.socket),
        DEFAULTS.drain_timeout,
        tuple(routes),
        warnings=tuple(warnings),
    )
