"""Beside Envoy."""

from tests.convert.looks import Case

CASES: list[Case] = []
