"""Real servers behind the proxy, used with their own clients: as if direct."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import StartProxy
from tests.integration.routes import route, routes
from tests.others import system_program
from tests.support import DEADLINE, EchoServer, free_port, listening, patient, wait_for


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[int]:
    if not shutil.which("redis-server") or not shutil.which("redis-benchmark"):
        pytest.skip("redis-server is not installed")
    port = free_port()
    server = subprocess.Popen(
        [*f"redis-server --bind 127.0.0.1 --port {port} --dir {tmp_path} --save".split(), ""],
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: listening(port) or server.poll() is not None, "redis")
        assert server.poll() is None, f"redis ended with {server.returncode}"
        yield port
    finally:
        server.terminate()
        server.wait(DEADLINE)


def test_redis_and_its_benchmark(start_proxy: StartProxy, redis: int) -> None:
    port = free_port()
    proxy = start_proxy(routes(route("redis", port, v1=(1, f"127.0.0.1:{redis}"))))

    def cli(*arguments: str) -> str:
        return subprocess.run(
            ["redis-cli", "-p", str(port), *arguments],
            capture_output=True,
            text=True,
            timeout=patient(60),
            check=True,
        ).stdout.strip()

    assert cli("set", "key", "x" * 100_000) == "OK"
    assert cli("strlen", "key") == "100000"
    # lrange_100: answers of 400 KB.
    for tests, count in (("set,get", 20_000), ("lrange_100", 1000)):
        options = f"-p {port} -n {count} -c 50 -d 4096 -P 8 -t {tests} --csv"
        result = subprocess.run(
            ["redis-benchmark", *options.split()],
            capture_output=True,
            text=True,
            timeout=patient(100),
            check=True,
        )
        assert f'"{tests[:3].upper()}' in result.stdout
        assert "error" not in result.stderr.lower()
    wait_for(lambda: proxy.active() == 0, "all to end")
    closed = proxy.destination("v1")["closed"]
    assert closed["finished"] + closed["client_reset"] == sum(closed.values())


def test_nginx_serves_a_large_file(start_proxy: StartProxy, tmp_path: Path) -> None:
    nginx = system_program("nginx")
    if not nginx:
        pytest.skip("nginx is not installed")
    backend, port = free_port(), free_port()
    data = os.urandom(32 << 20)
    (tmp_path / "file").write_bytes(data)
    tmp_path.chmod(0o755)
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp_path / "nginx.conf").write_text(f"""
        {user} daemon off; worker_processes 1; pid {tmp_path}/pid; error_log {tmp_path}/error;
        events {{ }}
        http {{
          access_log off;
          client_body_temp_path {tmp_path}/b; proxy_temp_path {tmp_path}/p;
          fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;
          server {{ listen 127.0.0.1:{backend}; root {tmp_path}; }}
        }}""")
    server = subprocess.Popen([nginx, "-c", f"{tmp_path}/nginx.conf", "-e", f"{tmp_path}/error"])
    try:
        wait_for(lambda: listening(backend), "nginx")
        start_proxy(routes(route("web", port, v1=(1, f"127.0.0.1:{backend}"))))
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port), timeout=patient(30)) as sock:
                sock.sendall(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: sock.recv(1 << 20), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert hashlib.sha256(body).digest() == hashlib.sha256(data).digest()
    finally:
        server.terminate()
        server.wait(DEADLINE)


def test_bulk_echo_comes_back_with_the_same_hash(start_proxy: StartProxy) -> None:
    """256 MiB of random bytes both ways at once, half-closed at the end."""
    echo, port = EchoServer(), free_port()
    start_proxy(routes(route("r", port, v1=(1, echo.address))))
    sent, got = hashlib.sha256(), hashlib.sha256()
    with socket.create_connection(("127.0.0.1", port), timeout=patient(30)) as sock:

        def send() -> None:
            for _ in range(256):
                block = os.urandom(1 << 20)
                sent.update(block)
                sock.sendall(block)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        total = 0
        while data := sock.recv(1 << 20):
            got.update(data)
            total += len(data)
        sender.join()
    assert total == 256 << 20
    assert got.digest() == sent.digest()
    echo.close()


def test_a_slow_reader_costs_no_memory(start_proxy: StartProxy) -> None:
    """A sender that is faster than the reader is slowed down; nothing piles up in the worker."""
    echo, port = EchoServer(), free_port()
    proxy = start_proxy(routes(route("r", port, v1=(1, echo.address)), workers=1))
    (pid,) = proxy.worker_pids()

    def memory() -> int:
        found = psutil.Process(pid).memory_full_info()
        return int(found.uss)

    with socket.create_connection(("127.0.0.1", port), timeout=patient(30)) as sock:
        sock.sendall(b"x")
        assert sock.recv(1) == b"x"
        before = memory()
        sock.setblocking(False)
        pushed, data = 0, bytes(1 << 20)
        # Until nothing moves any more: every buffer between here and there is full.
        stuck_since = 0
        while stuck_since < 50:
            try:
                pushed += sock.send(data)
                stuck_since = 0
            except BlockingIOError:
                stuck_since += 1
                threading.Event().wait(0.01)
        assert pushed < 100 << 20, "back-pressure reached the sender"
        assert memory() - before < 1 << 20, "what waits is in the kernel, not in the worker"
        sock.setblocking(True)
        sock.shutdown(socket.SHUT_WR)
        back = 0
        while got := sock.recv(1 << 20):
            back += len(got)
        assert back == pushed
    echo.close()
