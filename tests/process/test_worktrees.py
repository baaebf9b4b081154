"""`hapi worktree list | prune` with real sessions and real git: what is kept, with which reason, and what goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hapi import workspace
from hapi.worktree_survey import Survey, remove
from tests.support.git import git
from tests.support.runner import Runner
from tests.support.wait import until


class Place:
    """A repository, and a runner whose sessions get worktrees of it."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.repository = Path(os.path.realpath(runner.project)) / "proj"
        self.repository.mkdir()
        git(self.repository, "init", "-q", "-b", "main")
        (self.repository / ".gitignore").write_text("*.log\n")
        (self.repository / "f").write_text("one\n")
        git(self.repository, "add", ".")
        git(self.repository, "commit", "-q", "-m", "one")
        git(self.repository.parent, "init", "-q", "--bare", "upstream")
        git(self.repository, "remote", "add", "origin", str(self.repository.parent / "upstream"))
        self.names = iter(f"w{number}" for number in range(1000))

    def spawn(self, name: str | None = None) -> tuple[str, Path]:
        """A session in a new worktree: its id, and where."""
        arguments = ["runner", "spawn", str(self.repository), "--agent", "demo", "--json"]
        done = self.runner.hapi(*arguments, "--worktree", name or next(self.names), check=0)
        return done.json["sessionId"], Path(done.json["directory"])

    def ended(self) -> Path:
        """The worktree of a session that has ended."""
        session, path = self.spawn()
        self.runner.hapi("runner", "stop-session", session, check=0)
        return path

    def list(self) -> dict[str, Any]:
        found = self.runner.hapi("worktree", "list", "--json", check=0).json
        return {worktree["path"]: worktree for worktree in found}

    def prune(self, *arguments: str) -> dict[str, Any]:
        found = self.runner.hapi("worktree", "prune", "--yes", "--json", *arguments, check=0).json
        return {worktree["path"]: worktree for worktree in found}

    def commit(self, path: Path, *, merge: bool = False) -> None:
        (path / f"new-{path.name}").write_text("two\n")
        git(path, "add", ".")
        git(path, "commit", "-q", "-m", f"work in {path.name}")
        if merge:
            git(self.repository, "merge", "-q", f"hapi-{path.name}")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    base = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(base / "h") as home:
        home.start()
        yield Place(home)
    shutil.rmtree(base, ignore_errors=True)


def _new_file(place: Place, path: Path) -> None:
    (path / "new").write_text("work")


def _hidden_by_settings(place: Place, path: Path) -> None:
    git(place.repository, "config", "status.showUntrackedFiles", "no")
    (path / "new").write_text("work")


def _changed(place: Place, path: Path) -> None:
    (path / "f").write_text("two\n")


def _staged(place: Place, path: Path) -> None:
    (path / "f").write_text("two\n")
    git(path, "add", ".")


def _unseen(place: Place, path: Path) -> None:
    git(path, "update-index", "--assume-unchanged", "f")
    (path / "f").write_text("two\n")


def _unmerged(place: Place, path: Path) -> None:
    place.commit(path)


def _stashed(place: Place, path: Path) -> None:
    (path / "f").write_text("two\n")
    git(path, "stash", "-q")


def _locked(place: Place, path: Path) -> None:
    git(path, "worktree", "lock", "--reason", "mine", str(path))


def _switched(place: Place, path: Path) -> None:
    git(path, "switch", "-q", "-c", f"mine-{path.name}")


def _detached(place: Place, path: Path) -> None:
    git(path, "switch", "-q", "--detach")
    place.commit(path)


def _merging(place: Place, path: Path) -> None:
    place.commit(path, merge=True)
    git(path, "switch", "-q", "-c", f"side-{path.name}", "HEAD~1")
    (path / "side").write_text("x")
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "side")
    git(path, "switch", "-q", f"hapi-{path.name}")
    git(path, "merge", "-q", "--no-commit", "-s", "ours", f"side-{path.name}")


def _stray(place: Place, path: Path) -> None:
    git(path, "switch", "-q", "--detach")
    place.commit(path)
    git(path, "switch", "-q", f"hapi-{path.name}")


def _nested_worktree(place: Place, path: Path) -> None:
    git(path, "worktree", "add", "-q", "-b", f"inner-{path.name}", str(path / "inner.log"))
    (path / "inner.log" / "new").write_text("work")


WORK: dict[str, tuple[Callable[[Place, Path], None], str, str]] = {
    "an untracked file": (_new_file, "dirty", "1 file changed or new"),
    "one that git's settings hide": (_hidden_by_settings, "dirty", "1 file changed or new"),
    "a changed file": (_changed, "dirty", "1 file changed or new"),
    "a staged file": (_staged, "dirty", "1 file changed or new"),
    "a file that git must not look at": (_unseen, "dirty", "git was told not to look at 1 file"),
    "a commit": (_unmerged, "unmerged", "1 commit in no other branch, tag or remote"),
    "a stash": (_stashed, "stashed", "1 stash made in it"),
    "a lock": (_locked, "locked", "it is locked: mine"),
    "another branch": (_switched, "unknown", "is checked out in it"),
    "a detached commit": (_detached, "unknown", "no branch is checked out in it"),
    "a merge under way": (_merging, "dirty", "a merge is under way"),
    "a commit that was left detached": (_stray, "unmerged", "1 commit made in it that no branch has"),
    "a worktree where git ignores it": (_nested_worktree, "dirty", "worktree lies in it: inner.log"),
}


