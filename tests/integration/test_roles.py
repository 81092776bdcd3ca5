"""Commands and clients over HTTP, with a token for everything and with one that may read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tcpmux import Client
from tcpmux.control.client import AdminError, PermissionDenied, Refused
from tests.integration.conftest import StartProxy
from tests.integration.looking import get, start, with_http
from tests.integration.proxy import tcpmux
from tests.integration.routes import route
from tests.support import DEADLINE, EchoServer, free_port, wait_for, write_token

TOKENS = {"operator": "operator-" * 3, "viewer": "viewer-" * 3, "another": "another-" * 3}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """By role."""
    return {role: str(write_token(tmp_path / role, token)) for role, token in TOKENS.items()}


def test_a_viewer_reads_and_an_operator_changes_and_stops(
    start_proxy: StartProxy, one: EchoServer, files: dict[str, str]
) -> None:
    config, address = with_http(route("r", free_port(), v1=(1, one.address)))
    roles = {"token_file": files["operator"], "read_only_token_file": files["viewer"]}
    proxy = start(start_proxy, config, address, **roles)
    url = f"http://{address}"
    viewer = ("--url", url, "--token-file", files["viewer"])
    operator = ("--url", url, "--token-file", files["operator"])
    assert Client(url, DEADLINE, token=TOKENS["viewer"]).access() == {"role": "viewer"}
    assert Client(url, DEADLINE, token=TOKENS["operator"]).access() == {"role": "operator"}
    assert proxy.client.access() == {"role": "operator"}

    for command in (["status"], ["routes"], ["stats"], ["conns"], ["events"], ["endpoint"]):
        done = tcpmux(*command, *viewer)
        assert (done.returncode, done.stderr) == (0, ""), command
    kind, _table = next(Client(url, DEADLINE, token=TOKENS["viewer"]).stream())
    assert kind == "table"
    bearer = {"Authorization": f"Bearer {TOKENS['viewer']}"}
    assert get(address, "/metrics", **bearer)[0] == 200

    for command in (["weight", "r", "v1=5"], ["drain", "r/v1", "--force"], ["reload"], ["stop"]):
        done = tcpmux(*command, *viewer)
        assert done.returncode == 1, command
        assert done.stderr == (
            "tcpmux: error: this token may only read: what changes something needs that of "
            "admin.token_file\n"
        )
    assert proxy.destination("v1")["weight"] == 1
    done = tcpmux("weight", "r", "v1=5", *operator)
    assert done.returncode == 0, done.stderr
    assert proxy.destination("v1")["weight"] == 5
    assert proxy.client.events()[-1]["by"] == "127.0.0.1 over HTTP"

    assert tcpmux("status", "--url", url).stderr.endswith("with --token-file\n")
    Path(files["viewer"]).write_text(TOKENS["another"])
    line = "admin.read_only_token_file: another token\n"
    done = proxy.run("diff", "-c", str(proxy.file))
    assert (done.returncode, done.stdout) == (3, f"r: v1 5->1\n{line}")
    told = proxy.run("reload").stdout
    assert line in told, "that nothing has changed is wrong"
    assert "token_file: another token, generation" in proxy.log
    assert not [token for token in TOKENS.values() if token in proxy.log]
    assert proxy.run("diff", "-c", str(proxy.file)).returncode == 0
    wait_for(lambda: get_role(url, "another") == "viewer", "the other token")
    assert get_role(url, "viewer") == ""
    assert get_role(url, "operator") == "operator"
    Path(files["viewer"]).write_text(TOKENS["operator"])
    with pytest.raises(Refused, match=r"has the same token as admin\.token_file"):
        proxy.client.reload()
    assert get_role(url, "another") == "viewer"
    proxy.children |= proxy.tree()

    done = tcpmux("stop", *operator)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"stopped (pid {proxy.process.pid})\n")
    assert proxy.process.wait(DEADLINE) == 0


def get_role(url: str, role: str) -> str:
    """ "" = the token is none of the instance's; "?" = control is started anew."""
    try:
        return Client(url, DEADLINE, token=TOKENS[role]).access()["role"]
    except PermissionDenied:
        return ""
    except AdminError:
        return "?"


def test_with_a_read_only_token_alone_nothing_changes_over_tcp(
    start_proxy: StartProxy, one: EchoServer, files: dict[str, str]
) -> None:
    """Where it is enough that the page shows everything, nobody has to have a token for more."""
    address = f"127.0.0.1:{free_port()}"
    config = {**with_http(route("r", free_port(), v1=(1, one.address)))[0]}
    proxy = start_proxy(config)
    admin = {"socket": proxy.admin, "http": address, "read_only_token_file": files["viewer"]}
    proxy.reload(json.dumps({"workers": 2, "admin": admin, **config}))
    wait_for(lambda: proxy.log.count("control is ready") > 1, "another control")
    proxy.children |= proxy.tree()
    viewer = Client(f"http://{address}", DEADLINE, token=TOKENS["viewer"])
    assert viewer.access() == {"role": "viewer"}
    with pytest.raises(Refused, match="may only read") as caught:
        viewer.set_weights("r", {"v1": 7})
    assert caught.value.status == 403
    with pytest.raises(PermissionDenied):
        Client(f"http://{address}", DEADLINE, token=TOKENS["operator"]).set_weights("r", {"v1": 7})
    assert proxy.destination("v1")["weight"] == 1
    assert proxy.run("weight", "r", "v1=7").returncode == 0, "the UNIX socket is the way"
    assert os.path.exists(proxy.admin)
