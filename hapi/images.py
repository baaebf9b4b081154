"""Images that an agent showed, as files of its session: bounded in size, number and bytes; the oldest make room.

    sessions/<uuid>/images/<id>.<type>    written by the supervisor, read by the hub connector

They stay after the session's end, as its chat does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from hapi.errors import ErrorCode, HapiError
from hapi.files import read_file, write_atomic

MAX_IMAGE_BYTES = 25 * 1024 * 1024  # the hub takes no more (its protocol, §9)
MAX_IMAGES = 200
MAX_TOTAL_BYTES = 256 * 1024 * 1024
TYPES = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/jpg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/avif": "avif",
    "image/bmp": "bmp",
}
"""What a browser draws and cannot run: an SVG may hold a script."""
_MIME = {suffix: mime for mime, suffix in reversed(TYPES.items())}
_ID = re.compile(r"[0-9a-z-]{8,64}")


class ImageStore:
    """The images of one session. Blocks on the disk: not for an event loop."""

    def __init__(self, session_directory: Path) -> None:
        self._path = session_directory / "images"

    def keep(self, image_id: str, data: bytes, mime_type: str) -> None:
        """Store an image, dropping the oldest ones that are over the bounds.

        Raises HapiError(bad_request) for one that cannot be shown, OSError when the disk refuses.
        """
        suffix = TYPES.get(mime_type.lower())
        if suffix is None:
            raise HapiError(ErrorCode.BAD_REQUEST, f"An image of type {mime_type[:60]} cannot be shown.")
        if not data or len(data) > MAX_IMAGE_BYTES:
            raise HapiError(ErrorCode.BAD_REQUEST, f"An image of {len(data)} bytes cannot be shown.")
        self._path.mkdir(mode=0o700, exist_ok=True)
        self._make_room(len(data))
        write_atomic(self._path / f"{image_id}.{suffix}", data)

    def read(self, image_id: str) -> tuple[bytes, str]:
        """The image and its MIME type. Raises HapiError(bad_request) when there is none of that id, OSError."""
        if _ID.fullmatch(image_id):
            for suffix, mime_type in _MIME.items():
                try:
                    return read_file(self._path / f"{image_id}.{suffix}"), mime_type
                except FileNotFoundError:
                    continue
        raise HapiError(ErrorCode.BAD_REQUEST, "There is no such image, or it had to make room for newer ones.")

    def _make_room(self, size: int) -> None:
        found = [(entry.stat(), entry.path) for entry in os.scandir(self._path) if entry.is_file(follow_symlinks=False)]
        kept = sorted(found, key=lambda one: one[0].st_mtime_ns)
        total = sum(stat.st_size for stat, _ in kept)
        while kept and (len(kept) >= MAX_IMAGES or total + size > MAX_TOTAL_BYTES):
            stat, oldest = kept.pop(0)
            os.unlink(oldest)
            total -= stat.st_size
