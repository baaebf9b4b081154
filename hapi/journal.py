"""A session's journal: what came from people, what must get to the hub, and how far each has got.

One append-only file of checksummed frames, written by the session's supervisor only:

    frame = length (4 bytes, little-endian) · CRC-32 of the payload (4 bytes) · payload (one msgspec struct, MessagePack)

A frame is in the file before what it records is acted upon, so a crash between any two steps leaves either the step
undone or its trace. What is damaged (the crash hit the write) is cut off with all behind it and kept aside; everything
before it counts. A sound frame that this version does not understand is another version's: it is passed over and kept.

A number is never given to two events, or the hub would take the second for a repeat and drop it: after damage the
numbers go on with a gap, and each generation of the session has a range of its own.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import time
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec

from hapi.files import is_at, read_file, replace, sync_directory, write_atomic
from hapi.wire import Consumed, Event, Indeterminate, NumberedEvent, TurnEnded, UserMessage

COMPACT_BYTES = 4 * 1024 * 1024
REMEMBERED_IDS = 2_000
NUMBERS_PER_GENERATION = 1_000_000_000
GAP_AFTER_DAMAGE = 1_000_000
_FRAME = struct.Struct("<II")
_MAX_FRAME = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


class Received(msgspec.Struct, tag="received"):
    """A message is safely ours."""

    message: UserMessage


class Taken(msgspec.Struct, tag="taken"):
    """A message goes to the agent."""

    id: str


class Removed(msgspec.Struct, tag="removed"):
    """A message was taken back before the agent had it."""

    id: str


class Emitted(msgspec.Struct, tag="emitted"):
    """An event that the hub must get."""

    event: NumberedEvent


class Delivered(msgspec.Struct, tag="delivered"):
    """The hub has all events up to `seq`."""

    seq: int


class Base(msgspec.Struct, tag="base"):
    """What a compacted journal begins with."""

    last_seq: int
    delivered: int
    fates: list[tuple[str, str]]


class Foreign(msgspec.Struct, frozen=True):
    """The payload of another version's entry, kept as it is; `seq` is the highest number in it, 0 if it has none."""

    payload: bytes
    seq: int


Entry = Received | Taken | Removed | Emitted | Delivered | Base
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class JournalState:
    """What the entries add up to. Pure; `apply` takes them in order.

    `in_flight` is the message that was taken for the agent and is not on record as with it: should the agent or its
    supervisor end now, nobody can tell whether the agent got it. `turn_open`: a turn began and has no end on record.
    """

    def __init__(self) -> None:
        self.in_flight: UserMessage | None = None
        self.turn_open = False
        self.queue: OrderedDict[str, UserMessage] = OrderedDict()
        self.fates: OrderedDict[str, str] = OrderedDict()
        self.unconfirmed: OrderedDict[int, NumberedEvent] = OrderedDict()
        self.foreign: list[Foreign] = []
        self.last_seq = 0
        self.delivered = 0

    def apply(self, entry: Entry | Foreign) -> None:
        match entry:
            case Foreign():
                self.foreign.append(entry)
                self.last_seq = max(self.last_seq, entry.seq)
            case Received(message):
                self.queue[message.id] = message
                self._settle(message.id, "queued")
            case Taken(message_id):
                self.in_flight = self.queue.pop(message_id, None)
                self.turn_open = True
                self._settle(message_id, "taken")
            case Removed(message_id):
                self.queue.pop(message_id, None)
                self._settle(message_id, "removed")
            case Emitted(event):
                self.unconfirmed[event.seq] = event
                self.last_seq = max(self.last_seq, event.seq)
                self._follow(event.event)
            case Delivered(seq):
                self.delivered = max(self.delivered, seq)
                while self.unconfirmed and next(iter(self.unconfirmed)) <= seq:
                    self.unconfirmed.popitem(last=False)
            case Base(last_seq, delivered, fates):
                self.last_seq, self.delivered = last_seq, delivered
                self.fates.update(fates)

    def entries(self) -> list[Entry | Foreign]:
        """The shortest journal that adds up to this state."""
        fates = [(key, fate) for key, fate in self.fates.items() if key not in self.queue]
        base: list[Entry | Foreign] = [Base(self.last_seq, self.delivered, fates), *self.foreign]
        events = map(Emitted, self.unconfirmed.values())
        return [*base, *events, *self._turn(), *map(Received, self.queue.values())]

    def _turn(self) -> list[Entry]:
        """The entries that open the turn again; behind the events, which may hold the end of an earlier one."""
        if self.in_flight is not None:
            return [Received(self.in_flight), Taken(self.in_flight.id)]
        return [Taken("")] if self.turn_open else []

    def _follow(self, event: Event) -> None:
        """What an event says about the turn."""
        if isinstance(event, TurnEnded):
            self.in_flight, self.turn_open = None, False
        elif isinstance(event, Consumed | Indeterminate) and self.in_flight is not None:
            ours = [self.in_flight.local_id] if self.in_flight.local_id else []
            if set(ours) <= set(event.local_ids) and (ours or not event.local_ids):
                if isinstance(event, Indeterminate):  # should it come again, a person has chosen to send it again
                    self.fates.pop(self.in_flight.id, None)
                self.in_flight = None

    def _settle(self, message_id: str, fate: str) -> None:
        if not message_id:
            return
        self.fates[message_id] = fate
        self.fates.move_to_end(message_id)
        while len(self.fates) > max(REMEMBERED_IDS, 2 * len(self.queue)):
            self.fates.popitem(last=False)


