"""Where sessions may run: workspace roots, and git worktrees made for sessions.

Facts about worktrees (place, branch, name): the hub's protocol, §8.3.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from hapi.clock import now_ms
from hapi.errors import ErrorCode, HapiError
from hapi.wire import WorktreeInfo

GIT_TIMEOUT_S = 10.0
_TIDY_S = 1.0
_NAME_TRIES = 5


def confine(path: str | Path, roots: Sequence[str]) -> Path:
    """`path` with symbolic links resolved, if it is inside one of `roots` (no roots: anywhere).

    Raises HapiError: outside_workspace_roots, or bad_directory for what is no path. The path need not exist; what exists of it is resolved.
    """
    if "\0" in str(path):
        raise HapiError(ErrorCode.BAD_DIRECTORY, "A path cannot hold a NUL character.")
    real = Path(os.path.realpath(path))
    resolved = os.path.realpath(real) == str(real)  # behind a loop of links it is not, though it looks so
    if not roots or (resolved and any(real.is_relative_to(os.path.realpath(root)) for root in roots)):
        return real
    hint = "Allowed are: " + ", ".join(roots)
    raise HapiError(ErrorCode.OUTSIDE_WORKSPACE_ROOTS, f"{path} is outside this machine's workspace roots.", hint)


def prepare_directory(directory: str, roots: Sequence[str], *, create: bool) -> Path:
    """The directory a session runs in, made if it is missing and `create` allows it.

    Raises HapiError: outside_workspace_roots, bad_directory, directory_approval_required. Confinement is checked
    before and again after the making, so that a link slipped in between does not help.
    """
    if not os.path.isabs(directory):
        raise HapiError(ErrorCode.BAD_DIRECTORY, f"{directory!r} is not an absolute path.")
    path = confine(directory, roots)
    try:
        if not path.exists():
            if not create:
                hint = "Create it, or set createDirectories to true in settings.json."
                message = f"{directory} does not exist; creating it needs approval."
                raise HapiError(ErrorCode.DIRECTORY_APPROVAL_REQUIRED, message, hint)
            path.mkdir(parents=True, exist_ok=True)
        path = confine(path, roots)
        if not path.is_dir():
            raise HapiError(ErrorCode.BAD_DIRECTORY, f"{directory} is not a directory.")
        if not os.access(path, os.R_OK | os.X_OK):
            raise HapiError(ErrorCode.BAD_DIRECTORY, f"{directory} may not be entered by this user.")
    except OSError as error:
        raise HapiError(ErrorCode.BAD_DIRECTORY, f"{directory}: {error.strerror}.") from None
    return path


def worktree_name(wanted: str) -> str:
    """A name for a worktree: the wanted one in lower case with dashes, or today's date and four random digits."""
    name = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    return name or f"{datetime.now().astimezone():%m%d}-{secrets.token_hex(2)}"


def create_worktree(
    directory: Path,
    wanted: str,
    environment: Mapping[str, str] | None = None,
    announce: Callable[[WorktreeInfo], None] = lambda _: None,
) -> WorktreeInfo:
    """A new worktree beside the repository that holds `directory`, on a branch of its own.

    `environment` is what git and the repository's hooks get to see: no secret of ours may be in it. `announce` is told
    of the worktree just before it is made, so that a crash leaves a trace of it.

    Raises HapiError(worktree_failed) in git's words; then nothing is left behind. Bounded by GIT_TIMEOUT_S per call.
    """
    if not directory.is_dir():
        raise HapiError(ErrorCode.WORKTREE_FAILED, f"{directory} is not a directory.")
    found = git(directory, "rev-parse", "--show-toplevel", environment=environment)
    if found.returncode != 0:
        raise HapiError(ErrorCode.WORKTREE_FAILED, f"Path is not a Git repository: {found.stderr.strip()}")
    root = Path(found.stdout.strip())
    name = worktree_name(wanted)
    for attempt in range(_NAME_TRIES):
        candidate = name if attempt == 0 else f"{name}-{secrets.token_hex(2)}"
        path = root.parent / f"{root.name}-worktrees" / candidate
        branch = f"hapi-{candidate}"
        if path.exists() or git(root, "rev-parse", "--verify", "-q", f"refs/heads/{branch}").returncode == 0:
            continue
        worktree = WorktreeInfo(os.fspath(root), branch, candidate, os.fspath(path), now_ms())
        announce(worktree)
        _add(worktree, environment)
        return worktree
    raise HapiError(ErrorCode.WORKTREE_FAILED, f"No free name for a worktree like {name!r}.")


def remove_unused_worktree(worktree: WorktreeInfo) -> bool:
    """Remove the worktree of a spawn that failed; one with changes in it stays (False), and so does the branch.

    One that is gone already counts as removed. Raises nothing; False also when git cannot do it.
    """
    place = worktree.worktree_path
    try:
        return git(Path(worktree.base_path), "worktree", "remove", place).returncode == 0 or not os.path.lexists(place)
    except HapiError:
        return False


def _add(worktree: WorktreeInfo, environment: Mapping[str, str] | None) -> None:
    """`git worktree add`; a hook can fail it, or hold it up, when the worktree is there already."""
    words = ("worktree", "add", "-b", worktree.branch, worktree.worktree_path)
    try:
        made = git(Path(worktree.base_path), *words, environment=environment)
        if made.returncode == 0:
            return
        why = HapiError(ErrorCode.WORKTREE_FAILED, f"Failed to create worktree: {made.stderr.strip()}")
    except HapiError as error:
        why = error
    if not remove_unused_worktree(worktree):
        why.hint = f"{why.hint} Kept the worktree {worktree.worktree_path}: it has changes.".strip()
    raise why


def git(
    directory: Path, *arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run git there, without the variables that would lead it elsewhere; `environment` instead of our own.

    Raises HapiError: missing_tool, or worktree_failed when it takes longer than `timeout_s`, else GIT_TIMEOUT_S.
    """
    patience = GIT_TIMEOUT_S if timeout_s is None else timeout_s
    known = os.environ if environment is None else environment
    secrets_of_ours = ("GIT_", "CLI_API_TOKEN", "HAPI_EXTRA_HEADERS_JSON")
    clean = {key: value for key, value in known.items() if not key.startswith(secrets_of_ours)}
    command = ["git", "-C", os.fspath(directory), *arguments]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=clean,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise HapiError(ErrorCode.MISSING_TOOL, "git is not installed.", "Worktrees need git.") from None
    with process:
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            _end(process)
            raise HapiError(ErrorCode.WORKTREE_FAILED, f"git took longer than {patience:g} s.") from None
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _end(process: subprocess.Popen[str]) -> None:
    """End git and its hooks: SIGTERM, at which it tidies up, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.communicate(timeout=_TIDY_S)
