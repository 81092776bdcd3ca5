"""The package that `make deb` makes, in a Debian 12 without systemd as pid 1: what apt and dpkg do
with it, and what is then where. `make deb-test` runs this."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

from tests.debian.conftest import bring, install
from tests.debian.machine import Machine
from tests.integration.routes import route, routes
from tests.support import EchoServer, ask, free_port, listening, patient, wait_for

UNIT = "lib/systemd/system/tcpmux.service"
SOCKET = "/run/tcpmux/tcpmux.sock"
# What dpkg, apt and man keep of what they have done, and the user, who stays.
KEPT = re.compile(
    r"/(etc/(passwd|group|shadow|gshadow|sub[ug]id|\.pwd\.lock)|var/lib/(dpkg|apt)|var/cache|var/log|root/)"
)


@contextmanager
def service(debian: Machine) -> Iterator[None]:
    """Its command, user and directory are the unit's, as far as they can be without systemd."""
    unit = dict(
        line.split("=", 1)
        for line in debian.path(UNIT).read_text().splitlines()
        if re.match(r"(ExecStart|Environment|User|RuntimeDirectory\w*)=", line)
    )
    mode, name = unit["RuntimeDirectoryMode"], unit["RuntimeDirectory"]
    debian.run("install", "-d", f"-m{mode}", "-o", unit["User"], "-g", unit["User"], f"/run/{name}")
    command = ["env", unit["Environment"], *shlex.split(unit["ExecStart"])]
    running = subprocess.Popen(debian.command(*command, user=unit["User"]))
    try:
        yield
    finally:
        debian.run("pkill", "-KILL", "-u", unit["User"], check=False)
        running.wait(patient(20))


def serve(debian: Machine, server: EchoServer) -> int:
    """Writes its configuration; the port that it will listen on."""
    port = free_port()
    file = debian.path("etc/tcpmux/routes.yaml")
    file.write_text(yaml.safe_dump(routes(route("r", port, v1=(1, server.address)))))
    return port


def test_systemd_understands_its_units(installed: Machine) -> None:
    said = installed.run(
        "systemd-analyze", "verify", f"/{UNIT}", "/usr/share/tcpmux/systemd/tcpmux.socket"
    )
    assert "tcpmux" not in said.stdout


def test_its_user_has_no_home_and_no_shell(installed: Machine) -> None:
    *_, home, shell = installed.said("getent", "passwd", "tcpmux").split(":")
    assert (home, shell) == ("/nonexistent", "/usr/sbin/nologin")


def test_all_of_it_is_roots_and_the_service_reads_it(installed: Machine) -> None:
    """No file of the package is anybody else's to change; its user reads the configuration."""
    names = installed.said("dpkg-query", "--listfiles", "tcpmux").splitlines()
    found = installed.said("stat", "--format=%U:%G %a %F", *names).splitlines()
    assert len(found) > 100
    for line in found:
        owner, mode, kind = line.split(maxsplit=2)
        assert owner == "root:root"
        assert kind == "symbolic link" or int(mode, 8) & 0o7022 == 0
    installed.run("cat", "/etc/tcpmux/routes.yaml", user="tcpmux")


def test_what_it_brings_is_found(installed: Machine) -> None:
    """The command, its manual page, completion and monitoring, by what looks for them."""
    assert installed.said("tcpmux", "--version") == "tcpmux 0.1.0"
    assert installed.said("tcpmux", "check", "-c", "/etc/tcpmux/routes.yaml")
    assert "tcpmux" in installed.said("man", "--pager=cat", "tcpmux")
    completed = installed.said(
        "bash", "-c",
        ". /usr/share/bash-completion/bash_completion; _completion_loader tcpmux; "
        "complete -p tcpmux",
    )  # fmt: skip
    assert "tcpmux" in completed
    assert installed.path("usr/share/tcpmux/monitoring/prometheus-alerts.yaml").exists()


def test_logrotate_accepts_its_file(installed: Machine) -> None:
    said = installed.run("logrotate", "--debug", "/etc/logrotate.d/tcpmux").stdout
    assert "/var/log/tcpmux/*.log" in said
    assert "error" not in said


def test_installing_starts_nothing_and_says_what_to_do(asleep: Machine) -> None:
    assert "systemctl enable --now tcpmux" in install(asleep)
    assert asleep.run("pgrep", "-u", "tcpmux", check=False).returncode == 1
    wanted = asleep.path("etc/systemd/system/multi-user.target.wants/tcpmux.service")
    assert not wanted.is_symlink()


def test_an_upgrade_and_a_downgrade_keep_connections(asleep: Machine, one: EchoServer) -> None:
    """The processes are of the new build, and a changed configuration stays."""
    install(asleep)
    port = serve(asleep, one)
    changed = asleep.path("etc/tcpmux/routes.yaml").read_text()
    with service(asleep):
        wait_for(lambda: listening(port), "the port")
        with socket.create_connection(("127.0.0.1", port), patient(20)) as client:
            for package, version in (("next", "0.1.0+next"), ("now", "0.1.0")):
                said = asleep.said(
                    "apt-get", "install", "-qq", "--allow-downgrades", f"/root/{package}.deb"
                )
                assert "previous build" not in said
                assert asleep.said("tcpmux", "--version") == f"tcpmux {version}"
                running = asleep.said("tcpmux", "status", "--json", "--admin", SOCKET)
                assert yaml.safe_load(running)["version"] == version
                client.sendall(b"still\n")
                assert client.recv(100) == b"one still\n"
                assert ask(("127.0.0.1", port)) == "one hello\n"
    assert asleep.path("etc/tcpmux/routes.yaml").read_text() == changed


def listing(debian: Machine) -> set[str]:
    found = debian.said("find", "/", "-xdev", "-path", "/proc", "-prune", "-o", "-print")
    return {name for name in found.splitlines() if not KEPT.match(name)}


def test_removal_keeps_the_configuration_and_a_purge_leaves_nothing(
    asleep: Machine, one: EchoServer
) -> None:
    """Removal stops the instance; after a purge the same files are there as before; and it can be
    installed again."""
    bring(asleep)
    before = listing(asleep)
    install(asleep)
    port = serve(asleep, one)
    with service(asleep):
        wait_for(lambda: listening(port), "the port")
        asleep.run("tcpmux", "status")  # by root, which may write beside what it reads
        said = asleep.said("apt-get", "remove", "-qq", "tcpmux")
        assert "stopping the running instance" in said
        assert not listening(port)
        assert asleep.run("pgrep", "-u", "tcpmux", check=False).returncode == 1
    left = listing(asleep) - before
    assert left == {"/etc/tcpmux", "/etc/tcpmux/routes.yaml", "/etc/logrotate.d/tcpmux"}
    asleep.path("var/log/tcpmux").mkdir()
    asleep.path("var/log/tcpmux/access.log").write_text("{}\n")
    asleep.run("dpkg", "--purge", "tcpmux")
    assert listing(asleep) == before
    for gone in ("var/log/tcpmux", "run/tcpmux"):
        assert not asleep.path(gone).exists()

    install(asleep)
    port = serve(asleep, one)
    with service(asleep):
        wait_for(lambda: listening(port), "the port")
        assert ask(("127.0.0.1", port)) == "one hello\n"
