"""The session's RPCs about its directory (§5.10): files, search, git, uploads.

`writeFile`, `bash`, `getDirectoryTree` and `difftastic` are left out: no hub of this version calls them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.store import SessionDirectory
from hapi.workers.hub import files, git, programs, search, uploads
from hapi.workers.hub.context import Context
from hapi.workers.hub.rpc import Rpc, told


class _Path(msgspec.Struct):
    path: str = ""


class _Paths(msgspec.Struct):
    paths: list[str]


class DirectoryRpc:
    """The methods; `directory` answers where the session works. Their errors are `{success: false, error}`."""

    def __init__(self, context: Context, session_id: str, directory: Callable[[], str]) -> None:
        self._shop = context.workshop
        self._session_id = session_id
        self._directory = directory
        self._uploads = str(SessionDirectory(context.config.paths.session(session_id)).uploads)

    def methods(self) -> dict[str, Rpc]:
        """Name → handler."""
        handlers: dict[str, Rpc] = {
            "readFile": self._read,
            "listDirectory": self._list,
            "statFiles": self._stat,
            "ripgrep": self._search,
            "git-status": self._git(git.status),
            "git-diff-numstat": self._git(git.numstat),
            "git-diff-file": self._git(git.diff),
            "uploadFile": self._upload,
            "deleteUpload": self._delete,
        }
        return {name: told(handler) for name, handler in handlers.items()}

    async def _read(self, raw: Any) -> Any:
        """A file of the directory, or an upload by its whole path."""
        path = msgspec.convert(raw, _Path).path
        name = uploads.name_inside(self._uploads, path)
        root = self._directory() if name is None else self._uploads
        return await self._shop.transfers.run(files.read_file, root, path)

    async def _list(self, raw: Any) -> Any:
        path = msgspec.convert(raw, _Path).path
        return await self._shop.files.run(files.list_directory, self._directory(), path)

    async def _stat(self, raw: Any) -> Any:
        paths = msgspec.convert(raw, _Paths).paths
        return await self._shop.files.run(files.stat_files, self._directory(), paths)

    async def _search(self, raw: Any) -> Any:
        asked = msgspec.convert(raw, search.SearchParams)
        work = await self._shop.files.run(search.Search, self._directory(), asked)
        async with self._shop.programs.taken(), programs.in_time("The search"):
            listing = await work.listed()
        return await self._shop.files.run(work.answer, listing)

    def _git(self, make: Callable[[str, git.GitParams], git.Query]) -> Rpc:
        async def handler(raw: Any) -> Any:
            asked = msgspec.convert(raw, git.GitParams)
            query = await self._shop.files.run(make, self._directory(), asked)
            async with self._shop.programs.taken():
                return await git.answer(query)

        return handler

    async def _upload(self, raw: Any) -> Any:
        asked = msgspec.convert(raw, uploads.UploadParams)
        self._require_own(asked.session_id)
        return await self._shop.transfers.run(uploads.store, self._uploads, asked)

    async def _delete(self, raw: Any) -> Any:
        asked = msgspec.convert(raw, uploads.DeleteParams)
        self._require_own(asked.session_id)
        return await self._shop.files.run(uploads.delete, self._uploads, asked)

    def _require_own(self, session_id: str | None) -> None:
        if session_id not in (None, self._session_id):
            raise HapiError(ErrorCode.BAD_REQUEST, "This is another session.")
