"""Whose turn it is to be started, how long a spawn takes at most, and who says so."""

import pytest

from hapi import config, wire
from hapi.broker.effects import ReplyTo
from hapi.broker.line import Line
from hapi.broker.spawns import LINE_S, Spawns
from hapi.cli import request
from hapi.ids import new_session_id

WHO = ReplyTo("control", b"cli", "cli", 1)


def order():
    return wire.Spawn(session_id=new_session_id(), directory="/w", agent="demo", started_by="runner")


def test_a_command_waits_until_the_broker_has_given_up(monkeypatch, tmp_path):
    """One that gave up first left a session in line that nobody wanted any more, and that started later.

    Seen to fail: without the time in line in the command's patience.
    """
    configuration = config.load(None, {"HAPI_HOME": str(tmp_path)})
    spawns = Spawns(configuration.ready_timeout_ms / 1000, at_once=1)
    first, last = order(), order()
    for one in (first, last):
        spawns.begin(one, WHO, 0.0)
    assert list(spawns.admit(0.0)) == [first.session_id]
    spawns.settle(first.session_id, wire.Failure("internal", "x"))
    assert list(spawns.admit(LINE_S)) == [last.session_id]  # at the very last moment
    patience = []
    monkeypatch.setattr(request, "carry_out", lambda *arguments: patience.append(arguments[-1]))
    request.spawned(configuration, last, lambda _: None)
    assert patience[0] > spawns.pending[last.session_id].deadline


def test_the_web_does_not_wait_for_hundreds_of_commands():
    """The web gives up after half a minute, and the commands may need all of it.

    Seen to fail: with one queue for both.
    """
    line = Line()
    for number in range(300):
        line.join(f"command {number}", "control")
    for name in ("web 0", "web 1"):
        line.join(name, "bus")
    line.join("restart", "runner")
    first = [line.take() for _ in range(6)]
    assert first == ["restart", "web 0", "command 0", "web 1", "command 1", "command 2"]
    line.join("web 2", "bus")
    assert line.take() == "web 2"
    assert len(line) == 297


def test_who_left_the_line_is_not_taken():
    line = Line()
    for asker in ("bus", "control"):
        line.join(asker, asker)
    line.leave("bus")
    line.leave("never in it")
    assert ("bus" in line, "control" in line, line.take()) == (False, True, "control")
    with pytest.raises(IndexError):
        line.take()
