"""What an ended session leaves on record is true, also when nobody was there to hear of its end."""

from __future__ import annotations

import json
import signal

from hapi import procs
from hapi.journal import Journal
from tests.support.runner import Runner, gone, identity


def fates(runner: Runner, session_id: str) -> dict[str, str]:
    """What became of each message, by its words."""
    copy = runner.home / "journal-copy"
    copy.write_bytes((runner.root / "sessions" / session_id / "journal").read_bytes())
    journal = Journal(copy)
    journal.close()
    texts = {message.id: message.text for message in journal.state.queue.values()}
    return {texts.get(message_id, "?"): fate for message_id, fate in journal.state.fates.items()}


def test_an_end_that_no_broker_heard_of_keeps_its_reason(runner):
    """The broker was away when the session ended; its next one knew it as live, and called it lost.

    Seen to fail: without `_hear_last_word` in the broker's loop.
    """
    pid = runner.start()["pid"]
    session = runner.spawn()
    record = runner.root / "sessions" / session["sessionId"] / "state.json"
    broker, supervisor = identity(pid), identity(session["pid"])
    procs.send_signal(broker, signal.SIGSTOP)
    try:
        ended = {"phase": "ended", "reason": "stopped from hub", "ended_at": 1}
        record.write_text(json.dumps(json.loads(record.read_text()) | ended))
        procs.send_signal(supervisor, signal.SIGKILL)
        gone(supervisor)
    finally:
        procs.send_signal(broker, signal.SIGCONT)
    assert runner.wait_phase(session["sessionId"], "ended")["reason"] == "stopped from hub"
    assert json.loads(record.read_text())["reason"] == "stopped from hub"


def test_a_dead_agent_is_given_no_more_messages(runner):
    """What waited when the agent died was put on record as given to it.

    Seen to fail: without `self._agent.exit is None` in `Session._serve_queue`.
    """
    runner.start()
    session_id = runner.spawn()["sessionId"]
    runner.hapi("send", session_id, "/child ignore ; /slow 2 4 ; /crash exit 3", check=0)
    runner.wait_phase(session_id, "working")
    runner.hapi("send", session_id, "never heard", check=0)
    runner.wait_phase(session_id, "ended")
    assert fates(runner, session_id) == {"?": "taken", "never heard": "queued"}
