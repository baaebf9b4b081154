"""`git status` and `git diff` for the web (§5.10), of the session's directory only, whatever the repository holds.

A repository's own configuration can name programs that git runs while it only looks: file monitors, content filters,
external diffs, text converters, fetches of missing objects. None of them runs here. The user's own configuration
(`~/.gitconfig`) is trusted: its filters, Git LFS for one, work.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import programs
from hapi.workers.hub.confined import Outside, is_inside, resolve
from hapi.workers.hub.names import spellings

_SAFE = (
    "--no-pager",
    "--no-optional-locks",
    "--literal-pathspecs",
    *("-c", "core.fsmonitor=false"),
    *("-c", f"core.hooksPath={os.devnull}"),
    *("-c", "safe.bareRepository=explicit"),
    *("-c", "submodule.recurse=false"),
    *("-c", "status.relativePaths=true"),
)
_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": "none"}
_DIFF = ("--no-color", "--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty", "--submodule=short", "--relative")
_FILTERS = r"^filter\..*\.(clean|smudge|process|required)$"
_TRUSTED = ("system", "global", "command")


class GitParams(msgspec.Struct, rename="camel"):
    """What the three git methods are given; `cwd` is the path in the session's metadata."""

    cwd: str | None = None
    file_path: str | None = None
    staged: bool | None = None


class Query(msgspec.Struct, frozen=True):
    """What to run where."""

    git: str
    place: str
    arguments: list[str]


def status(root: str, asked: GitParams) -> Query:
    """`git-status`: porcelain v2, paths relative to `cwd`, only what lies below it. Blocking, as all that make a Query.

    Raises HapiError: Outside, missing_tool.
    """
    options = ("status", "--porcelain=v2", "--branch", "--untracked-files=all", "--ignore-submodules=dirty")
    return _query(root, asked, [*options, "--", "."])


def numstat(root: str, asked: GitParams) -> Query:
    """`git-diff-numstat`, with the same paths as the status. Raises HapiError as `status`."""
    return _query(root, asked, [*_diff(asked), "--numstat", "--", "."])


def diff(root: str, asked: GitParams) -> Query:
    """`git-diff-file`; git has nothing to say of a file that it does not know. Raises HapiError as `status`."""
    if not asked.file_path:
        raise HapiError(ErrorCode.BAD_REQUEST, "Which file? filePath is missing.")
    file = file_in(root, resolve(root, asked.cwd or ""), asked.file_path)
    return _query(root, asked, [*_diff(asked), "--src-prefix=a/", "--dst-prefix=b/", "--", file])


async def answer(query: Query) -> dict[str, Any]:
    """Git's answer as a command result. Names that are no text are shown in git's quotes, all others as they are.

    Raises HapiError: timeout, too_large.
    """
    async with programs.in_time("git"):
        problem = await _foreign(query)
        if problem is not None:
            return problem
        unfiltered = await _without_filters(query)
        ran = await _run(query, ["-c", "core.quotePath=false", *query.arguments], unfiltered)
        if not _is_text(ran.out):
            ran = await _run(query, ["-c", "core.quotePath=true", *query.arguments], unfiltered)
    return _command_result(ran)


def file_in(root: str, place: str, path: str) -> str:
    """The file's path from `place`, as git wants it; the file itself may be gone, or be a link. Raises Outside."""
    found = [_relative(root, place, spelling) for spelling in spellings(path)]
    return next((name for name in found if os.path.lexists(os.path.join(place, name))), found[-1])


def _relative(root: str, place: str, path: str) -> str:
    if "\0" in path:
        raise Outside(path)
    lexical = os.path.normpath(os.path.join(place, path))
    if os.path.isabs(path) and not is_inside(lexical, place):  # spelled with the links of the way to it
        lexical = os.path.join(resolve(root, os.path.dirname(lexical)), os.path.basename(lexical))
    if not is_inside(lexical, os.path.realpath(root)):
        raise Outside(path)
    resolve(root, os.path.dirname(lexical) if lexical != place else lexical)
    return os.path.relpath(lexical, place)


def _diff(asked: GitParams) -> list[str]:
    return ["diff", *(("--cached",) if asked.staged else ()), *_DIFF]


def _query(root: str, asked: GitParams, arguments: list[str]) -> Query:
    git = programs.find("git")
    if git is None:
        raise HapiError(ErrorCode.MISSING_TOOL, "git is not installed on this machine.")
    return Query(git, resolve(root, asked.cwd or ""), arguments)


async def _run(query: Query, arguments: list[str], extra: Mapping[str, str] | None = None) -> programs.Ran:
    return await programs.run([query.git, *_SAFE, *arguments], query.place, {**_ENVIRONMENT, **(extra or {})})


async def _foreign(query: Query) -> dict[str, Any] | None:
    """Why git cannot answer here: no repository, or one whose files lie elsewhere (`core.worktree`)."""
    found = await _run(query, ["rev-parse", "--show-toplevel"])
    if found.code != 0:
        return _command_result(found)
    if is_inside(query.place, os.fsdecode(found.out.removesuffix(b"\n"))):
        return None
    return {"success": False, "error": "The files of this git repository are not in the session's directory."}


async def _without_filters(query: Query) -> dict[str, str]:
    """An environment that switches off the content filters which the repository itself has configured."""
    found = await _run(query, ["config", "--show-scope", "--null", "--name-only", "--get-regexp", _FILTERS])
    if found.code not in (0, 1):
        raise HapiError(ErrorCode.BAD_REQUEST, f"git cannot read its configuration: {found.err}")
    return overrides(os.fsdecode(found.out))


def overrides(listing: str) -> dict[str, str]:
    """The environment that undoes filter settings, given as scope, NUL, key, NUL, …; those of the user stay. Pure.

    An option `-c` would not do: the key of a hostile setting may hold an equals sign.
    """
    words = listing.split("\0")
    keys = sorted({key for scope, key in zip(words[::2], words[1::2], strict=False) if scope not in _TRUSTED})
    environment = {"GIT_CONFIG_COUNT": str(len(keys))}
    for number, key in enumerate(keys):
        environment[f"GIT_CONFIG_KEY_{number}"] = key
        environment[f"GIT_CONFIG_VALUE_{number}"] = "false" if key.endswith(".required") else ""
    return environment


def _command_result(ran: programs.Ran) -> dict[str, Any]:
    answer = {"success": ran.code == 0, "stdout": ran.out.decode(errors="replace"), "stderr": ran.err}
    if ran.code == 0:
        return {**answer, "exitCode": 0}
    return {**answer, "exitCode": ran.code, "error": ran.err or f"git ended with {ran.code}."}


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
