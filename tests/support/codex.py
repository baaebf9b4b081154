"""codex-acp for tests: where it is installed, and a home in which it talks to a `ModelServer` and needs no login."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hapi.agents.table import BUILT_IN, native_program

_ROOT = Path(__file__).parents[2]


def find() -> Path | None:
    """The codex-acp to test with: $HAPI_TEST_CODEX, else the one in .cache/codex, else None. May be the npm shim."""
    named = os.environ.get("HAPI_TEST_CODEX")
    place = Path(named) if named else _ROOT / ".cache/codex/node_modules/.bin/codex-acp"
    return place if os.access(place, os.X_OK) else None


def native() -> Path | None:
    """As `find`, but past the npm shim the program itself."""
    found = find()
    return Path(native_program(str(found), BUILT_IN["codex"].native)) if found else None


def write_home(home: Path, model_url: str, cwd: Path, approval: str = "untrusted") -> dict[str, str]:
    """Write a CODEX_HOME below `home` that uses the model server and trusts `cwd`.

    With `approval` "untrusted" codex asks before every command that it does not know as harmless (and refuses a script's
    `esc` outright); with "on-request" it runs commands in its sandbox and asks for those with `esc`.

    Returns the environment for codex: ours, with HOME and what it needs, without any real key.
    """
    codex_home = home / ".codex"
    codex_home.mkdir(parents=True, exist_ok=True)
    (codex_home / "config.toml").write_text(_config(model_url, cwd, approval), encoding="utf-8")
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("OPENAI_", "CODEX_"))}
    return {**ours, "HOME": str(home), "CODEX_HOME": str(codex_home), "MOCK_API_KEY": "x"}


def _config(model_url: str, cwd: Path, approval: str) -> str:
    return f"""model = "gpt-5.5"
model_provider = "mock"
approval_policy = "{approval}"
sandbox_mode = "workspace-write"
check_for_update_on_startup = false

[model_providers.mock]
name = "mock"
base_url = "{model_url}/v1"
wire_api = "responses"
env_key = "MOCK_API_KEY"

[analytics]
enabled = false

[projects.{json.dumps(str(cwd))}]
trust_level = "trusted"
"""
