"""What escape sequences do to an emulator, by their final letters: the table that the parser looks them up in."""

from __future__ import annotations

from collections.abc import Callable

from hapi.terminal.screen_cells import DEFAULT_PEN
from hapi.terminal.screen_emulator import Emulator, Saved
from hapi.terminal.screen_grid import Grid
from hapi.terminal.screen_modes import CURSOR_KEYS, MARGINS, ORIGIN, WRAP

Control = Callable[[Emulator, str], None]
_MAX_NUMBER = 65_535
_MAX_TITLE = 1024
_MAX_LINK = 2048
_TITLES = 10
_ALTERNATE = (47, 1047, 1049)


def numbers(parameters: str) -> list[int]:
    """The parameters of a sequence; what is missing or none is 0. Sub-parameters are left out."""
    found = []
    for part in parameters.split(";"):
        digits = part.partition(":")[0]
        found.append(min(int(digits[:9]), _MAX_NUMBER) if digits.isdecimal() else 0)
    return found


def first(parameters: str) -> int:
    """The first parameter, 0 if there is none."""
    return int(parameters) if parameters.isdecimal() and len(parameters) < 5 else numbers(parameters)[0]


def count(parameters: str) -> int:
    """The first parameter as a count: at least 1."""
    return first(parameters) or 1


def _position(screen: Emulator, parameters: str) -> None:
    row, _, column = parameters.partition(";")
    screen.address(count(column) - 1, count(row) - 1)


def _margins(screen: Emulator, parameters: str) -> None:
    top, bottom = (*numbers(parameters), 0)[:2]
    top, bottom = max(top, 1) - 1, min(bottom or screen.rows, screen.rows)
    if bottom - top >= 2:
        screen.top, screen.bottom = top, bottom
        screen.address(0, 0)


def _columns_or_save(screen: Emulator, parameters: str) -> None:
    """DECSLRM where left and right margins are switched on, else SCOSC."""
    if not screen.modes.columns:
        save(screen)
        return
    left, right = (*numbers(parameters), 0)[:2]
    left, right = max(left, 1) - 1, min(right or screen.cols, screen.cols)
    if right - left >= 2:
        screen.left, screen.right = left, right
        screen.address(0, 0)


def save(screen: Emulator) -> None:
    """DECSC."""
    modes, charsets = screen.modes, tuple(screen.charsets)
    screen.saved = Saved(screen.x, screen.y, screen.pen, modes.origin, charsets, screen.shift)


def restore(screen: Emulator) -> None:
    """DECRC; home if nothing was saved."""
    saved = screen.saved or Saved()
    screen.x, screen.y = min(saved.x, screen.cols), min(saved.y, screen.rows - 1)
    screen.set_pen(saved.pen)
    screen.modes.origin = saved.origin
    screen.charsets, screen.shift = list(saved.charsets), saved.shift


def _enter_alternate(screen: Emulator, mode: int) -> None:
    if screen.alternate_mode:
        return
    if mode == 1049:
        save(screen)
    screen.alternate_mode = mode
    screen.main_saved, screen.saved = screen.saved, None
    screen.grid = Grid(screen.cols, screen.rows)
    screen.modes.swap_screens()


def leave_alternate(screen: Emulator, mode: int) -> None:
    """Back to the main screen; with 1049 the cursor is where it was."""
    if screen.alternate_mode:
        screen.alternate_mode = 0
        screen.grid = screen.main
        screen.saved = screen.main_saved
        screen.modes.swap_screens()
        screen.modes.other_keyboards = []
    if mode == 1049:
        restore(screen)


def _private(*, on: bool) -> Control:
    def control(screen: Emulator, parameters: str) -> None:
        for mode in numbers(parameters):
            if mode in _ALTERNATE:
                (_enter_alternate if on else leave_alternate)(screen, mode)
            elif mode == 1048:
                (save if on else restore)(screen)
            elif mode == WRAP:
                screen.modes.wrap = on
            elif mode == ORIGIN:
                screen.modes.origin = on
                screen.address(0, 0)
            elif mode == MARGINS:
                screen.modes.columns = on
                screen.left, screen.right = 0, screen.cols
            else:
                screen.modes.private(mode, on=on)

    return control


def _ansi(*, on: bool) -> Control:
    def control(screen: Emulator, parameters: str) -> None:
        for mode in numbers(parameters):
            if mode == 4:
                screen.modes.insert = on
            elif mode == 20:
                screen.modes.newline = on

    return control


def _clear_tabs(screen: Emulator, parameters: str) -> None:
    if first(parameters) == 3:
        screen.tabs = frozenset()
    elif first(parameters) == 0:
        screen.tabs = _tabs(screen) - {screen.x}


def _tabs(screen: Emulator) -> frozenset[int]:
    return frozenset(range(8, screen.cols, 8)) if screen.tabs is None else screen.tabs


