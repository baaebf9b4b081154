"""The detach key: how people write it, and finding it in what they type. Pure.

A key is told by its byte or, when the program has asked the terminal for it, by an escape sequence: kitty's and
xterm's `CSI code ; modifiers u` and `CSI 27 ; modifiers ; code ~`. All are understood, also mixed and cut anywhere.
"""

from __future__ import annotations

import re

import msgspec

from hapi.errors import ErrorCode, HapiError

HOLD_S = 0.05  # how long the beginning of what may be a key's sequence is kept back
_SHIFT, _CTRL, _LOCKS = 1, 4, 64 | 128
_RELEASE = b"3"
_LONGEST_SEQUENCE = 48
_WRITTEN = re.compile(r"(?:(?:ctrl|c|control)[-+]|\^)(?P<ctrl>.)|(?P<plain>.)", re.IGNORECASE)
_KEY = re.compile(
    rb"\x1b\[(?:(?P<code>\d{1,7})(?::[\d:]*)?(?:;(?P<mods>\d*)(?::(?P<event>\d))?(?:;[\d:]*)?)?u"
    rb"|27;(?P<mods2>\d{1,3});(?P<code2>\d{1,7})~)"
)
_UNFINISHED = re.compile(rb"\x1b\[[<?>=]?[\d:;]*\$?\Z")
_PASTE, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
# what a terminal says by itself between two keys: the mouse, the focus, its answers
_ASIDE = re.compile(rb"\x1b\[(?:<[\d;]+[Mm]|[IO]|[?>=]?[\d;]*[cn]|\d+;\d+R|\?[\d;]*\$y|\?\d+u)")
_MODIFIER_KEYS = range(57441, 57455)


class Key(msgspec.Struct, frozen=True):
    """One key: the bytes that it is without an enhanced keyboard, its code point with one, and Ctrl."""

    code: int
    ctrl: bool

    @property
    def byte(self) -> int:
        """What a plain terminal sends for it."""
        return (ord(chr(self.code).upper()) & 0x1F) if self.ctrl else self.code


class DetachKey(msgspec.Struct, frozen=True):
    """One key with Ctrl, or such a one and a second key. `text` is how people read it; "" for none at all."""

    text: str
    keys: tuple[Key, ...]


def detach_key(written: str) -> DetachKey:
    r"""`Ctrl-\ d`, `C-a d`, `^]`, …, or `none`. Raises HapiError(bad_configuration) for anything else."""
    words = written.split()
    if [word.lower() for word in words] == ["none"]:
        return DetachKey("", ())
    keys = [_key(word, written) for word in words]
    if not 1 <= len(keys) <= 2 or not keys[0].ctrl:
        raise _bad(written)
    return DetachKey(" ".join(map(_name, keys)), tuple(keys))


