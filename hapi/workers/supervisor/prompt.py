"""A person's message as ACP content: the words, then each file in the best form that the agent announced to take.

Only files below the given directories are read: the path comes over the hub, and a file of the machine that the person
never put there is none of the agent's business. Blocks on the disk: not for an event loop.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hapi.wire import Attachment, UserMessage

INLINE_LIMIT = 10 * 1024 * 1024  # bytes of one image or sound that travels inside the prompt
INLINE_TOTAL = 20 * 1024 * 1024
EMBEDDED_LIMIT = 256 * 1024  # of a text

Block = dict[str, Any]


class Unusable(Exception):
    """A file that cannot be given to the agent; the words say why."""


def blocks(message: UserMessage, takes: dict[str, Any], allowed: Sequence[Path]) -> tuple[list[Block], list[str]]:
    """The prompt, and what must be said of files that are missing from it. `takes`: the agent's promptCapabilities.

    The words come first, for agents look there for their commands; they are sent whatever becomes of the files.
    """
    made: list[Block] = []
    problems: list[str] = []
    room = INLINE_TOTAL
    for attachment in message.attachments:
        name = attachment.filename or os.path.basename(attachment.path)
        try:
            block, size = _file(attachment, name, takes, allowed, min(room, INLINE_LIMIT))
        except (Unusable, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            problems.append(f"The agent did not get the file {name}: {why}.")
            continue
        made.append(block)
        room -= size
    if message.text or not made:
        made.insert(0, {"type": "text", "text": message.text})
    return made, problems


def _file(
    attachment: Attachment, name: str, takes: dict[str, Any], allowed: Sequence[Path], inline: int
) -> tuple[Block, int]:
    """The block of a file, and how many bytes of it the prompt carries. Raises Unusable, OSError."""
    path = _confined(attachment.path, allowed)
    mime = attachment.mime_type
    kind = mime.partition("/")[0]
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise Unusable("it is not a file")
        if kind in {"image", "audio"} and takes.get(kind) and mime != "image/svg+xml" and facts.st_size <= inline:
            data = file.read(inline)
            return {"type": kind, "data": base64.b64encode(data).decode(), "mimeType": mime}, len(data)
        if takes.get("embeddedContext") and facts.st_size <= min(inline, EMBEDDED_LIMIT):
            text = _text(file.read(EMBEDDED_LIMIT))
            if text is not None:
                resource = {"uri": path.as_uri(), "text": text, "mimeType": mime or "text/plain"}
                return {"type": "resource", "resource": resource}, len(text)
    link = {"type": "resource_link", "uri": path.as_uri(), "name": name, "size": facts.st_size}
    return ({**link, "mimeType": mime} if mime else link), 0


def _confined(path: str, allowed: Sequence[Path]) -> Path:
    """Where the path really leads. Raises Unusable when that is not below an allowed directory, OSError."""
    if not os.path.isabs(path) or "\0" in path:
        raise Unusable("its path is not absolute")
    real = Path(os.path.realpath(path, strict=True))
    if not any(real.is_relative_to(os.path.realpath(directory)) for directory in allowed):
        raise Unusable("it lies outside of the session's directories")
    return real


def _text(data: bytes) -> str | None:
    """The bytes as text; None for what is none."""
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None
