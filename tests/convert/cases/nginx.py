"""Beside Nginx."""

from tests.convert.looks import Case

CASES: list[Case] = []