def read(path: Path) -> JournalState:
    """What the journal at `path` adds up to, without touching it; of a damaged one, what comes before the damage.

    Raises OSError; a missing file is an empty journal.
    """
    state = JournalState()
    try:
        data = read_file(path)
    except FileNotFoundError:
        return state
    for entry, _ in _frames(data):
        state.apply(entry)
    return state


class Journal:
    """The file and its state. `damaged` tells how many bytes were put aside when it was opened, `trouble` all that a
    person should know of it.

    All methods may raise OSError when the disk refuses; then neither file nor state has changed.
    """

    def __init__(self, path: Path, generation: int = 1) -> None:
        """Open or make the journal at `path` for that generation of its session."""
        self._path = path
        self.state = JournalState()
        self.damaged = 0
        self.trouble: str | None = None
        self._last_at = 0
        self._compact_at = COMPACT_BYTES
        good = self._load(generation)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = good
        try:
            self._begin(generation)
        except OSError:
            os.close(self._fd)
            raise

    def received(self, message: UserMessage) -> bool:
        """Take a message in, durably; False when its id is known already."""
        if message.id in self.state.fates:
            return False
        self._append(Received(message), durable=True)
        return True

    def requeue(self, message: UserMessage) -> None:
        """Take a message in again that a person chose to retry."""
        self._append(Received(message), durable=True)

    def taken(self, message_id: str) -> None:
        """The message goes to the agent now."""
        self._append(Taken(message_id))

    def removed(self, message_id: str) -> bool:
        """Take a queued message back; False when it is not in the queue."""
        if message_id not in self.state.queue:
            return False
        self._append(Removed(message_id), durable=True)
        return True

    def refuse(self, message_id: str) -> None:
        """A message that may yet arrive was taken back: it will count as known."""
        self._append(Removed(message_id), durable=True)

    def emit(self, event: Event, at_ms: int) -> NumberedEvent:
        """Give an event its number and keep it until the hub has it.

        Times rise by a millisecond at least: the hub takes of two plans of the same time the first for the newest.
        """
        self._last_at = max(at_ms, self._last_at + 1)
        numbered = NumberedEvent(self.state.last_seq + 1, self._last_at, event)
        self._append(Emitted(numbered))
        return numbered

    def delivered(self, seq: int) -> None:
        """The hub has everything up to `seq`; a long file is rewritten without it."""
        if seq <= self.state.delivered:
            return
        self._append(Delivered(min(seq, self.state.last_seq)))
        if self._size > self._compact_at:
            self._try_to_compact()

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._size

    def sync(self) -> None:
        """Make all that was written survive a power cut."""
        os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, entry: Entry, *, durable: bool = False) -> None:
        frame = _framed(entry)
        if len(frame) > _MAX_FRAME:
            raise OSError(errno.EFBIG, "too large for the journal")
        if os.fstat(self._fd).st_size != self._size or not is_at(self._fd, self._path):
            logger.warning("somebody removed or cut %s; it is written anew from memory", self._path)
            self._compact()
        try:
            written = os.pwrite(self._fd, frame, self._size)
            if written != len(frame):
                raise OSError(errno.ENOSPC, "the journal's disk is full")
            if durable:
                self.sync()
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(frame)
        self.state.apply(entry)

    def _try_to_compact(self) -> None:
        """Rewrite the file; when the disk refuses, the long one goes on, and it is tried again when it has grown."""
        try:
            self._compact()
        except OSError as error:
            self._compact_at = self._size + COMPACT_BYTES
            logger.warning("the journal cannot be rewritten, it stays long: %s", error)

    def _compact(self) -> None:
        data = b"".join(_framed(entry) for entry in self.state.entries())
        fresh = replace(self._path, data)
        os.close(self._fd)
        self._fd = fresh
        self._size = len(data)
        self._compact_at = max(COMPACT_BYTES, 2 * self._size)
        sync_directory(self._path.parent)

    def _load(self, generation: int) -> int:
        """Apply every good frame; returns where they end. What follows is kept in a file beside."""
        try:
            data = read_file(self._path)
        except FileNotFoundError:
            data = b""
        good = 0
        for entry, end in _frames(data):
            self.state.apply(entry)
            good = end
        if good < len(data):
            self.damaged = len(data) - good
            aside = self._path.with_name(f"{self._path.name}.bad-{time.time_ns()}")
            write_atomic(aside, data[good:])
            self.trouble = f"Part of this session's journal was damaged: {self.damaged} bytes are kept as {aside.name}."
        elif not data and generation > 1:
            self.trouble = "This session's journal was lost."
        if self.trouble:
            logger.warning("%s: %s", self._path, self.trouble)
        return good

    def _begin(self, generation: int) -> None:
        """Put a base over the damage, or at the start, or where a new range of numbers begins; then cut off the rest."""
        floor = (generation - 1) * NUMBERS_PER_GENERATION
        state = self.state
        gap = GAP_AFTER_DAMAGE if self.damaged else 0
        last_seq = max(state.last_seq + gap, floor)
        if self._size == 0 or last_seq > state.last_seq:
            frame = _framed(Base(last_seq, state.delivered, []))
            if os.pwrite(self._fd, frame, self._size) != len(frame):
                raise OSError(errno.ENOSPC, "the journal's disk is full")
            self._size += len(frame)
            state.last_seq = last_seq
            self.sync()
        os.ftruncate(self._fd, self._size)


