"""Files of other programs are known as such, by their names and by what is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tcpmux.cli.app import cli
from tcpmux.config.foreign import KINDS, kind_of_text

FILES = Path(__file__).with_name("files")
PROGRAMS = {"haproxy": "HAProxy", "nginx": "nginx", "envoy": "Envoy", "traefik": "Traefik"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_program_is_known(kind: str) -> None:
    for path in (FILES / kind).glob("*"):
        if path.is_file() and path.suffix != ".out" and path.stem != "not":
            assert kind_of_text(path.name, path.read_text()) == kind, path


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.yaml", "routes: []\nhttp: {}\n", ""),
        ("a.yaml", "apiVersion: v1\nkind: List\ntcp: []\n", ""),
        ("a.yaml", "workers: 2\n", ""),
        ("a.yaml", "- tcp\n", ""),
        ("a.yaml", "tcp: [\n", ""),
        ("a.yaml", "", ""),
        ("a.yaml", "tcp: {}\n", "traefik"),
        ("a.yaml", "entrypoints: {}\n", "traefik"),
        ("a.yml", "log: {}\n---\nhttp: {}\n", "traefik"),
        ("a.json", '{\n\t"staticResources": {}\n}', "envoy"),
        ("a", "static_resources: {}\n", "envoy"),
        ("a.cfg", "routes: []\n", ""),
        ("a.cfg", "", "haproxy"),
        ("a", "frontend x\n", "haproxy"),
        ("a", "stream {\n", "nginx"),
        ("a.toml", "", "traefik"),
        ("haproxy.conf", "global\n  daemon\nlisten x\n  bind :80\n", "haproxy"),
        ("a.conf", "server\n{\n  listen 80;\n}\n", "nginx"),
        ("a.conf", "listen 80;\n", "nginx"),
        ("nginx.cfg", "stream {\n}\n", "nginx"),
        ("a.cfg", "bind :80\n", "haproxy"),
    ],
)
def test_kinds(name: str, content: str, kind: str) -> None:
    assert kind_of_text(name, content) == kind


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("envoy.yaml", "static_resources: {}\nadmin: {}\n"),
        ("envoy.json", '{\n\t"static_resources": {}\n}\n'),
        ("traefik.yaml", "entryPoints: {}\nlog: {level: INFO}\n"),
        ("traefik.toml", "[entryPoints]\n"),
        ("haproxy.cfg", "frontend x\n    bind :80\n"),
        ("nginx.conf", "stream {\n    server { listen 80; }\n}\n"),
    ],
)
def test_check_and_run_say_whose_file_it_is(
    command: str, name: str, content: str, tmp_path: Path
) -> None:
    """And nothing else: every key of it would be a mistake."""
    path = tmp_path / name
    path.write_text(content)
    result = CliRunner().invoke(cli, [command, "-c", str(path)], prog_name="tcpmux")
    program = PROGRAMS[name.partition(".")[0]]
    assert result.exit_code == 2
    told = result.stderr.strip().splitlines()
    assert len(told) == 1, told
    assert told[0].endswith(f"{path}: this is a file of {program}: see tcpmux convert -c {path}")


def test_a_mistake_in_a_file_of_tcpmux_s_own_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("routes: []\ntcp: {}\n")
    result = CliRunner().invoke(cli, ["check", "-c", str(path)], prog_name="tcpmux")
    assert "convert" not in result.stderr
    assert "tcp" in result.stderr


@pytest.mark.parametrize("option", [("--mesh",), ("--endpoint", "shop=127.0.0.1:1")])
def test_options_for_resources_are_not_ignored(tmp_path: Path, option: tuple[str, ...]) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text("listen x\n bind 127.0.0.1:1\n server a 127.0.0.1:2\n")
    found = CliRunner().invoke(cli, ["convert", "-c", str(file), *option])
    assert found.exit_code == 2
    assert "--endpoint and --mesh work only with Istio and Gateway API files" in found.stderr
