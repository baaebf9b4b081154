"""Cuts a program's output into text, control characters and escape sequences, and has the emulator do them."""

from __future__ import annotations

import codecs
import re

from hapi.terminal import screen_controls as controls
from hapi.terminal.screen_emulator import LINES, Emulator
from hapi.terminal.screen_questions import answer
from hapi.terminal.screen_sgr import lasting

ESC = "\x1b"
_CSI = re.compile(r"\[([<=>?]?)([\d;:]*)([ -/]*)([@-~])").match
_CSI_BEGUN = re.compile(r"\[[0-?]*[ -/]*$").match
_csi_with_controls = re.compile(r"\[[\x00-\x17\x19\x1c-?]*[@-~]?").match
_STRING = re.compile(r"[]PX^_][^\x18\x1a\x07]*").match
_DROPPED = re.compile(r"[\x18\x1a]").search
_BELL_ENDS = "]"
_INTERMEDIATE = re.compile(r"([ -/]*)([0-~])").match
_PIECES = re.compile(r"[^\x00-\x1f\x7f-\x9f]+|\r\n|[\x00-\x1f]").findall
_WORTH_APPENDING = 200  # characters: fewer are faster written one by one
_MAX_SEQUENCE = 4096  # characters that are kept of an unfinished one
_COLOURS = re.compile(r"\x1b\[([\d;:]*)m")
_NOT_COLOURS = re.compile(r"\x1b(?:\[[<-?]?[\d;:]*[ !]?[rshltpqu]|\[[>?][\d;:]*m|[^\[])").search
_STATE = re.compile(r"\x1b(?:\[[<-?]?[\d;:]*[ !]?[mrshltpqu]|[^\[])")


