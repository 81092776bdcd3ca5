"""The access log of a running instance: every end is a line, and traffic never waits for one."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.conftest import StartProxy
from tests.integration.looking import OPEN, metric
from tests.integration.proxy import Proxy
from tests.integration.routes import route, routes
from tests.others import NOBODY, needs_reachable, needs_root
from tests.support import DEADLINE, EchoServer, ask, free_port, listening, wait_for


def lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole: the last one may be half written at the moment."""
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def logger_pid(proxy: Proxy) -> int:
    """0 = there is none at the moment."""
    return next((pid for pid, title in titles(proxy).items() if title == "tcpmux: log"), 0)


def titles(proxy: Proxy) -> dict[int, str]:
    found = {}
    for pid in proxy.tree():
        with suppress(psutil.Error, IndexError):
            found[pid] = psutil.Process(pid).cmdline()[0]
    return found


def test_a_line_for_each_end_with_its_reason(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    ports = free_port(), free_port(), free_port()
    log = tmp_path / "access.log"
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{refusing.getsockname()[1]}"
        start_proxy(
            routes(
                route("good", ports[0], v1=(1, one.address), v2=(0, nobody)),
                route("bad", ports[1], v1=(1, nobody)),
                route("none", ports[2], v1=(0, one.address)),
                access_log={"path": str(log), "start": True},
            )
        )
        assert ask(("127.0.0.1", ports[0])) == "one hello\n"
        for port in ports[1:]:
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                ask(("127.0.0.1", port))
        wait_for(lambda: len([x for x in lines(log) if x["event"] == "end"]) == 3, "three ends")
    assert oct(log.stat().st_mode & 0o777) == "0o640"
    by_route = {line["route"]: line for line in lines(log) if line["event"] == "end"}
    good = by_route["good"]
    assert (good["bytes_received"], good["bytes_sent"]) == (6, 10)
    assert (good["response_flags"], good["connection_termination_details"]) == ("-", "finished")
    assert (good["upstream_host"], good["upstream_cluster"]) == (one.address, "good/v1")
    assert good["downstream_local_address"] == f"127.0.0.1:{ports[0]}"
    assert good["connect_ms"] > 0
    assert good["first_byte_ms"] >= good["connect_ms"]
    assert (by_route["bad"]["response_flags"], by_route["bad"]["closed_by"]) == ("UF", "proxy")
    assert by_route["none"]["response_flags"] == "UH"
    assert by_route["none"]["destination"] is None
    assert (good["pick_reason"], good["others"]) == ("only", "v2: weight 0")
    starts = {line["connection_id"]: line for line in lines(log) if line["event"] == "start"}
    assert starts[good["connection_id"]]["start_time"] == good["start_time"]


def turned_away(port: int) -> None:
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        ask(("127.0.0.1", port))


def with_one_connection(route: dict[str, Any], *, of_endpoint: bool) -> dict[str, Any]:
    """max_connections is 1 for its destination, or for the endpoint of that."""
    (destination,) = route["destinations"]
    if of_endpoint:
        (address,) = destination["endpoints"]
        destination["endpoints"] = [{"address": address, "max_connections": 1}]
    else:
        destination["max_connections"] = 1
    return route


def refused(path: Path) -> dict[str, dict[str, Any]]:
    """By route, the lines of clients that were turned away."""
    flags = {"UAEX", "UO", "UH"}
    return {each["route"]: each for each in lines(path) if each["response_flags"] in flags}


def test_clients_that_are_turned_away_have_a_line_that_says_why(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    denied, limited, none, rate, full, ends = (free_port() for _ in range(6))
    path = tmp_path / "access.log"
    one_each = {**route("limited", limited, v1=(1, one.address)), "source": {"max_connections": 1}}
    start_proxy(
        routes(
            {**route("denied", denied, v1=(1, one.address)), "deny": ["127.0.0.1"]},
            one_each,
            route("none", none, v1=(0, one.address)),
            {**route("rate", rate, v1=(1, one.address)), "source": {"rate": "1/h"}},
            with_one_connection(route("full", full, v1=(1, one.address)), of_endpoint=False),
            with_one_connection(route("ends", ends, v1=(1, one.address)), of_endpoint=True),
            access_log=str(path),
            workers=1,
        )
    )
    with ExitStack() as stack:
        for port in (limited, rate, full, ends):
            held = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
            held.sendall(b"x\n")
            assert held.recv(100)
        for port in (denied, limited, none, rate, full, ends):
            turned_away(port)
        wait_for(lambda: len(refused(path)) == 6, "a line of each")
    said = refused(path)
    assert said["denied"]["event"] == "refused"
    assert said["denied"]["downstream_local_address"] == f"127.0.0.1:{denied}"
    assert said["denied"]["connection_id"] is None
    words = ("response_flags", "connection_termination_details", "limit")
    assert {name: tuple(line[word] for word in words) for name, line in said.items()} == {
        "denied": ("UAEX", "denied", None),
        "limited": ("UO", "overflow", "source.max_connections"),
        "none": ("UH", "no_endpoint", None),
        "rate": ("UO", "rate_limited", "source.rate"),
        "full": ("UO", "overflow", "destination.max_connections"),
        "ends": ("UO", "overflow", "endpoint.max_connections"),
    }
    for name, line in said.items():
        picked = "v1" if name in ("full", "ends") else None
        assert line["downstream_remote_address"].startswith("127.0.0.1:")
        assert (line["closed_by"], line["destination"], line["count"]) == ("proxy", picked, 1)


def test_a_flood_of_denied_clients_does_not_fill_the_disk(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """Beyond the first hundred most are counted, in one line, also by another log process."""
    port, path, clients = free_port(), tmp_path / "access.log", 1500
    proxy = start_proxy(
        routes(
            {**route("r", port, v1=(1, one.address)), "deny": ["127.0.0.1"]},
            access_log=str(path),
            workers=1,
        )
    )
    started = time.monotonic()
    for _ in range(clients):
        with suppress(ConnectionError):
            socket.create_connection(("127.0.0.1", port), DEADLINE).close()
    wait_for(
        lambda: metric(proxy.admin, "tcpmux_route_connections_denied_total") == clients,
        "all denied",
    )
    took = time.monotonic() - started
    wait_for(lambda: len(lines(path)) >= 100, "the first lines")
    writer = logger_pid(proxy)
    os.kill(writer, signal.SIGKILL)
    wait_for(lambda: logger_pid(proxy) not in (0, writer), "another log process")
    proxy.stop()
    counts = Counter[str]()
    for line in lines(path):
        assert line["connection_termination_details"] == "denied"
        counts[line["event"]] += line["count"]
    assert counts["refused"] + counts["more"] == clients
    assert 100 <= counts["refused"] <= 101 + took * 10
    assert len(lines(path)) < counts["refused"] + 2 + took / 10


def test_open_connections_have_a_line_every_so_often(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    port, log = free_port(), tmp_path / "access.log"
    start_proxy(
        routes(
            route("r", port, v1=(1, one.address)), access_log={"path": str(log), "interval": "1s"}
        )
    )
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.sendall(b"hello\n")
        sock.recv(100)
        wait_for(lambda: len(lines(log)) >= 2, "two lines")
        sock.sendall(b"hello\n")
        wait_for(lambda: lines(log)[-1]["bytes_received"] == 12, "its bytes to move")
        assert {line["event"] for line in lines(log)} == {"alive"}


def test_rotation_reload_and_a_killed_writer_lose_nothing(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    port, log, other = free_port(), tmp_path / "access.log", tmp_path / "other.log"
    config = routes(route("r", port, v1=(1, one.address)), access_log=str(log))
    proxy = start_proxy(config)

    def asked(count: int) -> int:
        return sum(len(ask(("127.0.0.1", port))) for _ in range(count))

    asked(5)
    wait_for(lambda: len(lines(log)) == 5, "five lines")
    log.rename(tmp_path / "old.log")
    proxy.signal(signal.SIGUSR1)
    wait_for(lambda: asked(1) and log.exists(), "the file to be made anew")
    pid = logger_pid(proxy)
    os.kill(pid, signal.SIGKILL)
    asked(7)
    proxy.says(f"log (pid {pid}) killed by SIGKILL")
    wait_for(lambda: logger_pid(proxy) not in (0, pid), "another writer")
    proxy.children |= proxy.tree()
    opened = proxy.destination("v1")["connections_total"]
    wait_for(lambda: len(lines(log)) + len(lines(tmp_path / "old.log")) == opened, "every line")
    proxy.reload({**config, "access_log": {"path": str(other), "format": "{route} {duration}"}})
    wait_for(lambda: asked(1) and other.exists() and other.read_text(), "the other file")
    assert other.read_text().startswith("r ")
    proxy.reload({**config, "access_log": "off"})
    wait_for(lambda: not logger_pid(proxy), "the writer to end")
    proxy.children |= proxy.tree()


def test_a_disk_that_hangs_costs_lines_and_no_traffic(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """Here it is standard output that nobody reads."""
    port, fifo = free_port(), tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        proxy = start_proxy(
            routes(
                route("r", port, v1=(1, one.address)),
                access_log={"path": "stdout", "buffer": "64KiB"},
            ),
            prefix=["sh", "-c", f'exec "$@" >{fifo}', "sh"],
        )
        for _ in range(20):
            for _ in range(500):
                assert ask(("127.0.0.1", port)) == "one hello\n"
            if metric(proxy.admin, "tcpmux_worker_log_dropped_total"):
                break
        else:
            pytest.fail("10,000 lines were neither read nor dropped")
    finally:
        os.close(reader)


@pytest.mark.parametrize("numbers", [("TERM",), ("TERM", "TERM"), ("QUIT",)], ids="-".join)
def test_a_stop_writes_what_has_ended_before(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path, numbers: tuple[str, ...]
) -> None:
    """Also if the log process has only just been started, or has just died, and connections that
    the stop itself resets."""
    port, log = free_port(), tmp_path / "access.log"
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), access_log=str(log)))
    os.kill(wait_for(lambda: logger_pid(proxy), "the writer"), signal.SIGKILL)
    for _ in range(10):
        assert ask(("127.0.0.1", port)) == "one hello\n"
    with socket.create_connection(("127.0.0.1", port)) as sock:
        if numbers != ("TERM",):
            sock.sendall(b"hello\n")
            sock.recv(100)
        else:
            sock.close()
            wait_for(lambda: not proxy.active(), "its end")
        proxy.children |= proxy.tree()
        for name in numbers:
            seen = len(proxy.log)
            proxy.signal(signal.Signals[f"SIG{name}"])
            wait_for(lambda seen=seen: "SIG" in proxy.log[seen:], "it to be taken")  # type: ignore[misc]
        proxy.process.wait(DEADLINE)
    ends = Counter(line["connection_termination_details"] for line in lines(log))
    open_one = "finished" if numbers == ("TERM",) else "shutdown"
    assert ends == Counter({"finished": 10}) + Counter([open_one])


def test_a_stop_says_what_could_not_be_written(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """A reader that does not read any more gets no more time than a moment."""
    port, fifo = free_port(), tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(reader, b"x" * 4096)
    try:
        proxy = start_proxy(
            routes(route("r", port, v1=(1, one.address)), access_log="stdout"),
            prefix=["sh", "-c", f'exec "$@" >{fifo}', "sh"],
        )
        for _ in range(10):
            assert ask(("127.0.0.1", port)) == "one hello\n"
        proxy.stop()
        proxy.says("10 lines of the access log were lost at the end")
    finally:
        os.close(reader)


def test_a_path_that_cant_be_written_is_refused(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    config = routes(route("r", free_port(), v1=(1, one.address)))
    proxy = start_proxy(config)
    proxy.reload({**config, "access_log": str(tmp_path / "none/access.log")})
    proxy.says("No such file or directory: name a file in a directory that only root")
    assert proxy.status()["generation"] == 1


@needs_reachable
def test_another_master_goes_on_with_the_log_and_the_page(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    port, log, http = free_port(), tmp_path / "access.log", f"127.0.0.1:{free_port()}"
    config = routes(route("r", port, v1=(1, one.address)), access_log=str(log))
    proxy = start_proxy(config)
    full = {"workers": 2, "admin": {"socket": proxy.admin, "http": http, **OPEN}, **config}
    proxy.reload(json.dumps(full))
    wait_for(lambda: listening(int(http.rpartition(":")[2])), "the page")
    proxy.children |= proxy.tree()
    proxy.process.kill()
    proxy.process.wait()
    for _ in range(5):
        assert ask(("127.0.0.1", port)) == "one hello\n"
    proxy.start()
    for _ in range(5):
        assert ask(("127.0.0.1", port)) == "one hello\n"
    wait_for(lambda: len(lines(log)) == 10, "every line")
    wait_for(lambda: listening(int(http.rpartition(":")[2])), "the page again")
    assert "can't listen" not in proxy.log
    proxy.client.upgrade()
    proxy.says("upgrade 1: done")
    wait_for(lambda: listening(int(http.rpartition(":")[2])), "the page after an upgrade")
    for _ in range(5):
        assert ask(("127.0.0.1", port)) == "one hello\n"
    wait_for(lambda: len(lines(log)) == 15, "every line")
    wait_for(lambda: logger_pid(proxy), "the writer")
    proxy.children |= proxy.tree()


def test_a_template_on_standard_output(start_proxy: StartProxy, one: EchoServer) -> None:
    port = free_port()
    proxy = start_proxy(
        routes(
            route("r", port, v1=(1, one.address)),
            access_log={"path": "stdout", "format": "{event} {route} {upstream_host} {closed_by}"},
        )
    )
    assert ask(("127.0.0.1", port)) == "one hello\n"
    proxy.says(f"end r {one.address} both\n")


# --- where it may be ------------------------------------------------------------------------------


def refusal(start_proxy: StartProxy, one: EchoServer, path: Path) -> str:
    """What a reload that brings this path is refused with."""
    config = routes(route("r", free_port(), v1=(1, one.address)))
    proxy = start_proxy(config)
    proxy.reload({**config, "access_log": str(path)})
    assert proxy.status()["generation"] == 1
    proxy.says(f"refused, nothing changed: access_log.path {path}: ")
    return proxy.log.rpartition(f"access_log.path {path}: ")[2]


def test_a_link_is_not_followed(start_proxy: StartProxy, one: EchoServer, tmp_path: Path) -> None:
    """Lines hold what clients want: who could choose where they go would be root."""
    target, link, name = tmp_path / "precious", tmp_path / "link", tmp_path / "name"
    target.write_text("as it was\n")
    link.symlink_to(target)
    assert "it is a symbolic link, which is not followed" in refusal(start_proxy, one, link)
    name.hardlink_to(target)
    assert "the file has 2 names (hard links)" in refusal(start_proxy, one, name)
    name.unlink()
    os.mkfifo(name)
    assert "it is not a regular file" in refusal(start_proxy, one, name)
    assert target.read_text() == "as it was\n"


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_directory_where_others_write_is_refused(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path, mode: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(mode)
    assert f"{place}" in refusal(start_proxy, one, place / "access.log")
    assert list(place.iterdir()) == []


@needs_root
def test_in_a_directory_of_its_user_the_log_process_opens_it_itself(
    start_proxy: StartProxy, one: EchoServer, open_path: Path
) -> None:
    """So a link that this user puts there leads no further than that user gets."""
    port, place = free_port(), open_path / "logs"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    log, precious = place / "access.log", open_path / "precious"
    precious.write_text("as it was\n")
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), access_log=str(log)))
    assert ask(("127.0.0.1", port)) == "one hello\n"
    wait_for(lambda: len(lines(log)) == 1, "a line")
    assert log.stat().st_uid == NOBODY
    log.rename(place / "old.log")
    log.symlink_to(precious)
    proxy.signal(signal.SIGUSR1)
    proxy.says("can't reopen the access log")
    assert ask(("127.0.0.1", port)) == "one hello\n"
    wait_for(lambda: len(lines(place / "old.log")) == 2, "the line in the file that it has")
    assert precious.read_text() == "as it was\n"


def test_logrotate_may_make_the_file(
    start_proxy: StartProxy, one: EchoServer, tmp_path: Path
) -> None:
    """Its `create`: the new file is there before the signal, with an owner and a mode."""
    port, log = free_port(), tmp_path / "access.log"
    proxy = start_proxy(routes(route("r", port, v1=(1, one.address)), access_log=str(log)))
    assert ask(("127.0.0.1", port)) == "one hello\n"
    wait_for(lambda: len(lines(log)) == 1, "a line")
    assert log.stat().st_mode & 0o777 == 0o640
    for number in range(3):
        log.rename(tmp_path / f"old{number}.log")
        log.touch(0o600)
        proxy.signal(signal.SIGUSR1)
        wait_for(lambda: bool(ask(("127.0.0.1", port)) and lines(log)), "a line in the new file")
        assert log.stat().st_mode & 0o777 == 0o600
    opened = proxy.destination("v1")["connections_total"]
    wait_for(lambda: sum(len(lines(f)) for f in tmp_path.glob("*.log")) == opened, "every line")
