"""The schema of `mirror` in a route. Private to the package."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

from tcpmux.config.keys import model_of, settings_of
from tcpmux.config.mirror import Mirror, share_of
from tcpmux.config.rows import rows_of
from tcpmux.config.values import Name, Strict, number, unlike_number

_ROWS = rows_of(Mirror)
_DECIMAL = re.compile(r"[0-9]{1,3}\.[0-9]{1,6}", re.ASCII)

if TYPE_CHECKING:
    _MirrorKeys = Strict
else:
    _MirrorKeys = model_of(Mirror)


def _share(value: Any) -> int:
    value = number(value)
    if isinstance(value, str) and _DECIMAL.fullmatch(value):  # a file has no other fractions
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, 0..100, got {unlike_number(value)}")
    return share_of(value)


class MirrorModel(_MirrorKeys):
    to: Name = Field(description=_ROWS["to"].help)
    percent: Annotated[
        int,
        BeforeValidator(_share),
        WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.01}),
    ] = Field(description=_ROWS["share"].help)

    def made(self) -> Mirror:
        return settings_of(Mirror, [self], to=self.to, share=self.percent)
