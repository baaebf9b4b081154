"""Images on their way from the agent into the chat: stored first, off the event loop, then pointed to by an event."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import uuid
from collections.abc import Callable
from pathlib import Path

from hapi.errors import HapiError
from hapi.images import MAX_IMAGE_BYTES, ImageStore
from hapi.wire import AgentText, ImageRef
from hapi.workers.offload import offload
from hapi.workers.supervisor.acp_tools import Picture

MAX_WAITING = 20
SETTLE_S = 5.0
_NAME_LIMIT = 120

logger = logging.getLogger(__name__)


class Pictures:
    """Stores pictures one after another; `emit` gets an event for each, one that says why for what cannot be shown."""

    def __init__(self, session_directory: Path, emit: Callable[[AgentText], None]) -> None:
        self._store = ImageStore(session_directory)
        self._emit = emit
        self._waiting: asyncio.Queue[Picture] = asyncio.Queue(MAX_WAITING)
        self._task: asyncio.Task[None] | None = None

    def take(self, picture: Picture) -> None:
        """Store and show a picture, soon. One too many at a time is left out, and that is said."""
        try:
            self._waiting.put_nowait(picture)
        except asyncio.QueueFull:
            self._emit(AgentText("[An image is left out: too many at once.]"))
            return
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._work(), name="pictures")

    async def settled(self) -> None:
        """Wait until all that was taken is shown, SETTLE_S at most: it belongs before the end of its turn."""
        if self._task is not None and not self._task.done():
            await asyncio.wait({self._task}, timeout=SETTLE_S)

    async def _work(self) -> None:
        while not self._waiting.empty():
            picture = self._waiting.get_nowait()
            try:
                event = await offload(self._keep, picture)
            except (HapiError, OSError, ValueError) as error:
                logger.warning("an image cannot be kept: %s", error)
                event = AgentText(f"[An image is left out: {error}]")
            self._emit(event)

    def _keep(self, picture: Picture) -> AgentText:
        if len(picture.data) * 3 // 4 > MAX_IMAGE_BYTES + 3:
            raise ValueError(f"it is over {MAX_IMAGE_BYTES // 1024**2} MiB.")
        try:
            data = base64.b64decode(picture.data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"it is not base64: {error}.") from None
        image_id = uuid.uuid4().hex
        self._store.keep(image_id, data, picture.mime_type)
        name = picture.name[:_NAME_LIMIT] or f"image.{picture.mime_type.rpartition('/')[2][:10]}"
        return AgentText(f"[image: {name}]", ImageRef(image_id, name, picture.mime_type, picture.call_id))
