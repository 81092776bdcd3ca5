"""Beside Traefik."""

from tests.convert.looks import Case

CASES: list[Case] = []
