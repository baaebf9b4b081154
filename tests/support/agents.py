"""Agents for fault tests: small programs that do something first and are the demo agent then."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hapi import config, procs
from hapi.control import Control
from hapi.ids import ProcessId
from tests.support.runner import Runner
from tests.support.wait import until

_THEN_DEMO = '\nos.execv(sys.executable, [sys.executable, "-m", "hapi.agents.demo"])\n'

FAMILY = """
import os, signal, sys
def leave(*, detached=False, bare=False, stopped=False, childless=True):
    if os.fork():
        return
    if detached:
        os.setsid()
        if os.fork():
            os._exit(0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    if not childless and os.fork() == 0:
        os._exit(0)  # a zombie: nobody waits for it
    with open(PLACE, "a") as file:
        file.write(f"{os.getpid()}\\n")
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    if stopped:
        signal.raise_signal(signal.SIGSTOP)
    os.execve("/bin/sleep", ["sleep", "3600"], {} if bare else os.environ)
leave()
leave(detached=True)
leave(detached=True, bare=True)
leave(stopped=True)
leave(detached=True, stopped=True)
leave(detached=True, childless=False)
while len(open(PLACE).readlines()) < 6:
    pass
"""


def program(runner: Runner, name: str, text: str, *, then_demo: bool = True) -> Path:
    """Add an agent that runs a Python program, in which PLACE is a file of its own; returns that file."""
    place = runner.home / f"{name}.said"
    script = runner.home / f"{name}.py"
    script.write_text(f"PLACE = {str(place)!r}\n{text}" + (_THEN_DEMO if then_demo else ""))
    command = [sys.executable, str(script)]
    known = runner.read_settings().get("agents", {})
    runner.settings(agents=known | {name: {"command": command, "env": {"PYTHONPATH": os.getcwd()}}})
    return place


def family(runner: Runner, name: str = "family") -> Path:
    """Add an agent with six children deaf to SIGTERM: plain, detached, without environment, stopped, with a zombie."""
    place = runner.home / f"{name}.said"
    place.write_text("")
    return program(runner, name, FAMILY)


def members(place: Path, count: int = 6) -> list[ProcessId]:
    """The processes whose pids the program wrote down."""

    def found() -> list[ProcessId]:
        known = [who for line in place.read_text().split() if (who := procs.identity(int(line))) is not None]
        return known if len(known) == count else []

    return until(found, 10, f"{count} processes are there")


def control(runner: Runner) -> Control:
    """The control socket of the runner, without a command line in between."""
    return Control(config.load(environ=runner.environment))
