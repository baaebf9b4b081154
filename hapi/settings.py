"""`settings.json`: the one file that people and the hub write too. Unknown keys survive whatever we do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.files import exclusive, read_file, write_atomic


def read(path: Path) -> dict[str, Any]:
    """The settings at `path`; {} when there is no file.

    Raises HapiError(bad_configuration) for a file that cannot be read or is not a JSON object: a damaged file is never
    taken for an empty one, and never overwritten.
    """
    try:
        data = read_file(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        hint = "It must be a file that you may read."
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"Cannot read {path}: {error.strerror}", hint) from None
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(value, dict):
        raise _damaged(path, "it does not hold a JSON object")
    return value


def update(path: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Set (or with None delete) keys, leaving all others as they are; returns the new content.

    The file is replaced atomically under a lock, mode 0600. Raises HapiError(bad_configuration) as `read` does, or
    when it cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(path.with_name(f"{path.name}.lock")):
            settings = read(path)
            settings.update(changes)
            settings = {key: value for key, value in settings.items() if value is not None or key not in changes}
            write_atomic(path, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
    except OSError as error:
        hint = "Nothing was changed. Is the disk full, or is the file not yours?"
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"Cannot write {path}: {error.strerror}", hint) from None
    return settings


def _damaged(path: Path, why: str) -> HapiError:
    hint = "Mend the file, or move it away to begin anew."
    return HapiError(ErrorCode.BAD_CONFIGURATION, f"{path} is damaged: {why}", hint)
