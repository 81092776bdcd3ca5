"""The OpenAPI document, and whether the API does what it says: judged by schemathesis."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.integration.conftest import StartProxy
from tests.integration.looking import get, start, with_http
from tests.integration.routes import route
from tests.support import EchoServer, free_port, patient

# Not asked: what would end the instance or the test.
EXCLUDED = ("/v1/stop", "/v1/upgrade", "/v1/stream")


def test_the_api_keeps_to_its_document(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    config, address = with_http(route("r", free_port(), v1=(1, one.address)))
    proxy = start(start_proxy, config, address)
    status, text = get(address, "/v1/openapi.json")
    assert status == 200
    paths = json.loads(text)["paths"]
    assert {"/v1/status", "/v1/connections", "/metrics"} <= paths.keys()
    # A valid request may still be refused: for a route that is not there, say.
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"http://{address}/v1/openapi.json"),
        *("--max-examples", "10", "--phases", "examples,coverage,fuzzing", "--seed", "1"),
        *("--exclude-checks", "positive_data_acceptance", "--request-timeout", "10"),
        *(word for path in EXCLUDED for word in ("--exclude-path", path)),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=patient(110), check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested:" in done.stdout
    assert proxy.status()["state"] == "running"
    assert "Traceback" not in proxy.log
