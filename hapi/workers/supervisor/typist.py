"""Types messages into a terminal, as a person would who pastes one and then presses Enter."""

from __future__ import annotations

import asyncio

from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.workers.supervisor.terminal import Terminal

PAUSE_S = 0.1  # silence after which a program has taken what was pasted
PAUSE_LONGEST_S = 1.5
WARM_S = 0.4  # silence after which a program that has just begun is ready to be typed at
WARM_LONGEST_S = 5.0
PIECE_BYTES = 64 * 1024
ENTER = b"\r"
_PASTE, _PASTED = b"\x1b[200~", b"\x1b[201~"
_NO_KEYS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


def keystrokes(text: str, *, bracketed: bool) -> bytes:
    """A message as the bytes that a terminal sends when it is pasted, without the last line's end. Pure.

    Control characters are left out: none of it may press another key, or end the paste.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").translate(_NO_KEYS).rstrip("\n")
    data = lines.replace("\n", "\r").encode(errors="replace")
    return _PASTE + data + _PASTED if bracketed else data


class Typist:
    """Types into one terminal, one message at a time. `heard` must be called for each piece of its output."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._loop = asyncio.get_running_loop()
        self._began = self._heard = monotonic()
        self._room = asyncio.Event()
        self._stopped = asyncio.Event()

    def heard(self, at: float) -> None:
        """The program wrote something."""
        self._heard = at

    def go_on(self) -> None:
        """The terminal has room again."""
        self._room.set()

    def stop(self) -> None:
        """Type nothing more; a message under way is left where it is."""
        self._stopped.set()
        self._room.set()

    async def message(self, text: str) -> None:
        """Paste it, wait for silence, press Enter. Raises HapiError(session_ended) when the terminal ends meanwhile.

        A program that does not read holds it up for as long as it does not.
        """
        if monotonic() - self._began < WARM_LONGEST_S:
            await self._silence(WARM_S, self._began + WARM_LONGEST_S)
        data = keystrokes(text, bracketed=self._pastes())
        for start in range(0, len(data), PIECE_BYTES):
            await self._type(data[start : start + PIECE_BYTES])
        await self._silence(PAUSE_S, monotonic() + PAUSE_LONGEST_S)
        await self._type(ENTER)

    def _pastes(self) -> bool:
        self._terminal.settle()
        return self._terminal.recorder.screen.bracketed_paste

    async def _type(self, data: bytes) -> None:
        while self._terminal.crowded:
            self._room.clear()
            self._terminal.wait_for_room(self)
            await self._room.wait()
            self._check()
        self._check()
        self._terminal.type(data)

    def _check(self) -> None:
        if self._stopped.is_set() or self._terminal.end is not None:
            raise HapiError(ErrorCode.SESSION_ENDED, "The program in the terminal ended before it had the message.")

    async def _silence(self, quiet_s: float, latest: float) -> None:
        """Wait until the program has been silent for so long, counted from now; no longer than to the time `latest`."""
        since = monotonic()
        while not self._stopped.is_set():
            now = monotonic()
            due = min(max(self._heard, since) + quiet_s, latest)
            if now >= due:
                return
            try:
                await asyncio.wait_for(self._stopped.wait(), due - now)
            except TimeoutError:
                pass  # the time to look has come
