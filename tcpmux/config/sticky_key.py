"""The schema of `sticky` in a route. Private to the package."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from tcpmux.config.keys import model_of, settings_of, tlv_type
from tcpmux.config.problems import describe
from tcpmux.config.rows import rows_of
from tcpmux.config.sticky import Sticky
from tcpmux.config.values import Name, Strict

_ROWS = rows_of(Sticky)
_BY = re.compile(r"source|sni|tlv:(0x[0-9A-Fa-f]{1,2}|[0-9]{1,3})", re.ASCII)

if TYPE_CHECKING:
    _StickyKeys = Strict
else:
    _StickyKeys = model_of(Sticky)


def _by(value: Any) -> tuple[str, int]:
    """What it goes by, and a TLV's type."""
    found = _BY.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected source, sni or tlv:0xEA, got {describe(value)}")
    by, colon, kind = found[0].partition(":")
    return by, tlv_type(kind) if colon else 0


class StickyModel(_StickyKeys):
    by: Annotated[
        tuple[str, int],
        BeforeValidator(_by),
        WithJsonSchema({"type": "string", "pattern": f"^({_BY.pattern})$"}),
    ] = Field(description=_ROWS["by"].help)
    group: Name | None = Field(default=None, description=_ROWS["group"].help)

    def made(self) -> Sticky:
        by, tlv = self.by
        return settings_of(Sticky, [self], by=by, tlv=tlv, group=self.group or "")
