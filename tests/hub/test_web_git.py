"""Git of a session through the official hub's REST API: status, numbers of lines, diffs; friendly and hostile repositories."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.desk import Desk, desk
from tests.support.git import git
from tests.support.hub import OfficialHub, unique
from tests.support.wait import until

pytestmark = pytest.mark.hub

AWKWARD = (
    "with space.txt",
    "größe.md",
    'say "hi".txt',
    "-rf",
    "two\nlines",
    "tab\there",
    "back\\slash",
    ":(top)x",
    "*",
)


@pytest.fixture(scope="module")
def hall(shared_hub: OfficialHub) -> Iterator[Desk]:
    """A runner whose environment is full of settings that would lead git astray."""
    astray = {"GIT_DIR": "/nonexistent", "GIT_EXTERNAL_DIFF": "/nonexistent", "GIT_PAGER": "/nonexistent"}
    with desk(shared_hub, unique("git"), HAPI_HOSTNAME="box", SOME_SECRET="s3cret", **astray) as found:
        yield found


@pytest.fixture
def at(hall: Desk) -> Desk:
    hall.install("git")
    return hall


def repository(at: Desk, name: str) -> Path:
    """A repository with `a.txt` and `sub/b.txt` in its one commit."""
    root = at.make(name)
    git(root, "init", "-q", "-b", "main")
    (root / "sub").mkdir()
    (root / "a.txt").write_text("one\ntwo\n")
    (root / "sub/b.txt").write_text("b\n")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    return root


class TestChanges:
    def test_of_every_kind(self, at: Desk) -> None:
        root = repository(at, "kinds")
        for name in ("moved", "deleted", "binary"):
            (root / name).write_text(f"{name}\nof some length\n")
        git(root, "add", ".")
        git(root, "commit", "-qm", "second")
        (root / "a.txt").write_text("one\n2\n3\n")
        git(root, "mv", "moved", "sub/moved")
        (root / "deleted").unlink()
        (root / "staged").write_text("s\n")
        (root / "binary").write_bytes(b"\0\1\2")
        git(root, "add", "staged")
        (root / "untracked").write_text("u\n")
        at.open(root)
        assert at.git("git-status").splitlines()[1] == "# branch.head main"
        assert at.changes() == {
            "a.txt": ".M",
            "binary": ".M",
            "deleted": ".D",
            "staged": "A.",
            "sub/moved": "R.",
            "untracked": "?",
        }
        assert at.counts(staged=False) == {"a.txt": "2/1", "binary": "-/-", "deleted": "0/2"}
        assert at.counts(staged=True) == {"staged": "1/0", "moved => sub/moved": "0/0"}
        assert "-two\n+2\n+3\n" in at.diff("a.txt")
        assert at.diff("a.txt", staged=True) == ""
        assert "+s\n" in at.diff("staged", staged=True)
        assert "-of some length\n" in at.diff("deleted")
        assert "Binary files" in at.diff("binary")
        assert at.diff("untracked") == at.diff("never there") == ""
        assert at.diff(str(root / "a.txt")) == at.diff("./sub/../a.txt") == at.diff("a.txt")

    def test_a_conflict(self, at: Desk) -> None:
        root = repository(at, "conflict")
        git(root, "checkout", "-qb", "other")
        (root / "a.txt").write_text("theirs\n")
        git(root, "commit", "-qam", "theirs")
        git(root, "checkout", "-q", "main")
        (root / "a.txt").write_text("ours\n")
        git(root, "commit", "-qam", "ours")
        with pytest.raises(Exception, match="merge"):
            git(root, "merge", "other")
        assert at.open(root).changes() == {"a.txt": "UU"}
        assert "<<<<<<<" in at.diff("a.txt")

    @pytest.mark.parametrize("name", AWKWARD)
    def test_awkward_names(self, at: Desk, name: str) -> None:
        root = repository(at, f"awkward-{AWKWARD.index(name)}")
        (root / name).write_text("old\n")
        (root / "other").write_text("old\n")
        git(root, "add", ".")
        git(root, "commit", "-qm", "awkward")
        (root / name).write_text("new\n")
        (root / "other").write_text("new\n")
        at.open(root)
        (shown,) = set(at.changes()) - {"other"}
        assert at.counts(staged=False) == {shown: "1/1", "other": "1/1"}
        assert at.diff(shown).count("diff --git") == 1
        assert at.diff(shown).endswith("-old\n+new\n")
        assert at.read(shown) == b"new\n", "the page of a change shows the file too"

    def test_bytes_that_are_no_text(self, at: Desk) -> None:
        root = repository(at, "bytes")
        (root / "caf\udce9").write_bytes(b"caf\xe9\n")
        git(root, "add", ".")
        at.open(root)
        assert at.changes() == {'"caf\\351"': "A."}
        assert "+caf\ufffd" in at.diff('"caf\\351"', staged=True)
        assert at.read('"caf\\351"') == b"caf\xe9\n"

    def test_a_session_below_the_top_sees_what_is_below_it(self, at: Desk) -> None:
        root = repository(at, "below")
        (root / "a.txt").write_text("changed\n")
        (root / "sub/b.txt").write_text("changed\n")
        (root / "sub/new").write_text("n\n")
        git(
            root, "config", "status.relativePaths", "false"
        )  # which would have the status name other paths than the diff
        at.open(root / "sub")
        assert at.changes() == {"b.txt": ".M", "new": "?"}
        assert at.counts(staged=False) == {"b.txt": "1/1"}
        assert "+changed" in at.diff("b.txt")
        denied = at.get("git-diff-file", path="../a.txt")
        assert denied["error"] == "Access denied: Path '../a.txt' is outside the working directory"

    def test_a_worktree(self, at: Desk) -> None:
        root = repository(at, "main")
        git(root, "worktree", "add", "-q", "-b", "side", str(at.place / "side"))
        (at.place / "side/a.txt").write_text("side\n")
        at.open(at.place / "side")
        assert at.changes() == {"a.txt": ".M"}
        assert "+side" in at.diff("a.txt")

    def test_before_the_first_commit(self, at: Desk) -> None:
        root = at.make("unborn")
        git(root, "init", "-q")
        (root / "a").write_text("a\n")
        git(root, "add", ".")
        at.open(root)
        assert at.changes() == {"a": "A."}
        assert at.counts(staged=True) == {"a": "1/0"}
        assert at.counts(staged=False) == {}

    def test_no_repository(self, at: Desk) -> None:
        at.open(at.make("plain"))
        for route in ("git-status", "git-diff-numstat", "git-diff-file"):
            answer = at.get(route, path="x")
            assert answer["success"] is False
            assert "not a git repository" in answer["error"]
            assert answer["exitCode"] == 128

    def test_no_git(self, at: Desk) -> None:
        at.open(repository(at, "gitless"))
        at.install()
        assert at.get("git-status") == {"success": False, "error": "git is not installed on this machine."}

    @pytest.mark.parametrize("path", ["../x", "/etc/passwd", "out/passwd", "sub/../../x", "a\0", '"../x"', ".."])
    def test_a_diff_of_what_is_outside_is_denied(self, at: Desk, path: str) -> None:
        root = at.place / "hostile-paths"
        if not root.exists():
            repository(at, root.name)
            (root / "out").symlink_to("/etc")
            at.open(root)
        answer = at.get("git-diff-file", path=path)
        assert answer["success"] is False
        assert "is outside the working directory" in answer["error"]

    def test_a_changed_link_is_compared_itself(self, at: Desk) -> None:
        root = repository(at, "links")
        (root / "link").symlink_to("a.txt")
        git(root, "add", ".")
        git(root, "commit", "-qm", "link")
        (root / "link").unlink()
        (root / "link").symlink_to("/etc/passwd")
        at.open(root)
        assert "+/etc/passwd" in at.diff("link")
        assert "root:" not in at.diff("link")

    def test_a_diff_of_ten_megabytes_is_too_much(self, at: Desk) -> None:
        root = repository(at, "large")
        (root / "a.txt").write_text("0123456789\n" * 1_000_000)
        at.open(root)
        answer = at.get("git-diff-file", path="a.txt")
        assert answer == {"success": False, "error": "git has more than 8 MiB to say."}
        assert at.counts(staged=False) == {"a.txt": "1000000/2"}


class TestHostile:
    def test_nothing_that_a_repository_names_is_run(self, at: Desk) -> None:
        root = repository(at, "hostile")
        mark = at.place / "ran"
        run = f": > {mark};"  # the shell's own words: the runner's PATH here has nothing but git
        trap = f"{run} while read -r line; do echo $line; done"
        settings = {
            "core.fsmonitor": run,
            "core.pager": run,
            "core.sshCommand": run,
            "core.editor": run,
            "core.hooksPath": str(root / "hooks"),
            "diff.external": run,
            "diff.evil.command": run,
            "diff.evil.textconv": trap,
            "filter.evil.clean": trap,
            "filter.evil.smudge": trap,
            "filter.evil.required": "true",
            "filter.a=b.clean": trap,
            "filter.a=b.required": "true",
            "filter.long.process": run,
            "pager.status": run,
            "color.ui": "always",
            "diff.noprefix": "true",
            "alias.status": f"!{run}",
        }
        for key, value in settings.items():
            git(root, "config", key, value)
        for name in ("post-index-change", "fsmonitor-watchman", "pre-commit"):
            (root / "hooks").mkdir(exist_ok=True)
            (root / "hooks" / name).write_text(f"#!/bin/sh\n{run}\n")
            (root / "hooks" / name).chmod(0o755)
        (root / ".gitattributes").write_text("a.txt filter=evil diff=evil\nsub/b.txt filter=a=b\nc filter=long\n")
        (root / "c").write_text("c\n")
        (root / "a.txt").write_text("one\nchanged\n")
        (root / "sub/b.txt").write_text("changed\n")
        for place in (root, at.runner.project):  # PATH has a dot
            (place / "git").write_text(f"#!/bin/sh\n{run}\n")
            (place / "git").chmod(0o755)
        mark.unlink(missing_ok=True)
        at.open(root)
        assert at.changes()["a.txt"] == ".M"
        assert at.counts(staged=False) == {"a.txt": "1/1", "sub/b.txt": "1/1"}
        assert "--- a/a.txt\n" in at.diff("a.txt")
        assert "-two\n+changed\n" in at.diff("a.txt")
        assert at.found("b.txt") == ["sub/b.txt"]
        at.install()
        assert at.get("git-status")["success"] is False, "no git but that of the repository"
        assert not mark.exists()

    def test_nothing_that_a_submodule_names_is_run(self, at: Desk) -> None:
        root, mark = repository(at, "outer"), at.place / "ran-below"
        repository(at, "inner-origin")
        origin = str(at.place / "inner-origin")
        git(root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", origin, "inner")
        git(root, "commit", "-qm", "submodule")
        inner = root / "inner"
        git(inner, "config", "core.fsmonitor", f": > {mark};")
        git(inner, "config", "filter.evil.clean", f": > {mark}; cat")
        (inner / ".gitattributes").write_text("* filter=evil\n")
        (inner / "a.txt").write_text("changed, of another length\n")
        mark.unlink(missing_ok=True)
        at.open(root)
        assert at.changes() == {}
        assert at.counts(staged=False) == {}
        assert at.diff("inner") == ""
        assert not mark.exists()

    def test_the_files_of_a_repository_cannot_be_elsewhere(self, at: Desk) -> None:
        root = repository(at, "elsewhere")
        private = at.make("private")
        (private / "key").write_text("secret")
        git(root, "config", "core.worktree", str(private))
        at.open(root)
        for route in ("git-status", "git-diff-numstat", "git-diff-file"):
            answer = at.get(route, path="key")
            assert answer == {
                "success": False,
                "error": "The files of this git repository are not in the session's directory.",
            }

    def test_what_git_gets_to_see(self, at: Desk) -> None:
        seen = at.place / "seen"
        at.open(at.make("watched"))
        at.install("env", git=f'#!/bin/sh\nenv > "{seen}"\nexit 1\n')
        assert at.get("git-status")["success"] is False
        text = seen.read_text()
        assert at.runner.token not in text
        assert "s3cret" not in text
        names = {line.partition("=")[0] for line in text.splitlines()}
        assert {name for name in names if name.startswith("GIT_")} == {
            *("GIT_TERMINAL_PROMPT", "GIT_NO_LAZY_FETCH", "GIT_ALLOW_PROTOCOL")
        }
        assert not {name for name in names if name.startswith("HAPI_")}


class TestSlow:
    def test_a_git_that_hangs_is_ended_with_its_children_and_stops_nobody(self, at: Desk) -> None:
        """Ten at once: more than may run at a time."""
        root = at.make("slow")
        (root / "a").write_text("a")
        pids = at.place / "pids"
        pids.mkdir()
        at.open(root)
        at.install("sleep", git=f'#!/bin/sh\nsleep 600 &\n: > "{pids}/$!"\n: > "{pids}/$$"\nsleep 600\n')
        answers: list[dict[str, object]] = []
        askers = [threading.Thread(target=lambda: answers.append(at.get("git-status"))) for _ in range(10)]
        for asker in askers:
            asker.start()
        until(lambda: len(list(pids.iterdir())) >= 16, 10, "eight hang")
        begun = time.monotonic()
        assert at.read("a") == b"a"
        assert "a" in at.listed()
        assert at.drop(at.upload("x", b"x")["path"])["success"]
        at.web.send(at.session, "hello")
        assert time.monotonic() - begun < 4, "hung programs keep nobody waiting"
        for asker in askers:
            asker.join(25)
        errors = sorted(str(answer["error"]) for answer in answers)
        late, refused = "git took longer than 10 s.", "Too many requests for git and search at once; try again."
        assert errors == [refused] * 2 + [late] * 8
        assert len(list(pids.iterdir())) == 16
        alive = [int(path.name) for path in pids.iterdir() if psutil.pid_exists(int(path.name))]
        until(lambda: not any(map(running, alive)), 5, "git and its children are gone")


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
