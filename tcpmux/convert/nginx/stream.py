"""The stream block of nginx.conf."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.convert.kinds import Input, Result
from tcpmux.convert.report import Report


def read(files: Sequence[Input], report: Report) -> Result:
    raise NotImplementedError