class Detacher:
    """Finds the detach key in what is typed, and lets all else through, byte by byte.

    Its first key typed twice goes through once; followed by any other key both go through. Pasted text is never
    looked at where the terminal marks it.
    """

    def __init__(self, key: DetachKey) -> None:
        self._keys = key.keys
        self._first = bytes([key.keys[0].byte]) if key.keys else b""
        self._held = b""  # the beginning of a sequence
        self._kept = b""  # the detach key's first key, and what came after it without being a key
        self._pasting = False
        self.detached = False

    @property
    def holds(self) -> bool:
        """Whether something is kept back that is to be let go by `flush` unless more is typed within HOLD_S."""
        return bool(self._held) and not self._pasting

    def flush(self) -> bytes:
        """The beginning of a sequence that did not go on."""
        held, self._held = self._held, b""
        kept, self._kept = (self._kept, b"") if held else (b"", self._kept)
        return kept + held

    def feed(self, data: bytes) -> bytes:
        """What of `data` (and of what was kept) is for the program; `detached` is true when the key was typed, and nothing goes through after that."""
        if self.detached:
            return b""
        if not self._keys or not (self._busy() or b"\x1b[" in data or self._first in data):
            return data
        data, self._held = self._held + data, b""
        out = bytearray()
        at = 0
        while at < len(data) and not self.detached:
            step = self._paste if self._pasting else self._second if self._kept else self._search
            at = step(data, at, out)
        return bytes(out)

    def _busy(self) -> bool:
        return bool(self._held or self._kept or self._pasting)

    def _paste(self, data: bytes, at: int, out: bytearray) -> int:
        """Inside of a paste: let through up to its end."""
        end = data.find(_PASTE_END, at)
        self._pasting = end < 0
        if end >= 0:
            stop = end + len(_PASTE_END)
        else:
            stop = len(data) - _overlap(data[at:], _PASTE_END)
            self._held = data[stop:]
        out += data[at:stop]
        return stop if end >= 0 else len(data)

    def _search(self, data: bytes, at: int, out: bytearray) -> int:
        """Let through up to the detach key's first key, or the next sequence, and look at that."""
        found = [place for mark in (self._first, b"\x1b[") if (place := data.find(mark, at)) >= 0]
        if not found:
            out += data[at:]
            return len(data)
        start = min(found)
        out += data[at:start]
        if data.startswith(self._first, start):
            return self._began(data[start : start + 1], start + 1)
        return self._sequence(data, start, out)

    def _sequence(self, data: bytes, at: int, out: bytearray) -> int:
        """At an escape sequence outside of a paste, no first key typed."""
        if data.startswith(_PASTE, at):
            self._pasting = True
            out += _PASTE
            return at + len(_PASTE)
        match = _KEY.match(data, at)
        if match is None and _is_unfinished(data, at):
            self._held = data[at:]
            return len(data)
        end = match.end() if match else at + 2
        if match and _is(match, self._keys[0]):
            return self._began(data[at:end], end)
        out += data[at:end]
        return end

    def _began(self, typed: bytes, end: int) -> int:
        if len(self._keys) == 1:
            self.detached = True
        else:
            self._kept = typed
        return end

    def _second(self, data: bytes, at: int, out: bytearray) -> int:
        """After the first key: the second one, the first again, or neither."""
        if data[at] != 0x1B:
            return self._decide(data[at : at + 1], self._is_second(data[at]), data[at : at + 1] == self._first, out, at)
        match = _KEY.match(data, at)
        aside = _ASIDE.match(data, at)
        if match and (match["event"] == _RELEASE or _code(match) in _MODIFIER_KEYS):
            self._kept += match[0]
            return match.end()
        if match:
            return self._decide(match[0], _is(match, self._keys[1]), _is(match, self._keys[0]), out, at)
        if aside:
            out += aside[0]
            return aside.end()
        if _is_unfinished(data, at):
            self._held = data[at:]
            return len(data)
        return self._decide(b"", False, False, out, at)

    def _decide(self, typed: bytes, second: bool, again: bool, out: bytearray, at: int) -> int:  # noqa: FBT001
        """The first key's fate is decided by `typed`, which is consumed unless it is some other key."""
        kept, self._kept = self._kept, b""
        if second:
            self.detached = True
        elif again:
            out += typed
        else:
            out += kept
            return at
        return at + len(typed)

    def _is_second(self, byte: int) -> bool:
        """The second key, or the second key with Ctrl still held down."""
        key = self._keys[1]
        return byte in {key.byte, Key(key.code, ctrl=True).byte} if chr(key.code).isalpha() else byte == key.byte


def _key(word: str, written: str) -> Key:
    match = _WRITTEN.fullmatch(word)
    if match is None:
        raise _bad(written)
    text = (match["ctrl"] or match["plain"]).lower()
    if not 0x21 <= ord(text) <= 0x7E or (match["ctrl"] and not 0x40 <= ord(text.upper()) <= 0x5F) or word == "^[":
        raise _bad(written)
    return Key(ord(text), ctrl=match["ctrl"] is not None)


def _name(key: Key) -> str:
    text = chr(key.code)
    return f"Ctrl-{text.upper() if text.isalpha() else text}" if key.ctrl else text


def _code(match: re.Match[bytes]) -> int:
    return int(match["code"] or match["code2"])


def _is(match: re.Match[bytes], key: Key) -> bool:
    """Whether the sequence is that key going down; Shift and the locks make no difference."""
    modifiers = (int(match["mods"] or match["mods2"] or 1) - 1) & ~(_LOCKS | _SHIFT)
    wanted = {_CTRL} if key.ctrl else {0, _CTRL}
    return _code(match) == key.code and modifiers in wanted and match["event"] != _RELEASE


def _is_unfinished(data: bytes, at: int) -> bool:
    return len(data) - at <= _LONGEST_SEQUENCE and _UNFINISHED.match(data, at) is not None


def _overlap(data: bytes, mark: bytes) -> int:
    """How many of the last bytes of `data` may be the beginning of `mark`."""
    return next((size for size in range(min(len(mark) - 1, len(data)), 0, -1) if data.endswith(mark[:size])), 0)


def _bad(written: str) -> HapiError:
    hint = "Write one key with Ctrl, and a second key if you like: Ctrl-\\ d, Ctrl-], C-a d. Or: none"
    return HapiError(ErrorCode.BAD_CONFIGURATION, f"The detach key {written!r} makes no sense.", hint)
