"""A line of ours on pyte's screen: it comes when the program is silent, and goes before its output."""

import pyte

from hapi.terminal.notice import NOTICE_S, QUIET_S, Notice

SIZE = (20, 4)


class Window:
    def __init__(self):
        self.screen = pyte.Screen(*SIZE)
        self.stream = pyte.ByteStream(self.screen)
        self.notice = Notice()

    def write(self, data):
        self.stream.feed(data)

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]


def test_it_is_shown_erased_and_shown_again():
    window = Window()
    window.write(b"one\r\ntwo\x1b[31m")
    assert window.notice.due is None
    window.notice.say("how to leave this and more", 10.0)
    window.write(window.notice.look(10.0, SIZE))
    assert window.lines == ["one", "two", "", " how to leave this"]
    assert window.screen.buffer[3][1].reverse
    assert (window.screen.cursor.x, window.screen.cursor.y) == (3, 1)
    assert window.screen.cursor.attrs.fg == "red"
    assert window.notice.look(11.0, SIZE) == b""  # it stands there
    assert window.notice.due == 10.0 + NOTICE_S
    window.write(window.notice.before_output(11.0) + b"\r\n3\r\n4\r\n5")
    assert window.lines == ["two", "3", "4", "5"]
    assert window.notice.due == 11.0 + QUIET_S
    assert window.notice.look(11.1, SIZE) == b""
    window.write(window.notice.look(11.0 + QUIET_S, SIZE))
    assert window.lines[3].startswith(" how")
    assert not window.notice.over(12.9)
    assert window.notice.over(13.0)
    window.write(window.notice.end())
    assert window.lines[3] == ""
    assert window.notice.due is None
    assert window.notice.before_output(14.0) == b""


def test_after_a_redraw_it_is_drawn_anew():
    window = Window()
    window.notice.say("x", 1.0)
    assert window.notice.look(1.0, SIZE)
    window.notice.redrawn()
    assert window.notice.look(1.1, SIZE)
    assert window.notice.end()
    assert window.notice.end() == b""