@pytest.mark.parametrize("kind", WORK)
def test_trap_43_work_of_any_kind_is_kept(place: Place, kind: str) -> None:
    """Seen to fail: without the reason's line in `worktrees._reasons`, and for hidden files without --untracked-files."""
    do, state, why = WORK[kind]
    path = place.ended()
    do(place, path)
    before = sorted(file.name for file in path.iterdir())
    try:
        shown = place.prune()[str(path)]
        assert (shown["state"], shown.get("removed")) == (state, None)
        assert why in shown["keptBecause"]
        assert sorted(file.name for file in path.iterdir()) == before
    finally:
        git(place.repository, "config", "--unset-all", "status.showUntrackedFiles") if "settings" in kind else None


def test_trap_43_a_live_session_and_whoever_works_in_it_keep_it(place: Place) -> None:
    """Seen to fail: without the count of open sessions, and of processes, in the facts."""
    session, path = place.spawn()
    assert place.list()[str(path)]["sessions"] == [session]
    assert place.prune()[str(path)]["keptBecause"] == "its session has not ended"
    place.runner.hapi("runner", "stop-session", session, check=0)
    with subprocess.Popen(["sleep", "60"], cwd=path) as visitor:
        shown = place.prune()[str(path)]
        visitor.kill()
    assert (shown["state"], shown["keptBecause"]) == ("in use", "1 process in it")
    assert place.prune()[str(path)]["removed"] is True


def test_trap_43_another_session_in_it_keeps_it_too(place: Place) -> None:
    path = place.ended()
    guest = place.runner.hapi("runner", "spawn", str(path), "--agent", "demo", "--json", check=0).json["sessionId"]
    shown = place.prune()[str(path)]
    assert (shown["state"], guest in shown["sessions"]) == ("live", True)
    place.runner.hapi("runner", "stop-session", guest, check=0)


@pytest.mark.parametrize("kind", ["unused", "merged", "pushed"])
def test_trap_43_dead_and_clean_is_removed(place: Place, kind: str) -> None:
    """With what git ignores. The branch goes as `git branch -d` would; one that is only pushed elsewhere stays."""
    path = place.ended()
    branch = f"hapi-{path.name}"
    (path / "build.log").write_text("ignored")
    if kind != "unused":
        place.commit(path, merge=kind == "merged")
    if kind == "pushed":
        assert place.prune()[str(path)]["state"] == "unmerged"
        git(path, "push", "-q", "origin", f"{branch}:refs/heads/elsewhere-{path.name}")
    dry = place.runner.hapi("worktree", "prune", "--dry-run", "--json", check=0).json
    assert [w["keptBecause"] for w in dry if w["path"] == str(path)] == [None]
    assert path.is_dir()
    shown = place.prune()[str(path)]
    assert (shown["state"], shown["removed"]) == ("unused" if kind == "unused" else "merged", True)
    assert not path.exists()
    assert str(path) not in git(place.repository, "worktree", "list")
    left = git(place.repository, "branch", "--list", branch)
    assert bool(left) is (kind == "pushed") is bool(shown["branchKeptBecause"])
    assert str(path) not in place.list()


def test_trap_43_what_was_amended_on_its_branch_is_no_work(place: Place) -> None:
    path = place.ended()
    place.commit(path)
    git(path, "commit", "-q", "--amend", "-m", "better words")
    git(place.repository, "merge", "-q", "--no-edit", f"hapi-{path.name}")
    shown = place.prune()[str(path)]
    assert (shown["state"], shown["removed"]) == ("merged", True)


def test_trap_43_a_process_is_seen_whatever_leads_to_the_worktree(place: Place) -> None:
    """Its directory was moved and a link left there. Seen to fail: without the look at the real path."""
    path = place.ended()
    beside = path.parent
    elsewhere = beside.rename(beside.with_name("elsewhere"))
    beside.symlink_to(elsewhere)
    try:
        with subprocess.Popen(["sleep", "60"], cwd=path) as visitor:
            shown = place.prune()[str(path)]
            visitor.kill()
    finally:
        beside.unlink()
        elsewhere.rename(beside)
    assert shown["keptBecause"] == "1 process in it"


