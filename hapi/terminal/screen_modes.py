"""The modes of a terminal: what programs switch on and off in it, and how to put all of it back.

Imports nothing: the command line needs RESTORE before it needs a screen. Modes are DEC's and xterm's private ones by
number (xterm's ctlseqs.txt), the keyboard flags are kitty's (its keyboard protocol).
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOUSE = (9, 1000, 1001, 1002, 1003)  # one at a time
MOUSE_ENCODINGS = (1005, 1006, 1015, 1016)  # one at a time
CURSOR_KEYS, REVERSE_SCREEN, ORIGIN, WRAP, BLINK, CURSOR, MARGINS, FOCUS, PASTE = 1, 5, 6, 7, 12, 25, 69, 1004, 2004
ALTERNATE_SCROLL = 1007
_SWITCHES = (
    CURSOR_KEYS,
    REVERSE_SCREEN,
    BLINK,
    45,
    66,
    FOCUS,
    ALTERNATE_SCROLL,
    PASTE,
    2031,
    2048,
)  # ours only to remember
_KEYBOARDS = 16  # pushed flags, per screen
_POP_ALL = "\x1b[<99u"

# Each switch that a program may have left on, off; the pen, the character sets and the margins as they are at first.
_NEUTRAL = (
    "\x1b[?2026l"
    + "".join(f"\x1b[?{mode}l" for mode in (*MOUSE, *MOUSE_ENCODINGS, FOCUS, PASTE, 2031, 2048, CURSOR_KEYS, 5, 45, 69))
    + "\x1b7\x1b[?6l\x1b[r\x1b8"  # both move the cursor
    + "\x1b[!p\x1b[?7h\x1b[4l\x1b[20l\x1b>\x1b(B\x1b)B\x1b*B\x1b+B\x0f\x1b[m\x1b]8;;\x1b\\"
    + f"{_POP_ALL}\x1b[>4m\x1b[?25h\x1b[0 q"
)
_COLOURS = "\x1b]104\x1b\\\x1b]110\x1b\\\x1b]111\x1b\\\x1b]112\x1b\\"

RESTORE = ("\x18\x1b\\" + _POP_ALL + "\x1b[?1049l" + _NEUTRAL + _COLOURS).encode()
"""Puts a person's own terminal back to normal whatever a program did to it, also in the middle of a sequence: its main
screen with the cursor where it was, everything else as after a reset. The text on it stays.
"""

PRELUDE = RESTORE.decode() + "\x1b[?2026h\x1b[H\x1b[2J"
"""What a replay begins with: an empty main screen in a neutral terminal, which shows nothing until the replay's end."""


@dataclass(slots=True)
class Modes:
    """What is switched on. `wrap`, `origin`, `insert` and `newline` act on the screen; the rest is remembered."""

    wrap: bool = True
    origin: bool = False
    insert: bool = False
    newline: bool = False
    keypad: bool = False
    cursor: bool = True
    columns: bool = False  # left and right margins may be set
    mouse: int = 0
    mouse_encoding: int = 0
    shape: str = ""
    switches: dict[int, bool] = field(default_factory=dict)
    keyboards: list[int] = field(default_factory=list)  # kitty's flags on the screen shown, the last one in force
    other_keyboards: list[int] = field(default_factory=list)  # on the screen not shown
    modifiers: dict[str, str] = field(default_factory=dict)  # xterm's modifyOtherKeys and its like

    def private(self, mode: int, *, on: bool) -> None:
        """DECSET and DECRST, for the modes that only are remembered."""
        if mode in MOUSE:
            self.mouse = mode if on else 0
        elif mode in MOUSE_ENCODINGS:
            self.mouse_encoding = mode if on else 0 if self.mouse_encoding == mode else self.mouse_encoding
        elif mode == CURSOR:
            self.cursor = on
        elif on or mode == ALTERNATE_SCROLL:  # which is on at first in many terminals
            if mode in _SWITCHES:
                self.switches[mode] = on
        else:
            self.switches.pop(mode, None)

    def state(self, mode: int) -> bool | None:
        """Whether a private mode is on; None for those that we do not know."""
        known = {ORIGIN: self.origin, WRAP: self.wrap, CURSOR: self.cursor, MARGINS: self.columns, 2026: False}
        if mode in known:
            return known[mode]
        if mode in MOUSE or mode in MOUSE_ENCODINGS:
            return mode in {self.mouse, self.mouse_encoding}
        return self.switches.get(mode, False) if mode in _SWITCHES else None

    @property
    def keyboard(self) -> int:
        """Kitty's flags in force."""
        return self.keyboards[-1] if self.keyboards else 0

    def push_keyboard(self, flags: int) -> None:
        """CSI > flags u."""
        self.keyboards = [*self.keyboards, flags][-_KEYBOARDS:]

    def pop_keyboard(self, count: int) -> None:
        """CSI < count u."""
        del self.keyboards[max(0, len(self.keyboards) - max(count, 1)) :]

    def set_keyboard(self, flags: int, how: int) -> None:
        """CSI = flags ; how u: replace, add or take away."""
        new = {2: self.keyboard | flags, 3: self.keyboard & ~flags}.get(how, flags)
        self.keyboards[-1:] = [new]

    def swap_screens(self) -> None:
        """The other screen is shown now: each has its own keyboard flags."""
        self.keyboards, self.other_keyboards = self.other_keyboards, self.keyboards

    @staticmethod
    def drawn_keyboards(stack: list[int]) -> str:
        """What sets these flags on the screen that is shown."""
        return _POP_ALL + "".join(f"\x1b[>{flags}u" for flags in stack)

    def drawn(self) -> str:
        """What sets all that only is remembered, in a neutral terminal."""
        numbers = [number for number in (self.mouse, self.mouse_encoding) if number]
        out = [f"\x1b[?{number}h" for number in numbers]
        out += [f"\x1b[?{number}{'h' if on else 'l'}" for number, on in self.switches.items()]
        out += [f"\x1b[>{resource};{value}m" for resource, value in self.modifiers.items()]
        out += ["\x1b[4h"] * self.insert + ["\x1b[20h"] * self.newline + ["\x1b="] * self.keypad
        out += [f"\x1b[{self.shape} q"] * bool(self.shape) + ["\x1b[?25l"] * (not self.cursor)
        return "".join(out)
