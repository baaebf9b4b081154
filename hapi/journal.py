"""A session's journal: what came from people, what must get to the hub, and how far each has got.

One append-only file of checksummed frames, written by the session's supervisor only:

    frame = length (4 bytes, little-endian) · CRC-32 of the payload (4 bytes) · payload (one msgspec struct, MessagePack)

A frame is in the file before what it records is acted upon, so a crash between any two steps leaves either the step
undone or its trace. A torn tail (the crash hit the write) is cut off and kept aside; everything before it counts.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib
from collections import OrderedDict
from pathlib import Path

import msgspec

from hapi.files import write_atomic
from hapi.wire import Consumed, Event, Indeterminate, NumberedEvent, TurnEnded, UserMessage

COMPACT_BYTES = 4 * 1024 * 1024
REMEMBERED_IDS = 2_000
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


Entry = Received | Taken | Removed | Emitted | Delivered | Base
_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


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
        self.last_seq = 0
        self.delivered = 0

    def apply(self, entry: Entry) -> None:
        match entry:
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

    def entries(self) -> list[Entry]:
        """The shortest journal that adds up to this state."""
        fates = [(key, fate) for key, fate in self.fates.items() if key not in self.queue]
        base: list[Entry] = [Base(self.last_seq, self.delivered, fates)]
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
        data = path.read_bytes()
    except FileNotFoundError:
        return state
    for entry, _ in _frames(data):
        state.apply(entry)
    return state


class Journal:
    """The file and its state. `damaged` tells how many bytes of a torn tail were put aside when it was opened.

    All methods may raise OSError when the disk refuses; then neither file nor state has changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.state = JournalState()
        self.damaged = 0
        self._last_at = 0
        good = self._load()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, good)
        self._size = good

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
        if self._size > COMPACT_BYTES:
            self._compact()

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

    def _compact(self) -> None:
        data = b"".join(_framed(entry) for entry in self.state.entries())
        write_atomic(self._path, data)
        fresh = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
        os.close(self._fd)
        self._fd = fresh
        self._size = len(data)

    def _load(self) -> int:
        """Apply every good frame; returns where they end. What follows is kept in a file beside."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        good = 0
        for entry, end in _frames(data):
            self.state.apply(entry)
            good = end
        if good < len(data):
            self.damaged = len(data) - good
            aside = self._path.with_name(f"{self._path.name}.bad-{good}")
            aside.write_bytes(data[good:])
            logger.warning("the journal's last %d bytes are damaged; kept as %s", self.damaged, aside)
        return good


def _framed(entry: Entry) -> bytes:
    payload = _encoder.encode(entry)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _frames(data: bytes) -> list[tuple[Entry, int]]:
    """Entries with the offsets at which their frames end, up to the first damaged one."""
    found: list[tuple[Entry, int]] = []
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if length > _MAX_FRAME - _FRAME.size or len(payload) < length or zlib.crc32(payload) != checksum:
            break
        try:
            entry = _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            break
        at += _FRAME.size + length
        found.append((entry, at))
    return found
