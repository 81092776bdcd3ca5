"""`tcpmux demo`: a demonstration on one machine, in seconds."""

from __future__ import annotations

import click


@click.command("demo")
@click.option(
    "--serve", is_flag=True, help="Start it, print commands to try, and keep running until Ctrl-C."
)
def demo(serve: bool) -> int:
    """Watch traffic being shifted, in seconds.

    Starts two echo servers and an instance of tcpmux on 127.0.0.1, sends it 20 connections at
    100/0, changes the file to 80/20, sends 20 more, and counts the answers. A connection that was
    open all the time stays with its server. Everything is stopped and removed at the end.

    \b
    Examples:
        tcpmux demo
        tcpmux demo --serve
    """
    from tcpmux.demo.walk import run_demo

    return run_demo(serve=serve)
