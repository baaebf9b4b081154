"""`readGeneratedImage`: the bytes of an image that the agent showed (§5.10)."""

from __future__ import annotations

import base64
from typing import Any

from hapi.errors import ErrorCode, HapiError
from hapi.images import ImageStore
from hapi.workers.hub.context import Context
from hapi.workers.hub.rpc import Rpc, told


class GeneratedImages:
    """The images of one session, as its RPC."""

    def __init__(self, context: Context, session_id: str) -> None:
        self._store = ImageStore(context.config.paths.session(session_id))
        self._transfers = context.workshop.transfers  # an answer holds up to 34 MB of base64

    def methods(self) -> dict[str, Rpc]:
        """Name → handler."""
        return {"readGeneratedImage": told(self._read)}

    async def _read(self, raw: Any) -> Any:
        image_id = raw.get("id") if isinstance(raw, dict) else None
        if not isinstance(image_id, str):
            raise HapiError(ErrorCode.BAD_REQUEST, "The id of an image is missing.")
        return await self._transfers.run(self._answer, image_id)

    def _answer(self, image_id: str) -> dict[str, Any]:
        data, mime_type = self._store.read(image_id)
        name = f"{image_id}.{mime_type.rpartition('/')[2]}"
        return {"success": True, "content": base64.b64encode(data).decode(), "mimeType": mime_type, "fileName": name}
