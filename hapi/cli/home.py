"""`hapi` without a command: start the runner when needed, say what runs, and what to type next."""

from __future__ import annotations

import sys

from hapi import wire
from hapi.cli import output, status
from hapi.cli.common import load
from hapi.cli.request import have_runner
from hapi.clock import now_ms
from hapi.control import Control
from hapi.errors import ErrorCode, HapiError


def show() -> None:
    """Print the short status. Raises HapiError(usage) without a terminal: a script must say what it wants."""
    if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stdout)):
        hint = "In a script write for example: hapi runner start. All commands: hapi --help"
        raise HapiError(ErrorCode.USAGE, "hapi without a command needs a terminal.", hint)
    config = load()
    with output.Progress("Starting the runner …") as progress:
        started = have_runner(config, progress)
        now = Control(config, progress).ask(wire.GetStatus(), wire.Status)
    live = sum(count for phase, count in now.sessions.items() if phase != "ended")
    output.facts(
        [
            ("runner", f"{'running' if started.already else 'started'} (pid {now.pid}, namespace {now.namespace})"),
            ("hub", status.hub_line(now.hub, now_ms())),
            ("sessions", str(live)),
        ]
    )
    output.say()
    output.say("Next:")
    output.facts(
        [
            ("  hapi runner spawn DIR", "start a session in a directory"),
            ("  hapi runner list", "see the sessions"),
            ("  hapi auth login", "connect this machine to your hub"),
            ("  hapi --help", "all commands"),
        ]
    )