def test_a_removal_may_take_its_time(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cut short, it leaves half a worktree. Seen to fail: with GIT_TIMEOUT_S for the removal too."""
    path = place.ended()
    real = shutil.which("git")
    (tmp_path / "git").write_text(
        f'#!/bin/sh\ncase "$*" in *"worktree remove {path}") sleep 2.5;; esac\nexec {real} "$@"\n'
    )
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(workspace, "GIT_TIMEOUT_S", 2.0)
    (info,) = [tree.place for tree in Survey(place.runner.home).worktrees() if tree.place.worktree_path == str(path)]
    assert remove(info, place.runner.home).branch_kept == ""
    assert not path.exists()


def test_trap_43_what_a_person_made_is_kept(place: Place) -> None:
    """Of any name: without a session's record it is not ours. Seen to fail: without the look at `recorded`."""
    beside = place.repository.parent / "proj-worktrees"
    git(place.repository, "worktree", "add", "-q", "-b", "mine", str(beside / "mine"))
    git(place.repository, "worktree", "add", "-q", "-b", "hapi-alike", str(beside / "alike"))
    place.ended()
    found = place.prune()
    assert str(beside / "mine") not in found
    assert found[str(beside / "alike")]["keptBecause"] == "no session on record here ran in it"
    assert (beside / "mine").is_dir()
    assert (beside / "alike").is_dir()


def test_one_whose_directory_was_deleted_is_forgotten_with_its_branch(place: Place) -> None:
    path = place.ended()
    shutil.rmtree(path)
    assert place.list()[str(path)]["state"] == "gone"
    assert place.prune()[str(path)]["removed"] is True
    assert git(place.repository, "branch", "--list", f"hapi-{path.name}") == ""


def test_one_that_git_will_not_remove_is_a_failure(place: Place) -> None:
    """A repository that forbids it: exit status 1, and the others are removed all the same."""
    first, second = place.ended(), place.ended()
    admin = Path(git(first, "rev-parse", "--git-dir"))
    (admin / "index.lock").write_text("")  # some other git is at work
    wrapper = place.runner.home / "bin" / "git"
    wrapper.parent.mkdir()
    real = shutil.which("git")
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *"worktree remove {first}"*) echo no >&2; exit 1;; esac\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    path = f"{wrapper.parent}:{os.environ['PATH']}"
    done = place.runner.hapi("worktree", "prune", "--yes", "--json", env={"PATH": path}, check=1)
    outcomes = {worktree["path"]: worktree for worktree in done.json}
    assert (outcomes[str(first)]["removed"], outcomes[str(first)]["keptBecause"]) == (False, "no")
    assert outcomes[str(second)]["removed"] is True
    assert first.is_dir()


def test_a_session_cannot_come_back_while_its_worktree_is_removed(place: Place) -> None:
    """Its lock is held meanwhile; afterwards it is told that the directory is gone."""
    from hapi.files import FileLock
    from hapi.store import SessionDirectory

    session, path = place.spawn()
    place.runner.hapi("runner", "stop-session", session, check=0)
    lock = FileLock(SessionDirectory(place.runner.root / "sessions" / session).lock)
    until(lock.acquire, 10, "the supervisor is gone")
    try:
        done = place.runner.hapi("worktree", "prune", "--yes", "--json", check=1)
    finally:
        lock.release()
    (outcome,) = [worktree for worktree in done.json if worktree["path"] == str(path)]
    assert outcome["keptBecause"] == "Kept: a session of it is being continued."
    assert path.is_dir()


def test_in_words(place: Place) -> None:
    path = place.ended()
    listed = place.runner.hapi("worktree", "list", check=0).out
    assert listed.split("\n")[0].split() == ["WORKTREE", "BRANCH", "STATE", "SESSION", "AGE"]
    line = next(line for line in listed.split("\n") if str(path) in line)
    assert f"hapi-{path.name}" in line
    assert line.endswith("prune would remove it")
    refused = place.runner.hapi("worktree", "prune", check=2)
    assert "--yes or --dry-run" in refused.err
    dry = place.runner.hapi("worktree", "prune", "--dry-run", check=0).out
    assert next(line for line in dry.split("\n") if str(path) in line).endswith("remove")
    done = place.runner.hapi("worktree", "prune", "--yes", check=0).out
    assert f"Removed {path}; its branch too" in done


def test_of_every_namespace_and_without_a_runner(runner: Runner) -> None:
    assert runner.hapi("worktree", "list", check=0).out == "No worktrees\n"
    assert runner.hapi("worktree", "prune", check=0).out == "Nothing to remove.\n"
    repository = runner.project
    git(repository, "init", "-q", "-b", "main")
    git(repository, "commit", "-q", "--allow-empty", "-m", "one")
    for namespace in ("default", "work"):
        words = ["--namespace", namespace, "runner"]
        spawn = [*words, "spawn", str(repository), "--agent", "demo", "--json", "--worktree", namespace]
        session = runner.hapi(*spawn, check=0).json["sessionId"]
        runner.hapi(*words, "stop-session", session, check=0)
        runner.hapi(*words, "stop", check=0)
    listed = runner.hapi("worktree", "list", "--json", check=0).json
    assert {worktree["name"] for worktree in listed} == {"default", "work"}
    assert all(w["removed"] for w in runner.hapi("worktree", "prune", "--yes", "--json", check=0).json)
    assert not (repository.parent / f"{repository.name}-worktrees").exists()
