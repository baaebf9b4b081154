"""How long a spawn takes at most, and who says so."""

from hapi import config, wire
from hapi.broker.effects import ReplyTo
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
