"""The agent's environment: the caller's, without our secrets, with the session's mark. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from hapi.ids import SESSION_MARK
from hapi.wire import WorktreeInfo

_OURS = ("CLI_API_TOKEN", "HAPI_EXTRA_HEADERS_JSON", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID")


def agent_environment(
    base: Mapping[str, str],
    session_id: str,
    extra: Mapping[str, str],
    worktree: WorktreeInfo | None,
) -> dict[str, str]:
    """What the agent gets to see. The hub's token is never in it unless `extra` (the user's settings) puts it there."""
    environment = {key: value for key, value in base.items() if key not in _OURS and not key.startswith("HAPI_")}
    environment |= {key: value for key, value in base.items() if key in {"HAPI_HOME", "HAPI_NAMESPACE", "HAPI_API_URL"}}
    environment |= {key: value for key, value in base.items() if key.startswith("HAPI_DEMO_")}
    environment[SESSION_MARK] = session_id
    if worktree is not None:
        environment |= {
            "HAPI_WORKTREE_BASE_PATH": worktree.base_path,
            "HAPI_WORKTREE_BRANCH": worktree.branch,
            "HAPI_WORKTREE_NAME": worktree.name,
            "HAPI_WORKTREE_PATH": worktree.worktree_path,
            "HAPI_WORKTREE_CREATED_AT": str(worktree.created_at),
        }
    return environment | dict(extra)
