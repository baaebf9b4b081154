"""Libraries without what they bring along and do not need: each costs every command, and every process its memory."""

from __future__ import annotations

import sys

_SPARED = "typing_extensions"
_DIGESTS = (
    "_blake2",
    "_md5",
    "_sha1",
    "_sha3",
    *(("_sha256", "_sha512") if sys.version_info < (3, 12) else ("_sha2",)),
)


def import_msgspec() -> None:
    """Import msgspec on the standard library's `typing`: `typing_extensions`, which it takes where it is installed,
    brings `inspect` and `ast` along, 10 ms and 3 MB. It is there for everybody else afterwards.
    """
    if _SPARED in sys.modules:
        return
    sys.modules[_SPARED] = None  # type: ignore[assignment]  # documented: an import of it fails, as if it were absent
    try:
        import msgspec  # noqa: F401
    finally:
        del sys.modules[_SPARED]


def import_hashlib() -> None:
    """Import hashlib without OpenSSL: a process that makes a digest now and then does with Python's own, and without
    1 MB. Nothing changes where hashlib is loaded already, or Python was built without its own (Fedora's, for one).
    """
    if "hashlib" in sys.modules or not all(map(_is_there, _DIGESTS)):
        return
    sys.modules["_hashlib"] = None  # type: ignore[assignment]
    try:
        import hashlib  # noqa: F401
    finally:
        del sys.modules["_hashlib"]


def import_aiohttp() -> None:
    """Import aiohttp without the TLS context that it makes at once, of all the system's certificates: 2 MB and 20 ms.

    What it has instead trusts nobody: give each connector the context that its peer needs.
    """
    if "aiohttp" in sys.modules:
        return
    import ssl

    whole = ssl.create_default_context
    ssl.create_default_context = lambda *_, **__: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        import aiohttp  # noqa: F401
    finally:
        ssl.create_default_context = whole


def _is_there(module: str) -> bool:
    try:
        __import__(module)  # importlib would cost every command half a millisecond
    except ImportError:
        return False
    return True