class Parser:
    """A stream of bytes, cut anywhere; unfinished sequences and characters wait for their rest."""

    def __init__(self, screen: Emulator) -> None:
        self.screen = screen
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._overlong = False
        self._gap = False

    def feed(self, data: bytes) -> None:
        """Do all of it."""
        if self._gap:
            self._close_gap()
        segments = (self._rest + self._decoder.decode(data)).split(ESC)
        self._rest = ""
        if segments[0]:
            self._text(segments[0])
        if len(segments) == 1:
            return
        last = segments.pop()
        match, table, text = _CSI, controls.CONTROLS, self._text
        screen = self.screen
        for segment in segments[1:]:
            found = match(segment)
            if found is None:
                self._escape(segment)
                continue
            prefix, parameters, between, final = found.groups()
            control = table.get(prefix + between + final)
            if control is not None:
                control(screen, parameters)
            else:
                answer(screen, prefix + between + final, parameters)
            end = found.end()
            if end < len(segment):
                text(segment[end:])
        self._last(last)

    def skip(self, data: bytes) -> None:
        """Only what says how the terminal is: modes, pen, margins, title; not what is in it."""
        self._gap = True
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        if ESC not in text:
            return
        tail = text.rindex(ESC)
        if _NOT_COLOURS(text, 0, tail):
            for found in _STATE.finditer(text, 0, tail):
                self._skipped(text, found)
        else:
            start = max(text.rfind("\x1b[0m", 0, tail), text.rfind("\x1b[m", 0, tail), 0)
            for parameters in lasting(_COLOURS.findall(text, start, tail)):
                self.screen.style(parameters)
        self._last(text[tail + 1 :], skipping=True)

    def unfinished(self) -> bytes:
        """What has come of a sequence or character that is not complete. Viewers who begin here need it too."""
        rest = self._rest
        if self._overlong:
            rest = ("\x1b]9999;" if rest[1] == "]" else "\x1b^") + rest[2:]
        return rest.encode() + self._decoder.getstate()[0]

    def _close_gap(self) -> None:
        """Text is missing here: what comes goes on below what there is. Full-screen programs say where."""
        self._gap = False
        screen = self.screen
        used = [row for row in range(screen.rows) if screen.grid.length(row)]
        if used and not screen.alternate_mode:
            screen.move(0, used[-1])
            screen.index()

    def _skipped(self, text: str, found: re.Match[str]) -> None:
        sequence = _CSI(text, found.start() + 1)
        if sequence is not None:
            prefix, parameters, between, final = sequence.groups()
            control = controls.STATE.get(prefix + between + final)
            if control is not None:
                control(self.screen, parameters)
        elif text[found.start() + 1] in "]()*+78=>c":
            end = text.find(ESC, found.start() + 1)
            self._escape(text[found.start() + 1 : end], skipping=True)

    # Segments: what is between two ESC

    def _last(self, segment: str, *, skipping: bool = False) -> None:
        """The last one may be unfinished."""
        if not segment or _CSI_BEGUN(segment) or (len(segment) == 1 and segment in " #%()*+-./"):
            self._keep(segment)
            return
        string = _STRING(segment)
        if string is not None and string.end() == len(segment):
            self._keep(segment)
            return
        if string is None and _CSI(segment) is None:
            begun = _csi_with_controls(segment)
            if begun is not None and begun.end() == len(segment) and segment[-1] < "@":
                self._keep(segment)
                return
        self._segment(segment, skipping=skipping)

    def _keep(self, segment: str) -> None:
        if len(segment) > _MAX_SEQUENCE:
            self._overlong = True
            segment = segment[0]
        self._rest = ESC + segment

    def _segment(self, segment: str, *, skipping: bool) -> None:
        found = _CSI(segment)
        if found is None:
            self._escape(segment, skipping=skipping)
            return
        prefix, parameters, between, final = found.groups()
        control = (controls.STATE if skipping else controls.CONTROLS).get(prefix + between + final)
        if control is not None:
            control(self.screen, parameters)
        elif not skipping:
            answer(self.screen, prefix + between + final, parameters)
        if not skipping and found.end() < len(segment):
            self._text(segment[found.end() :])

    def _escape(self, segment: str, *, skipping: bool = False) -> None:
        """All but a plain CSI."""
        string = _STRING(segment)
        if string is not None:
            end = self._string(segment, string.end())
        elif segment.startswith("["):
            end = self._csi_with_controls(segment)
        else:
            end = self._short(segment)
        if not skipping and end < len(segment):
            self._text(segment[end:])

    def _string(self, segment: str, end: int) -> int:
        """OSC and the like. BEL ends only the former; CAN and SUB drop any."""
        stop = segment[end : end + 1]
        if stop == "\x07" and segment[0] != _BELL_ENDS:
            dropped = _DROPPED(segment, end)
            end = len(segment) if dropped is None else dropped.start()
            stop = segment[end : end + 1]
        overlong, self._overlong = self._overlong, False
        if stop in {"", "\x07"} and not overlong:
            if segment[0] == "]":
                controls.command(self.screen, segment[1:end])
                answer(self.screen, "]", segment[1:end])
            elif segment[0] == "P":
                answer(self.screen, "P", segment[1:end])
        return end + 1

    def _csi_with_controls(self, segment: str) -> int:
        """Control characters in a sequence are done before it; CAN and SUB end it, other rubbish does too."""
        found = _csi_with_controls(segment)
        end = found.end() if found else 1
        self._text("".join(character for character in segment[:end] if character < " "))
        clean = "".join(character for character in segment[:end] if character >= " ")
        if _CSI(clean):
            self._segment(clean, skipping=False)
        return end + 1 if segment[end : end + 1] in {"\x18", "\x1a"} else end

    def _short(self, segment: str) -> int:
        found = _INTERMEDIATE(segment)
        if found is None:
            return 0
        between, final = found.groups()
        screen = self.screen
        if between in {"(", ")", "*", "+"}:
            screen.charsets["()*+".index(between)] = final
        elif between == "#" and final == "8":
            screen.align()
        elif not between and final in _ESCAPES:
            _ESCAPES[final](screen)
        return found.end()

    # Text between sequences

    def _text(self, text: str) -> None:
        if text.isprintable():
            self.screen.write(text)
            return
        at, size = 0, len(text)
        while size - at > _WORTH_APPENDING:
            lines = LINES.match(text, at) if self.screen.appending() else None
            if lines is not None:
                if not self.screen.append(lines[0]):
                    self._pieces(lines[0])
                at = lines.end()
                continue
            end = text.find("\r\n", at)
            if end < 0:
                break
            self._pieces(text[at : end + 2])
            at = end + 2
        self._pieces(text[at:] if at else text)

    def _pieces(self, text: str) -> None:
        screen = self.screen
        for piece in _PIECES(text):
            if piece == "\r\n":
                screen.carriage_return()
                screen.line_feed()
            elif piece >= " ":
                screen.write(piece)
            elif piece in _CONTROLS:
                _CONTROLS[piece](screen)


def _bell(screen: Emulator) -> None:
    screen.bells += 1


def _shift_out(screen: Emulator) -> None:
    screen.shift = 1


def _shift_in(screen: Emulator) -> None:
    screen.shift = 0


def _keypad(screen: Emulator) -> None:
    screen.modes.keypad = True


def _no_keypad(screen: Emulator) -> None:
    screen.modes.keypad = False


def _next_line(screen: Emulator) -> None:
    screen.carriage_return()
    screen.line_feed()


_CONTROLS = {
    "\a": _bell,
    "\b": lambda screen: screen.back(1),
    "\t": lambda screen: screen.tab(1),
    "\n": Emulator.line_feed,
    "\v": Emulator.line_feed,
    "\f": Emulator.line_feed,
    "\r": Emulator.carriage_return,
    "\x0e": _shift_out,
    "\x0f": _shift_in,
}
_ESCAPES = {
    "7": controls.save,
    "8": controls.restore,
    "=": _keypad,
    ">": _no_keypad,
    "D": Emulator.line_feed,
    "E": _next_line,
    "H": controls.set_tab,
    "M": Emulator.reverse_index,
    "c": Emulator.reset,
}
