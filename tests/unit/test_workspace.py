"""Where sessions may run: roots that links and dots do not open, and worktrees with real git."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from hapi import procs, workspace
from hapi.errors import ErrorCode, HapiError
from hapi.workspace import confine, create_worktree, prepare_directory, remove_unused_worktree, worktree_name


@pytest.fixture
def place(tmp_path):
    """root/in, root-sibling, outside, and links across."""
    base = Path(os.path.realpath(tmp_path))
    for name in ("root/in", "root-sibling", "outside/deep"):
        (base / name).mkdir(parents=True)
    (base / "root/out").symlink_to(base / "outside")
    (base / "root/inner").symlink_to(base / "root/in")
    (base / "root/up").symlink_to("..")
    (base / "root/file").write_text("x")
    (base / "root/loop").symlink_to("loop")
    (base / "alias").symlink_to(base / "root")
    return base


INSIDE = {
    "root": "root",
    "root/": "root",
    "root/in": "root/in",
    "root/../root/in": "root/in",
    "root/inner": "root/in",
    "root/up/root": "root",
    "alias/in": "root/in",
    "root/new/er": "root/new/er",
    "root/file": "root/file",
}
OUTSIDE = ("", "outside", "root-sibling", "root/..", "root/../outside", "root/out", "root/out/deep", "root/out/new",
           "root/up", "root/in/../../outside", "roo", "root/new/../../outside",
           "root/loop/../out", "root/loop/../out/new")  # fmt: skip


@pytest.mark.parametrize("given", INSIDE)
@pytest.mark.parametrize("root", ["root", "alias", "root/", "root/../root"])
def test_inside(place, given, root):
    assert confine(f"{place}/{given}", [f"{place}/nowhere", f"{place}/{root}"]) == place / INSIDE[given]


@pytest.mark.parametrize("given", OUTSIDE)
def test_outside(place, given):
    with pytest.raises(HapiError) as caught:
        confine(f"{place}/{given}", [f"{place}/root"])
    assert caught.value.code is ErrorCode.OUTSIDE_WORKSPACE_ROOTS
    assert f"{place}/root" in caught.value.hint
    assert confine(f"{place}/{given}", []) == Path(os.path.realpath(place / given))


@pytest.mark.parametrize("root", ["/"])
def test_the_whole_machine_is_a_root_too(place, root):
    assert confine(place / "outside", [root]) == place / "outside"


@pytest.mark.parametrize("given", ["root/in", "root/inner", "alias/in"])
def test_a_directory_that_is_there(place, given):
    assert prepare_directory(f"{place}/{given}", [f"{place}/root"], create=False) == place / "root/in"


def test_a_directory_is_made_if_it_may(place):
    wanted = place / "root/a/b"
    with pytest.raises(HapiError) as caught:
        prepare_directory(str(wanted), [], create=False)
    assert caught.value.code is ErrorCode.DIRECTORY_APPROVAL_REQUIRED
    assert not wanted.exists()
    assert prepare_directory(str(wanted), [f"{place}/root"], create=True) == wanted
    assert wanted.is_dir()


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("relative", "bad_directory"),
        ("", "bad_directory"),
        ("~/x", "bad_directory"),
        ("{place}/root/file", "bad_directory"),
        ("{place}/root/file/below", "bad_directory"),
        ("{place}/root/loop", "bad_directory"),
        ("{place}/root/" + "x" * 300, "bad_directory"),
        ("{place}/root/a\0b", "bad_directory"),
        ("/proc/nowhere", "outside_workspace_roots"),
        ("{place}/outside/new", "outside_workspace_roots"),
        ("{place}/root/out/new", "outside_workspace_roots"),
    ],
)
def test_directories_that_will_not_do(place, given, code):
    with pytest.raises(HapiError) as caught:
        prepare_directory(given.format(place=place), [f"{place}/root"], create=True)
    assert caught.value.code == code
    assert not (place / "outside/new").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may enter everything")
def test_a_directory_that_may_not_be_entered(place):
    (place / "root/in").chmod(0)
    with pytest.raises(HapiError) as caught:
        prepare_directory(str(place / "root/in"), [], create=True)
    assert caught.value.code is ErrorCode.BAD_DIRECTORY


def test_a_directory_that_cannot_be_made():
    with pytest.raises(HapiError) as caught:
        prepare_directory("/proc/nowhere/x", [], create=True)
    assert caught.value.code is ErrorCode.BAD_DIRECTORY


# --------------------------------------------------------------------------------------------------------- worktrees


def git(directory, *arguments):
    command = ["git", "-C", str(directory), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit."""
    path = Path(os.path.realpath(tmp_path)) / "proj"
    (path / "sub").mkdir(parents=True)
    git(path, "init", "-q", "-b", "main")
    (path / "sub" / "f").write_text("x")
    git(path, "add", ".")
    git(path, "commit", "-q", "-m", "one")
    return path


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("fix", "fix"),
        ("Fix The Bug!", "fix-the-bug"),
        ("--a//b--", "a-b"),
        ("../../etc", "etc"),
        ("ÄÖ-x", "x"),
        ("a.b_c", "a-b-c"),
    ],
)
def test_names(wanted, name):
    assert worktree_name(wanted) == name


