"""`listSkills`: the skills that an agent finds on disk, in the project and in the user's home (§5.10).

A skill is a directory with a SKILL.md whose front matter has a name and a description. What is broken is passed over.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hapi import wire
from hapi.workers.hub.context import Context
from hapi.workers.hub.rpc import Rpc, told

MAX_SKILLS = 300
HEAD_BYTES = 8 * 1024
_ENTRIES_LOOKED_AT = 1000
_DESCRIPTION_LIMIT = 500
_NAME_LIMIT = 100
_SHARED = (".agents/skills",)
_HOMES: dict[str, tuple[str, ...]] = {
    "claude": (".claude/skills",),
    "codex": (".codex/skills",),
    "copilot": (".copilot/skills", ".github/skills", ".claude/skills"),
    "cursor": (".cursor/skills", ".claude/skills"),
    "gemini": (".gemini/skills",),
    "grok": (".grok/skills",),
    "kimi": (".kimi/skills", ".claude/skills"),
    "opencode": (".opencode/skills", ".config/opencode/skills", ".claude/skills"),
    "pi": (".pi/skills", ".pi/agent/skills"),
}
_FIELD = re.compile(r"^(name|description):[ \t]*(.*?)[ \t]*$", re.MULTILINE)
_FRONT = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class Skills:
    """The skills of one session's agent, as its RPC; `info` answers what the session is now."""

    def __init__(self, context: Context, info: Callable[[], wire.SessionInfo]) -> None:
        self._files = context.workshop.files
        self._info = info

    def methods(self) -> dict[str, Rpc]:
        """Name → handler."""
        return {"listSkills": told(self._list)}

    async def _list(self, raw: Any) -> Any:
        info = self._info()
        flavor = raw.get("flavor") if isinstance(raw, dict) else None
        places = directories(flavor if isinstance(flavor, str) else info.agent, Path(info.directory))
        return {"success": True, "skills": await self._files.run(found, places)}


def directories(flavor: str, project: Path, environ: dict[str, str] | None = None) -> list[Path]:
    """Where that agent's skills lie, the project's first. An unknown agent has the shared places."""
    env = dict(os.environ) if environ is None else environ
    home = Path(env.get("HOME") or Path.home())
    names = (*_HOMES.get(flavor, ()), *_SHARED)
    own = {"claude": env.get("CLAUDE_CONFIG_DIR"), "codex": env.get("CODEX_HOME")}.get(flavor)
    return [*(project / name for name in names), *([Path(own) / "skills"] if own else []), *(home / n for n in names)]


def found(places: list[Path]) -> list[dict[str, str]]:
    """The skills in these directories by name, MAX_SKILLS at most; of two with one name the first counts."""
    skills: dict[str, dict[str, str]] = {}
    for place in places:
        for path in _candidates(place):
            skill = read(path)
            if skill is not None and len(skills) < MAX_SKILLS:
                skills.setdefault(skill["name"], skill)
    return sorted(skills.values(), key=lambda skill: skill["name"])


def read(path: Path) -> dict[str, str] | None:
    """Name and description of a SKILL.md; the directory's name where it has none. None for one that is broken."""
    try:
        front = _FRONT.match(_head(path).decode(errors="replace"))
    except OSError:
        return None
    if front is None:
        return None
    fields = {key: _plain(value) for key, value in _FIELD.findall(front[1].replace("\r", ""))}
    name = fields.get("name") or path.parent.name
    description = fields.get("description", "")
    skill = {"name": name[:_NAME_LIMIT]}
    return {**skill, "description": description[:_DESCRIPTION_LIMIT]} if description else skill


def _head(path: Path) -> bytes:
    """The beginning of a file; b"" for what is none. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, HEAD_BYTES) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _candidates(place: Path) -> Iterator[Path]:
    try:
        with os.scandir(place) as entries:
            names = sorted(entry.name for _, entry in zip(range(_ENTRIES_LOOKED_AT), entries, strict=False))
    except OSError:
        return
    yield from (place / name / "SKILL.md" for name in names)


def _plain(value: str) -> str:
    """A YAML scalar as text, as far as one line of it goes."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else "" if value in {"|", ">", "|-", ">-"} else value
