"""The schema of `preread` in a route. Private to the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tcpmux.config.keys import model_of, settings_of
from tcpmux.config.preread import Preread
from tcpmux.config.values import Strict

if TYPE_CHECKING:
    _PrereadKeys = Strict
else:
    _PrereadKeys = model_of(Preread)


class PrereadModel(_PrereadKeys):
    def made(self) -> Preread:
        return settings_of(Preread, [self], is_asked=True)
