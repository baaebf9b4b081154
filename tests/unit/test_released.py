"""The released protocol: bytes that an older hapi sent, or left on disk, still mean the same.

tests/golden/released-1 is frozen. A failure here means that sessions of the released version would be lost.
"""

import enum
import typing
from pathlib import Path

import msgspec
import pytest

from hapi import journal, wire
from hapi.workers import orders

RELEASED = Path(__file__).parent.parent / "golden" / "released-1"
DECODERS = {
    "": [
        wire.FOR_CONTROL,
        wire.FOR_CLI,
        wire.FOR_BROKER,
        wire.FOR_SESSION,
        wire.FOR_HUB,
        wire.FOR_REAPER,
        msgspec.msgpack.Decoder(wire.Event),
    ],
    "journal": [msgspec.msgpack.Decoder(journal.Entry)],
    "nursery": [msgspec.msgpack.Decoder(orders.Fork), msgspec.msgpack.Decoder(orders.FromNursery)],
}
BODIES = [(folder, path) for folder in DECODERS for path in sorted((RELEASED / folder).glob("*.msgpack"))]


def tags(decoder):
    members = typing.get_args(decoder.type) or (decoder.type,)
    return {member.__struct_config__.tag for member in members}


def lost(old, new, where=""):
    """What an old message said that the new reading of it does not say."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [item for key in old for item in lost(old[key], new.get(key, "nothing"), f"{where}.{key}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [item for i, (a, b) in enumerate(zip(old, new, strict=True)) for item in lost(a, b, f"{where}[{i}]")]
    return [] if old == new and type(old) is type(new) else [f"{where}: {old!r} became {new!r}"]


def said(value):
    """A decoded message as plain data, with every field of every part."""
    if isinstance(value, msgspec.Struct):
        kind = value.__struct_config__.tag
        fields = {name: said(getattr(value, name)) for name in value.__struct_fields__}
        return fields | ({"type": kind} if kind else {})
    if isinstance(value, list | tuple):
        return [said(item) for item in value]
    if isinstance(value, dict):
        return {key: said(item) for key, item in value.items()}
    return value.value if isinstance(value, enum.Enum) else value


def test_the_release_is_complete():
    assert len(BODIES) == 64


@pytest.mark.parametrize(("folder", "path"), BODIES, ids=lambda value: getattr(value, "stem", value))
def test_a_released_message_means_the_same(folder, path):
    data = path.read_bytes()
    raw = msgspec.msgpack.decode(data)
    readers = [decoder for decoder in DECODERS[folder] if raw["type"] in tags(decoder)]
    assert readers, f"nobody reads {raw['type']} any more"
    for decoder in readers:
        assert lost(raw, said(decoder.decode(data))) == []


def test_a_released_header_still_routes():
    (path,) = (RELEASED / "header").iterdir()
    assert wire.decode_header(path.read_bytes()) == wire.Header(
        "session:1f0c22ab-0000-4000-8000-000000000001", "hub", 42, reply=True
    )
    for short in (["hapi/1", "broker", "cli"], ["hapi/1", "broker", "cli", 7]):
        assert wire.decode_header(msgspec.msgpack.encode(short)).sender == "cli"


def test_who_says_nothing_of_levels_speaks_the_first():
    for name, decoder in (("hello", wire.FOR_BROKER), ("welcome", wire.FOR_SESSION), ("status", wire.FOR_CLI)):
        assert decoder.decode((RELEASED / f"{name}.msgpack").read_bytes()).protocol == 1
    assert wire.FOR_HUB.decode((RELEASED / "snapshot.msgpack").read_bytes()).protocol == 1


@pytest.mark.parametrize(("folder", "path"), BODIES, ids=lambda value: getattr(value, "stem", value))
def test_a_level_1_peer_skips_what_is_new(folder, path):
    """What we send now is what was released and perhaps more: no field is gone, renamed or of another type."""
    current = RELEASED.parent / folder / path.name
    assert lost(msgspec.msgpack.decode(path.read_bytes()), msgspec.msgpack.decode(current.read_bytes())) == []
