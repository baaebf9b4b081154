"""What an agent offers before there is a session: `python -m hapi.workers.supervisor.probe AGENT NAMESPACE [DIRECTORY]`.

Starts the real agent as a session would, opens a conversation, prints one line of JSON (`Found`), and ends all that it
started. It also ends when its stdin does, so that it does not outlive whoever asked; the agent does not outlive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from hapi import config, remains, wire
from hapi.agents import table
from hapi.errors import HapiError
from hapi.ids import SESSION_MARK
from hapi.workers.supervisor import questions
from hapi.workers.supervisor.acp_driver import AcpDriver
from hapi.workers.supervisor.agent_process import Launch, become_subreaper
from hapi.workers.supervisor.environment import agent_environment
from hapi.workers.supervisor.piped_agent import PipedAgent

OPEN_S = 16.0


class Found(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the agent offers, or why that cannot be told."""

    models: list[wire.Choice] = []
    model: str | None = None
    efforts: list[wire.Choice] = []
    effort: str | None = None
    modes: list[wire.Choice] = []
    error: str = ""


async def look(name: str, settings: config.Config, directory: Path, log: Path) -> Found:
    """Open a conversation and read what it offers; at most OPEN_S and the ladder of a stop.

    Raises HapiError: what `table.find` and `table.resolve` say, agent_failed, agent_timeout.
    """
    agent = table.find(name, settings)
    environ = dict(os.environ)
    argv = table.resolve(agent, None, table.launch_arguments(agent), environ=environ)
    mark = environ.pop(SESSION_MARK, "")
    environment = agent_environment(environ, mark, table.environment(agent, None, environ), None)
    launch = Launch(argv, str(directory), environment, parent_dies=signal.SIGKILL)
    process = await PipedAgent.start(launch, log, lambda _: False)
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, process.reap)
    process.reap()
    try:
        driver = AcpDriver(process, lambda _: None, _cancelled)
        await driver.open(str(directory), None, OPEN_S)
        now = driver.offers
        return Found(
            models=now.models(agent.model_option) if agent.takes_model else [],
            model=now.model,
            efforts=now.efforts(agent.effort_option),
            effort=now.effort(agent.effort_option),
            modes=now.all_modes(),
        )
    finally:
        await process.stop(at_once=agent.ignores_eof)


async def _cancelled(params: dict[str, Any]) -> dict[str, Any]:
    return questions.cancelled(params)


async def _serve(name: str, settings: config.Config, directory: str) -> Found:
    """The answer; cancelled, and with it all that was started undone, when nobody waits for it any more."""
    mark = os.environ.get(SESSION_MARK, "probe")  # whoever has to kill us knows by it what to remove
    with tempfile.TemporaryDirectory(prefix=f"hapi-{mark}-") as scratch:
        work = asyncio.ensure_future(look(name, settings, Path(directory or scratch), Path(scratch, "agent.log")))
        left = asyncio.ensure_future(_asker_gone())
        await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        if left.done():
            work.cancel()
        left.cancel()
        await asyncio.gather(work, left, return_exceptions=True)
        try:
            return work.result()
        except HapiError as error:
            return Found(error=error.words)
        except asyncio.CancelledError:
            return Found(error="Nobody waits for the answer.")


async def _asker_gone() -> None:
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(0, "rb"))
    await reader.read()


def main() -> None:
    """Entry point; prints one line of JSON, whatever happens."""
    name, namespace, directory = [*sys.argv[1:], ""][:3]
    mark = os.environ.get(SESSION_MARK, "")
    become_subreaper()
    if mark:
        remains.put_stamp(mark)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        found = asyncio.run(_serve(name, config.load(namespace), directory))
    except HapiError as error:
        found = Found(error=error.words)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
