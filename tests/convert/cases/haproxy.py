"""Beside HAProxy."""

from tests.convert.looks import case, shares

CASES = [case("haproxy/two-servers.cfg", shares(19001))]
