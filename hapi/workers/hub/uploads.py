"""Attachments: files that the web hands to a session, kept in `uploads/` of the session's record (§5.10).

They live as long as the record. A session's end does not remove them: a message may wait at the hub that names them, and
a resumed session gets it. Blocking: call it in a thread.
"""

from __future__ import annotations

import binascii
import contextlib
import errno
import os
import re
import uuid
from typing import Any

import msgspec

from hapi.clock import now_ms
from hapi.errors import ErrorCode, HapiError

MAX_UPLOAD = 50 << 20
MAX_KEPT_BYTES = 1 << 30
MAX_KEPT_FILES = 1000
_NAME_BYTES = 180
_ENDING_BYTES = 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class UploadParams(msgspec.Struct, rename="camel"):
    """`uploadFile`."""

    filename: str
    content: str
    mime_type: str = ""
    session_id: str | None = None


class DeleteParams(msgspec.Struct, rename="camel"):
    """`deleteUpload`."""

    path: str
    session_id: str | None = None


def store(directory: str, asked: UploadParams) -> dict[str, Any]:
    """The answer to `uploadFile`: the file is on the disk, readable for this user only, at the absolute `path`.

    Raises HapiError: too_large (the file, or all that the session keeps), bad_request, disk.
    """
    content = _decoded(asked.content)
    name = f"{now_ms()}-{uuid.uuid4()}-{safe_name(asked.filename)}"
    try:
        place = _open_directory(directory)
        try:
            _require_room(place, len(content))
            _write(place, name, content)
        finally:
            os.close(place)
    except OSError as error:
        why = "the disk is full" if error.errno in _FULL else error.strerror
        raise HapiError(ErrorCode.DISK, f"The file was not kept: {why}.") from None
    return {"success": True, "path": os.path.join(directory, name)}


def delete(directory: str, asked: DeleteParams) -> dict[str, Any]:
    """The answer to `deleteUpload`; a file that is gone already counts as deleted. Raises HapiError."""
    name = name_inside(directory, asked.path)
    if name is None:
        raise HapiError(ErrorCode.NOT_OURS, f"Access denied: Path '{asked.path}' is outside the upload directory")
    try:
        place = os.open(directory, _DIRECTORY)
    except FileNotFoundError:
        return {"success": True}
    except OSError as error:
        raise HapiError(ErrorCode.DISK, f"The upload cannot be deleted: {error.strerror}.") from None
    try:
        os.unlink(name, dir_fd=place)
    except FileNotFoundError:
        pass  # what was asked for is the case
    except OSError as error:
        raise HapiError(ErrorCode.DISK, f"The upload cannot be deleted: {error.strerror}.") from None
    finally:
        os.close(place)
    return {"success": True}


def name_inside(directory: str, path: str) -> str | None:
    """The name of an upload by its path as `store` gave it out; None for any other path. Pure."""
    name = os.path.basename(path)
    outside = path != os.path.join(directory, name) or name in {"", ".", ".."} or "\0" in path or not _is_text(path)
    return None if outside else name


def safe_name(name: str) -> str:
    """A file's name that is harmless in a directory, a shell and an `@path` of a message; its ending is kept. Pure."""
    text = name.encode("utf-8", "replace").decode()
    text = re.sub(r"[^\w.+=,-]+", "_", re.split(r"[/\\]", text)[-1])
    text = re.sub(r"\.{2,}", ".", text).lstrip(".-")
    stem, ending = os.path.splitext(text)
    ending = _cut(ending, _ENDING_BYTES)
    return _cut(stem, _NAME_BYTES - len(ending.encode())) + ending or "upload"


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(content: str) -> bytes:
    padding = len(content) - len(content.rstrip("="))
    if len(content) * 3 // 4 - padding > MAX_UPLOAD:
        raise HapiError(ErrorCode.TOO_LARGE, f"The file is too large: uploads may have up to {MAX_UPLOAD >> 20} MiB.")
    try:
        return binascii.a2b_base64(content, strict_mode=True)
    except ValueError:
        raise HapiError(ErrorCode.BAD_REQUEST, "The content is not valid base64.") from None


def _open_directory(directory: str) -> int:
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    place = os.open(directory, _DIRECTORY)
    os.fchmod(place, 0o700)
    return place


def _require_room(place: int, size: int) -> None:
    with os.scandir(place) as found:
        kept = [item.stat(follow_symlinks=False).st_size for item in found]
    if len(kept) >= MAX_KEPT_FILES or sum(kept) + size > MAX_KEPT_BYTES:
        limits = f"{MAX_KEPT_FILES} files or {MAX_KEPT_BYTES >> 30} GiB"
        raise HapiError(ErrorCode.TOO_LARGE, f"This session keeps {limits} of uploads already; delete some.")


def _write(place: int, name: str, content: bytes) -> None:
    """Write it whole or leave nothing. Raises OSError."""
    fd = os.open(name, _NEW_FILE, 0o600, dir_fd=place)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=place)
        raise
