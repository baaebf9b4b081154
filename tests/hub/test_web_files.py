"""A session's files through the official hub's REST API: reading, listing, searching."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import skip_or_fail
from tests.support.desk import Desk, desk
from tests.support.git import git
from tests.support.hub import OfficialHub, WebError, unique

pytestmark = pytest.mark.hub

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
AWKWARD = {
    "with space.txt": "with space.txt",
    "größe.md": "größe.md",
    'say "hi".txt': 'say "hi".txt',
    "back\\slash": "back\\slash",
    "-rf": "-rf",
    "two\nlines": '"two\\nlines"',
    "tab\there": '"tab\\there"',
    " blanks ": '" blanks "',
    "caf\udce9": '"caf\\351"',
    '"quoted"': '"\\"quoted\\""',
    "[a]{b}*?": "[a]{b}*?",
    "%41;$(id)": "%41;$(id)",
    "😀.txt": "😀.txt",
}


@pytest.fixture(scope="module")
def at(shared_hub: OfficialHub) -> Iterator[Desk]:
    """A desk at a project with a bit of everything, and a secret beside it."""
    with desk(shared_hub, unique("files")) as found:
        root = found.make("work")
        (found.place / "secret").write_text("secret")
        fill(root)
        yield found.open(root)


@pytest.fixture
def root(at: Desk) -> Path:
    return at.place / "work"


def fill(root: Path) -> None:
    for name in ("sub/deep", "names", "node_modules/pkg", ".hidden"):
        (root / name).mkdir(parents=True)
    for name in ("a.txt", "sub/b.txt", "sub/deep/c.txt", "node_modules/pkg/index.txt", ".hidden/d.txt", ".e.txt"):
        (root / name).write_text(name)
    for name in AWKWARD:
        (root / "names" / name).write_text(name.strip(), errors="surrogateescape")
    (root / "empty").touch()
    (root / "bytes").write_bytes(bytes(range(256)) * 5)
    (root / "pixel.png").write_bytes(PNG)
    links = {
        "link-out": "../secret",
        "link-root": "/",
        "link-in": "a.txt",
        "link-sub": "sub",
        "loop": "loop",
        "ring": "sub/ring",
        "sub/ring": "../ring",
        "here": ".",
        "dangling": "nowhere",
        "link-zero": "/dev/zero",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))


class TestReading:
    def test_text_bytes_images_and_nothing(self, at: Desk, root: Path) -> None:
        assert at.read("a.txt") == b"a.txt"
        assert at.read("empty") == b""
        assert at.read("bytes") == bytes(range(256)) * 5
        assert at.read("pixel.png") == PNG
        answer = at.get("file", path="a.txt")
        assert answer["modified"] == (root / "a.txt").stat().st_mtime_ns // 1_000_000

    def test_every_way_to_spell_a_place_inside(self, at: Desk, root: Path) -> None:
        for path in (str(root / "sub/b.txt"), "./sub//b.txt", "sub/deep/../b.txt", "link-sub/b.txt", "here/sub/b.txt"):
            assert at.read(path) == b"sub/b.txt"
        assert at.read("link-in") == b"a.txt"

    @pytest.mark.parametrize(
        "path",
        [
            "..",
            "../secret",
            "sub/../../secret",
            "here/../../secret",
            "link-sub/../../secret",
            "/etc/passwd",
            "/",
            "//etc/passwd",
            "link-out",
            "link-root/etc/passwd",
            "link-zero",
            "link-root",
            "../work2/x",
            '"../secret"',
            '"\\056\\056/secret"',
            "a.txt\0",
            "\0",
            "loop",
            "ring",
            "sub/ring",
            "/proc/self/environ",
        ],
    )
    def test_what_is_outside_is_denied_in_the_hubs_words(self, at: Desk, path: str) -> None:
        assert at.denied(path), at.get("file", path=path)

    def test_the_prefix_of_a_directorys_name_is_not_the_directory(self, at: Desk, root: Path) -> None:
        other = Path(f"{root}2")
        other.mkdir()
        (other / "x").write_text("secret")
        try:
            assert at.denied(str(other / "x"))
        finally:
            shutil.rmtree(other)

    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("fifo", "neither a file nor a directory"),
            ("socket", "neither a file nor a directory"),
            ("sub", "a directory"),
            ("missing", "No such file"),
            ("a.txt/x", "No such file"),
            ("dangling", "No such file"),
            ("x" * 300, "name too long"),
            ("x/" * 3000, "No such file"),
        ],
    )
    def test_what_cannot_be_read_says_why(self, at: Desk, path: str, why: str) -> None:
        answer = at.get("file", path=path)
        assert answer["success"] is False
        assert why in answer["error"]

    def test_a_fifo_is_not_even_opened(self, at: Desk, root: Path) -> None:
        """A writer who waits for a reader must not be met by one that looks and goes."""
        writer = threading.Thread(target=lambda: os.close(os.open(root / "fifo", os.O_WRONLY)), daemon=True)
        writer.start()
        at.get("file", path="fifo")
        at.listed()
        at.found("fifo")
        waited = writer.is_alive()
        os.close(os.open(root / "fifo", os.O_RDONLY | os.O_NONBLOCK))
        writer.join(10)
        assert waited
        assert not writer.is_alive()

    def test_half_a_character_from_javascript(self, at: Desk) -> None:
        assert at.get("file", path="\ud83d")["success"] is False

    def test_no_path_is_refused_by_the_hub(self, at: Desk) -> None:
        with pytest.raises(WebError) as caught:
            at.get("file", path="")
        assert caught.value.status == 400

    def test_thirty_megabytes_pass_and_more_than_fits_is_told(self, at: Desk, root: Path) -> None:
        content = os.urandom(1 << 20) * 30
        (root / "large").write_bytes(content)
        with (root / "huge").open("wb") as file:
            file.truncate(33 << 20)
        try:
            assert at.read("large") == content
            answer = at.get("file", path="huge")
            assert answer == {
                "success": False,
                "error": "huge: It has 33.0 MiB; files of up to 32 MiB can be shown here.",
            }
        finally:
            (root / "large").unlink()
            (root / "huge").unlink()

    def test_a_directory_that_becomes_a_link_is_no_way_out(self, at: Desk, root: Path) -> None:
        turned = root / "turned"
        turned.mkdir()
        (turned / "secret").write_text("mine")
        assert at.read("turned/secret") == b"mine"
        shutil.rmtree(turned)
        turned.symlink_to(at.place)
        try:
            assert at.denied("turned/secret")
            assert at.get("directory", path="turned")["success"] is False
        finally:
            turned.unlink()


class TestListing:
    def test_directories_first_and_links_are_what_they_lead_to(self, at: Desk) -> None:
        found = at.listed()
        kinds = list(found.values())
        assert kinds == sorted(kinds, key=lambda kind: kind != "directory")
        assert {name for name, kind in found.items() if kind == "directory"} == {
            *("sub", "names", "node_modules", ".hidden", "link-sub", "here")
        }
        for name in ("link-out", "link-root", "loop", "ring", "dangling", "link-zero", "fifo", "socket"):
            assert found[name] == "other"
        assert found["a.txt"] == found["link-in"] == "file"

    def test_sizes_and_times(self, at: Desk, root: Path) -> None:
        entries = {entry["name"]: entry for entry in at.get("directory")["entries"]}
        status = (root / "bytes").stat()
        assert entries["bytes"] == {
            "name": "bytes",
            "type": "file",
            "size": 1280,
            "modified": status.st_mtime_ns // 1_000_000,
        }
        assert "size" not in entries["link-out"], "nothing is told of what is outside"

    def test_below_and_by_whole_path(self, at: Desk, root: Path) -> None:
        assert at.listed("sub") == at.listed(str(root / "sub")) == at.listed("link-sub")
        assert list(at.listed("sub")) == ["deep", "b.txt", "ring"]

    @pytest.mark.parametrize("path", ["..", "/", "/etc", "link-root", "link-root/etc", "sub/../..", "\0", "loop"])
    def test_what_is_outside_is_denied(self, at: Desk, path: str) -> None:
        answer = at.get("directory", path=path)
        assert answer == {
            "success": False,
            "error": f"Access denied: Path '{path}' is outside the working directory",
        }

    @pytest.mark.parametrize(("path", "why"), [("a.txt", "not a directory"), ("none", "No such"), ("fifo", "neither")])
    def test_what_is_no_directory_says_so(self, at: Desk, path: str, why: str) -> None:
        answer = at.get("directory", path=path)
        assert answer["success"] is False
        assert why in answer["error"]


class TestNames:
    def test_every_name_is_listed_found_and_opened(self, at: Desk) -> None:
        at.install("git")
        listed = at.listed("names")
        assert set(listed) == set(AWKWARD.values())
        for name, shown in AWKWARD.items():
            content = os.fsencode(name.strip())
            assert at.read(f"names/{shown}") == content
        found = at.found("names/", 500)
        assert len(found) == len(AWKWARD)
        assert {at.read(path) for path in found} == {os.fsencode(name.strip()) for name in AWKWARD}


@pytest.fixture(params=[("rg", "git"), ("git",), ()], ids=["rg", "git", "walk"])
def searcher(request: pytest.FixtureRequest, at: Desk) -> tuple[str, ...]:
    """The programs that the runner finds."""
    for name in request.param:
        if shutil.which(name) is None:
            skip_or_fail(name, f"{name} is not installed")
    at.install(*request.param)
    programs: tuple[str, ...] = request.param
    return programs


@pytest.fixture(scope="class")
def repository(at: Desk) -> Iterator[Path]:
    """A repository with all that a search must not show; the desk is at it."""
    before = at.session
    root = at.make("repository")
    git(root, "init", "-q")
    (root / ".gitignore").write_text("node_modules\n")
    for name in ("src/Main.py", "src/main_test.py", "src-old/main.c", "README.md", "docs/a b.md", "b/x", "a/x"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    git(root, "add", ".")
    for name in ("untracked main.txt", "node_modules/main.js", ".github/main.yml"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(name)
    (root / "gone-main").write_text("x")
    git(root, "add", "gone-main")
    (root / "gone-main").unlink()
    (root / "main-link").symlink_to("README.md")
    (root / "main-loop").symlink_to(".")
    at.open(root)
    yield root
    at.session = before


class TestSearch:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("main", ["src/Main.py", "src/main_test.py", "src-old/main.c", "untracked main.txt"]),
            ("MAIN.P", ["src/Main.py"]),
            ("src/m", ["src/Main.py", "src/main_test.py"]),
            ("a b", ["docs/a b.md"]),
            ("*.md", ["README.md", "docs/a b.md"]),
            ("src*t?st*", ["src/main_test.py"]),
            ("[m]ain", []),
            ("--version", []),
            ("x", ["a/x", "b/x", "untracked main.txt"]),
            ("../", []),
            ("passwd", []),
        ],
    )
    def test_the_same_whoever_lists(
        self, at: Desk, repository: Path, searcher: tuple[str, ...], query: str, expected: list[str]
    ) -> None:
        assert at.found(query) == expected

    def test_all_files_and_the_limit(self, at: Desk, repository: Path, searcher: tuple[str, ...]) -> None:
        everything = at.found("")
        assert everything == sorted(everything, key=lambda path: path.split("/"))
        assert len(everything) == 8
        assert at.found("", 3) == everything[:3]
        entry = next(file for file in at.get("files", query="README")["files"])
        assert entry["size"] == 9
        assert entry["modified"] > 0

    @pytest.mark.parametrize("limit", [0, 501, "x"])
    def test_a_bad_limit_is_refused_by_the_hub(self, at: Desk, repository: Path, limit: Any) -> None:
        with pytest.raises(WebError) as caught:
            at.get("files", query="a", limit=limit)
        assert caught.value.status == 400

    def test_a_question_that_is_too_long(self, at: Desk, repository: Path) -> None:
        assert "1000 characters" in at.get("files", query="x" * 1001)["error"]

    def test_a_program_that_lies_leads_nowhere(self, at: Desk, repository: Path) -> None:
        """What rg prints is taken for names, not for truth."""
        at.install("git", rg="#!/bin/sh\nprintf '../secret\\0/etc/passwd\\0README.md\\0none\\0'\n")
        assert at.found("") == ["README.md"]