@pytest.mark.parametrize("wanted", ["", "---", "../..", "ÄÖÜ"])
def test_a_name_of_nothing_is_made_up(wanted):
    assert re.fullmatch(r"\d{4}-[0-9a-f]{4}", worktree_name(wanted))


@pytest.mark.parametrize("below", [".", "sub"])
def test_a_worktree_beside_the_repository(repository, below):
    made = create_worktree(repository / below, "Fix it")
    assert made.worktree_path == str(repository.parent / "proj-worktrees" / "fix-it")
    assert (made.base_path, made.branch, made.name) == (str(repository), "hapi-fix-it", "fix-it")
    assert (Path(made.worktree_path) / "sub" / "f").read_text() == "x"
    assert git(made.worktree_path, "branch", "--show-current") == "hapi-fix-it"
    assert git(repository, "branch", "--show-current") == "main"


@pytest.mark.parametrize("taken", ["directory", "branch"])
def test_a_name_that_is_taken_gets_a_suffix(repository, taken):
    if taken == "directory":
        (repository.parent / "proj-worktrees" / "fix").mkdir(parents=True)
    else:
        git(repository, "branch", "hapi-fix")
    made = create_worktree(repository, "fix")
    assert re.fullmatch(r"fix-[0-9a-f]{4}", made.name)
    assert git(made.worktree_path, "branch", "--show-current") == f"hapi-{made.name}"


def test_two_of_one_name(repository):
    first, second = (create_worktree(repository, "fix") for _ in range(2))
    assert first.worktree_path != second.worktree_path


def test_gits_own_variables_lead_nowhere(repository, monkeypatch, tmp_path):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    assert create_worktree(repository, "fix").base_path == str(repository)


@pytest.mark.parametrize("kind", ["plain", "missing", "file", "no commit"])
def test_what_cannot_have_a_worktree(tmp_path, kind):
    path = Path(os.path.realpath(tmp_path)) / "x"
    if kind == "file":
        path.write_text("x")
    elif kind != "missing":
        path.mkdir()
    if kind == "no commit":
        git(path, "init", "-q")
    with pytest.raises(HapiError) as caught:
        create_worktree(path, "fix")
    assert caught.value.code is ErrorCode.WORKTREE_FAILED
    assert not (path.parent / "x-worktrees" / "fix").exists()


def test_without_git(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HapiError) as caught:
        create_worktree(repository, "fix")
    assert caught.value.code is ErrorCode.MISSING_TOOL


def test_git_that_hangs(repository, monkeypatch, tmp_path):
    (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(workspace, "GIT_TIMEOUT_S", 0.2)
    with pytest.raises(HapiError, match=r"longer than 0\.2 s") as caught:
        create_worktree(repository, "fix")
    assert caught.value.code is ErrorCode.WORKTREE_FAILED


def test_an_unused_worktree_is_removed(repository):
    made = create_worktree(repository, "fix")
    assert remove_unused_worktree(made) is True
    assert not Path(made.worktree_path).exists()
    assert "hapi-fix" in git(repository, "branch")
    assert remove_unused_worktree(made) is True  # gone is gone


HOOK_FAILS = "#!/bin/sh\necho no >&2; exit 1\n"
HOOK_HANGS = "#!/bin/sh\ntrap '' TERM; sleep 60\n"
HOOK_WORKS_AND_FAILS = "#!/bin/sh\necho work > work; exit 1\n"


@pytest.mark.parametrize("hook", [HOOK_FAILS, HOOK_HANGS])
def test_a_hook_that_fails_leaves_no_worktree_and_no_process(repository, monkeypatch, hook):
    """git had made the worktree by then, and it stayed; a hook that hung went on after git was killed."""
    monkeypatch.setattr(workspace, "GIT_TIMEOUT_S", 1.0)
    _hook(repository, hook)
    with pytest.raises(HapiError) as caught:
        create_worktree(repository, "fix")
    assert caught.value.code is ErrorCode.WORKTREE_FAILED
    assert not (repository.parent / f"{repository.name}-worktrees" / "fix").exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert procs.descendants(os.getpid()) == []


def test_what_a_hook_that_fails_has_made_is_kept_and_said(repository):
    _hook(repository, HOOK_WORKS_AND_FAILS)
    with pytest.raises(HapiError) as caught:
        create_worktree(repository, "fix")
    place = repository.parent / f"{repository.name}-worktrees" / "fix"
    assert (place / "work").read_text() == "work\n"
    assert str(place) in caught.value.hint


def _hook(repository, script):
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(script)
    hook.chmod(0o755)


@pytest.mark.parametrize("change", ["new file", "changed file"])
def test_trap_43_work_is_never_removed(repository, change):
    made = create_worktree(repository, "fix")
    path = Path(made.worktree_path) / ("new" if change == "new file" else "sub/f")
    path.write_text("work")
    assert remove_unused_worktree(made) is False
    assert path.read_text() == "work"
