"""haproxy.cfg: what `mode tcp` says there."""

from __future__ import annotations

from collections.abc import Sequence

from tcpmux.convert.haproxy.instance import maxconn_of, settings_of
from tcpmux.convert.haproxy.proxies import backends_of, finish, make_statements, sections_of
from tcpmux.convert.haproxy.reading import read_sections
from tcpmux.convert.haproxy.routes import drafts_of
from tcpmux.convert.kinds import Input, Result
from tcpmux.convert.report import Report

__all__ = ["read"]


def read(inputs: Sequence[Input], report: Report) -> Result:
    sections = sections_of(read_sections(inputs, report), report)
    make_statements(sections, report)
    for section in sections:
        if section.kind == "defaults" and section.head is not None:
            section.head.mapped()
    backends = backends_of(sections)
    most = maxconn_of(sections, report)
    drafts = drafts_of(sections, backends, most, report)
    settings = settings_of(sections, report)
    finish(sections)
    return Result(drafts, settings)
