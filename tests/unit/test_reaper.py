"""The reaper: whose death is cleaned up after, and whose is only told. Real processes, a link that records."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from hapi import procs, wire
from hapi.files import FileLock
from hapi.ids import NOBODY, new_session_id
from hapi.paths import Paths
from hapi.store import SessionDirectory
from hapi.workers.reaper import Reaper
from tests.support.wait import until_async


class RecordingLink:
    """The broker, as far as the reaper can tell."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.inbox: asyncio.Queue[tuple[wire.Header, Any]] = asyncio.Queue()

    def send(self, _: str, body: Any) -> bool:
        self.told.append(body)
        return True

    async def receive(self) -> tuple[wire.Header, Any]:
        return await self.inbox.get()

    def say(self, body: Any) -> None:
        self.inbox.put_nowait((wire.Header("reaper", "broker"), body))

    def gone(self) -> list[wire.SupervisorGone]:
        return [body for body in self.told if isinstance(body, wire.SupervisorGone)]


@pytest.fixture
async def link(tmp_path):
    found = RecordingLink()
    work = asyncio.create_task(Reaper(found, Paths(tmp_path), 60).run())
    yield found
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


@pytest.fixture
def process():
    """Makes processes that wait; ends them."""
    made = []

    def make(**environment: str) -> subprocess.Popen[bytes]:
        code = "import sys; sys.stdin.read()"
        made.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment or None))
        return made[-1]

    yield make
    for one in made:
        one.kill()
        one.communicate()


def end(one: subprocess.Popen[bytes]) -> None:
    one.kill()
    one.wait()


def watched(session_id: str, supervisor: subprocess.Popen[bytes], agent: subprocess.Popen[bytes]) -> wire.Watched:
    return wire.Watched(
        session_id=session_id, supervisor=procs.identity(supervisor.pid), agent=procs.identity(agent.pid)
    )


async def test_a_death_is_cleaned_up_after(link, process):
    session, supervisor, agent = new_session_id(), process(), process()
    link.say(wire.Watch([watched(session, supervisor, agent)]))
    await until_async(link.inbox.empty, 5, "the order is read")
    end(supervisor)
    await until_async(link.gone, 10, "the death is told")
    assert (link.gone()[0].reaped, agent.wait(5)) == (1, -9)


@pytest.mark.parametrize("pidfds", [True, False], ids=["by its pidfd", "where there are none"])
async def test_the_sweep_finds_the_death_that_was_missed(tmp_path, process, monkeypatch, pidfds):
    """Seen to fail: without the sweep in `_beat`."""
    if not pidfds:
        monkeypatch.setattr(procs, "open_pidfd", lambda _: None)
    link, loop = RecordingLink(), asyncio.get_running_loop()
    monkeypatch.setattr(loop, "add_reader", lambda *_: None)  # nobody is told of a descriptor
    work = asyncio.create_task(Reaper(link, Paths(tmp_path), 0.05).run())
    session, supervisor, alive = new_session_id(), process(), process()
    other = new_session_id()
    link.say(wire.Watch([watched(session, supervisor, process()), watched(other, alive, process())]))
    await until_async(link.inbox.empty, 5, "the order is read")
    end(supervisor)
    await until_async(link.gone, 10, "the death is told")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert [gone.session_id for gone in link.gone()] == [session]


async def test_the_end_of_one_generation_says_nothing_of_the_next(link, process):
    """A session that was continued counted as ended still: its agent outlived its second supervisor."""
    session, first, second, agent = new_session_id(), process(), process(), process()
    link.say(wire.Watch([watched(session, first, agent)]))
    link.say(wire.Unwatch(session))
    link.say(wire.Watch([watched(session, second, agent)]))
    await until_async(link.inbox.empty, 5, "the orders are read")
    end(second)
    await until_async(link.gone, 10, "the death is told")
    assert agent.wait(5) == -9


async def test_one_that_has_ended_is_only_told(link, process):
    session, supervisor, agent = new_session_id(), process(), process()
    link.say(wire.Watch([watched(session, supervisor, agent)]))
    link.say(wire.Unwatch(session))
    await until_async(link.inbox.empty, 5, "the orders are read")
    end(supervisor)
    await until_async(link.gone, 10, "the death is told")
    assert agent.poll() is None


async def test_a_session_without_a_known_supervisor_is_looked_for_by_its_mark(link, process):
    session = new_session_id()
    agent = process(HAPI_SESSION_ID=session)
    await until_async(lambda: procs.marked("HAPI_SESSION_ID", session), 5, "the agent runs")
    link.say(wire.Watch([wire.Watched(session_id=session, supervisor=NOBODY)]))
    await until_async(link.gone, 10, "it is told")
    assert (link.gone()[0].process, agent.wait(5)) == (NOBODY, -9)


async def test_one_that_was_turned_away_ends(tmp_path):
    link = RecordingLink()
    work = asyncio.create_task(Reaper(link, Paths(tmp_path), 60).run())
    link.say(wire.Refused("there is another reaper now"))
    await asyncio.wait_for(work, 5)


async def test_a_session_that_another_supervisor_holds_is_left_alone(link, process, tmp_path):
    """It was continued before the reaper came to it: the new agent carries the same mark, and was killed."""
    session, supervisor = new_session_id(), process()
    agent = process(HAPI_SESSION_ID=session)
    await until_async(lambda: procs.marked("HAPI_SESSION_ID", session), 5, "the agent runs")
    directory = SessionDirectory(Paths(tmp_path).session(session))
    directory.create()
    lock = FileLock(directory.lock)
    assert lock.acquire()
    link.say(wire.Watch([watched(session, supervisor, agent)]))
    await until_async(link.inbox.empty, 5, "the order is read")
    end(supervisor)
    await until_async(link.gone, 10, "the death is told")
    assert (link.gone()[0].reaped, agent.poll()) == (0, None)
    lock.release()
