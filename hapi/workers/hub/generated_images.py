"""`readGeneratedImage`: the bytes of an image that the agent showed (§5.10)."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from hapi.errors import HapiError
from hapi.images import ImageStore
from hapi.workers.hub.context import Context
from hapi.workers.hub.rpc import Rpc

READING_AT_ONCE = 2  # an answer holds up to 34 MB of base64


class GeneratedImages:
    """The images of one session, as its RPC."""

    def __init__(self, context: Context, session_id: str) -> None:
        self._store = ImageStore(context.config.paths.session(session_id))
        self._slots = asyncio.Semaphore(READING_AT_ONCE)

    def methods(self) -> dict[str, Rpc]:
        """Name → handler."""
        return {"readGeneratedImage": self._read}

    async def _read(self, raw: Any) -> Any:
        image_id = raw.get("id") if isinstance(raw, dict) else None
        if not isinstance(image_id, str):
            return {"success": False, "error": "The id of an image is missing."}
        try:
            async with self._slots:
                return await asyncio.to_thread(self._answer, image_id)
        except HapiError as error:
            return {"success": False, "error": error.message}
        except OSError as error:
            return {"success": False, "error": f"The image cannot be read: {error.strerror}"}

    def _answer(self, image_id: str) -> dict[str, Any]:
        data, mime_type = self._store.read(image_id)
        name = f"{image_id}.{mime_type.rpartition('/')[2]}"
        return {"success": True, "content": base64.b64encode(data).decode(), "mimeType": mime_type, "fileName": name}