def _framed(entry: Entry | Foreign) -> bytes:
    payload = entry.payload if isinstance(entry, Foreign) else _encoder.encode(entry)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _frames(data: bytes) -> list[tuple[Entry | Foreign, int]]:
    """Entries with the offsets at which their frames end, up to the first damaged one."""
    found: list[tuple[Entry | Foreign, int]] = []
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if length > _MAX_FRAME - _FRAME.size or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        entry = _entry(payload)
        if entry is None:
            break
        at += _FRAME.size + length
        found.append((entry, at))
    return found


def _entry(payload: bytes) -> Entry | Foreign | None:
    """What a sound frame holds; None for what no version writes (a hole of zeros has a good checksum)."""
    try:
        return _decoder.decode(payload)
    except _UNDECODABLE:
        pass
    try:
        entry = msgspec.msgpack.decode(payload, type=dict[str, Any])
    except _UNDECODABLE:
        return None
    return Foreign(payload, _highest(entry)) if isinstance(entry.get("type"), str) else None


def _highest(entry: dict[str, Any]) -> int:
    """The highest event number in another version's entry, for the fields that we know to hold one."""
    event = entry.get("event")
    numbers = [entry.get("last_seq"), entry.get("seq"), event.get("seq") if isinstance(event, dict) else None]
    return max([number for number in numbers if type(number) is int], default=0)
