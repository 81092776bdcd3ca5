"""docs/migrate/haproxy.md says what `tcpmux convert` does with each construct in its tables."""

from __future__ import annotations

import re

import pytest

from tcpmux.convert.conversion import Conversion, convert
from tcpmux.convert.haproxy.tables import DIRECTIVES
from tcpmux.convert.kinds import Input
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs/migrate/haproxy.md").read_text()
FILE = """
resolvers dns
 nameserver one 127.0.0.1:53
backend other
 server x 127.0.0.1:2
listen f
 bind 127.0.0.1:1
{line}
 server a 127.0.0.1:3 check {words}
"""


def rows(title: str) -> list[tuple[str, str]]:
    """(construct, what stands beside it) of the table after this line."""
    table = PAGE.partition(f"{title}\n\n")[2].partition("\n\n")[0]
    assert table
    return [
        (construct, beside.strip())
        for first, beside in re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", table, re.MULTILINE)
        for construct in re.findall(r"`([^`]+)`", first)
    ]


def converted(construct: str) -> Conversion:
    first = construct.split()
    is_line = first[0] in DIRECTIVES or " ".join(first[:2]) in DIRECTIVES
    text = FILE.format(line=f" {construct}" if is_line else "", words="" if is_line else construct)
    if construct.startswith("option external"):
        text = text.replace("resolvers dns", "global\n external-check\nresolvers dns")
    if "-fin" in construct and "1m" in construct:  # of which the page says that both have to agree
        text = text.replace(construct, "timeout client-fin 1m\n timeout server-fin 1m")
    if "{ req.ssl_sni" in construct:  # of which the page says that a rule has to wait for it
        waits = "tcp-request content accept if { req.ssl_hello_type 1 }"
        text = text.replace(" bind", f" tcp-request inspect-delay 5s\n {waits}\n bind")
    return convert("haproxy", [Input("haproxy.cfg", text)])


MAPPED = rows("What `tcpmux convert` maps:")
LACKS = rows("What changes traffic, and what tcpmux would need for it:")


@pytest.mark.parametrize("construct", [construct for construct, _ in MAPPED])
def test_what_is_mapped(construct: str) -> None:
    found = converted(construct)
    assert not found.changes, [str(change) for change in found.changes]
    assert found.text


@pytest.mark.parametrize(("construct", "needs"), LACKS)
def test_what_changes_traffic(construct: str, needs: str) -> None:
    found = converted(construct).changes
    assert found
    for change in found:
        assert change.needs
        assert needs.startswith(change.needs) or change.needs == "scripted checks"