def set_tab(screen: Emulator) -> None:
    """HTS."""
    screen.tabs = _tabs(screen) | {min(screen.x, screen.cols - 1)}


def _soft_reset(screen: Emulator, _: str) -> None:
    modes = screen.modes
    modes.wrap, modes.origin, modes.insert, modes.keypad, modes.cursor = True, False, False, False, True
    modes.private(CURSOR_KEYS, on=False)
    screen.top, screen.bottom, screen.left, screen.right = 0, screen.rows, 0, screen.cols
    screen.saved = None
    screen.charsets, screen.shift = ["B", "B", "B", "B"], 0
    screen.set_pen(DEFAULT_PEN)


def _window(screen: Emulator, parameters: str) -> None:
    """XTWINOPS: only that titles are pushed and popped; programs do not resize people's windows here."""
    asked = numbers(parameters)
    if asked[0] == 22 and asked[1:2] != [1]:
        screen.titles = [*screen.titles, screen.title][-_TITLES:]
    elif asked[0] == 23 and asked[1:2] != [1] and screen.titles:
        screen.title = screen.titles.pop()


def _modifiers(screen: Emulator, parameters: str) -> None:
    resource, _, value = parameters.partition(";")
    if value.isdecimal() and resource in {"1", "2", "4"}:
        screen.modes.modifiers[resource] = value
    else:
        screen.modes.modifiers.pop(resource, None)


def _shape(screen: Emulator, parameters: str) -> None:
    screen.modes.shape = str(first(parameters) or "")


def _keyboard(screen: Emulator, parameters: str) -> None:
    flags, how = (*numbers(parameters), 0)[:2]
    screen.modes.set_keyboard(flags, how)


def _vertical(screen: Emulator, parameters: str) -> None:
    screen.address(None, count(parameters) - 1)


def _next_line(screen: Emulator, parameters: str) -> None:
    screen.down(count(parameters))
    screen.carriage_return()


def _previous_line(screen: Emulator, parameters: str) -> None:
    screen.up(count(parameters))
    screen.carriage_return()


# Those that say how the terminal is, not what is in it: they are done for output too whose text is skipped.
STATE: dict[str, Control] = {
    "m": Emulator.style,
    "r": _margins,
    "s": _columns_or_save,
    "h": _ansi(on=True),
    "l": _ansi(on=False),
    "?h": _private(on=True),
    "?l": _private(on=False),
    "t": _window,
    "!p": _soft_reset,
    " q": _shape,
    ">m": _modifiers,
    ">u": lambda screen, p: screen.modes.push_keyboard(first(p)),
    "<u": lambda screen, p: screen.modes.pop_keyboard(first(p)),
    "=u": _keyboard,
}
CONTROLS: dict[str, Control] = {
    **STATE,
    "@": lambda screen, p: screen.shift_cells(count(p)),
    "A": lambda screen, p: screen.up(count(p)),
    "B": lambda screen, p: screen.down(count(p)),
    "C": lambda screen, p: screen.forward(count(p)),
    "D": lambda screen, p: screen.back(count(p)),
    "E": _next_line,
    "F": _previous_line,
    "G": lambda screen, p: screen.address(count(p) - 1, None),
    "H": _position,
    "I": lambda screen, p: screen.tab(count(p)),
    "J": lambda screen, p: screen.erase_in_screen(first(p)),
    "?J": lambda screen, p: screen.erase_in_screen(first(p)),
    "K": lambda screen, p: screen.erase_in_line(first(p)),
    "?K": lambda screen, p: screen.erase_in_line(first(p)),
    "L": lambda screen, p: screen.shift_lines(-count(p)),
    "M": lambda screen, p: screen.shift_lines(count(p)),
    "P": lambda screen, p: screen.shift_cells(-count(p)),
    "S": lambda screen, p: screen.scroll(count(p)),
    "T": lambda screen, p: screen.scroll(-count(p)),
    "X": lambda screen, p: screen.erase_cells(count(p)),
    "Z": lambda screen, p: screen.tab(-count(p)),
    "`": lambda screen, p: screen.address(count(p) - 1, None),
    "a": lambda screen, p: screen.forward(count(p)),
    "b": lambda screen, p: screen.repeat(count(p)),
    "d": _vertical,
    "e": lambda screen, p: screen.down(count(p)),
    "f": _position,
    "g": _clear_tabs,
    "u": lambda screen, _: restore(screen),
}


def command(screen: Emulator, text: str) -> None:
    """OSC: titles and links; colours and clipboards are the viewers' terminals' own."""
    code, _, value = text.partition(";")
    if code in {"0", "2"}:
        screen.title = "".join(filter(str.isprintable, value[:_MAX_TITLE]))
    elif code == "8" and len(value) <= _MAX_LINK:
        screen.set_pen(screen.pen._replace(link=value if value.partition(";")[2] else ""))
