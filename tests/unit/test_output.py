"""What people see gets through whatever their terminal can show."""

import io
import sys

from hapi.cli import output


def test_what_a_terminal_has_no_sign_for_is_a_question_mark_and_no_failure(monkeypatch):
    """A load test of an hour must not end in a traceback because a histogram's bar cannot be drawn."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="iso-8859-1") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    output.say("≤ 20 ms  ██ 12 é")
    output.note("Stopping …")
    written = {}
    for name, stream in streams.items():
        stream.flush()
        written[name] = stream.buffer.getvalue().decode("iso-8859-1")
    assert written == {"stdout": "? 20 ms  ?? 12 é\n", "stderr": "Stopping ?\n"}
