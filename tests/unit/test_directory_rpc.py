"""A session's files, search, git and uploads: the parts without a hub."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import threading
import tracemalloc
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import files, git, names, places, programs, search, uploads
from hapi.workers.hub.confined import Outside, Unusable, open_inside, resolve
from tests.conftest import skip_or_fail
from tests.support.damage import small_disk
from tests.support.wait import until_async

file_names = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, 47}).map(os.fsdecode)
texts = st.text(max_size=60)


# ------------------------------------------------------------------------------------------------------------- names


@given(file_names)
def test_every_name_is_shown_as_a_line_of_text_that_leads_back_to_it(name):
    shown = names.shown(name)
    assert shown.encode()
    assert "\n" not in shown
    assert shown == shown.strip()
    assert name == shown or names.unquote(shown) == name
    assert name in names.spellings(f"dir/{shown}")[-1].removeprefix("dir/")


@given(st.lists(file_names, min_size=2, max_size=2, unique=True))
def test_two_names_are_not_shown_as_one(pair):
    assert names.shown(pair[0]) != names.shown(pair[1])


@given(texts)
def test_any_text_is_a_path_to_try(text):
    assert names.spellings(text)[0] == text


def test_what_is_quoted_is_read_as_git_writes_it(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    odd = ["caf\udce9", "two\nlines", 'a"b', "back\\slash", "tab\t", "bell\a\b\v\f\r", "ü", "\x7f", "\x01"]
    for name in odd:
        (tmp_path / name).touch()
    command = ["git", "-C", str(tmp_path), "ls-files", "--others"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert {names.unquote(line) for line in printed} == set(odd)


@pytest.mark.parametrize("text", ['"', '"a', 'a"', '"a"b"', '"\\q"', '"\\9"', '"\\400"', "", "a"])
def test_what_is_not_quoted_stays_as_it_is(text):
    assert names.unquote(text) is None


# ------------------------------------------------------------------------------------------------------- confinement


@given(texts)
def test_no_text_leads_out(tmp_path_factory, text):
    root = str(tmp_path_factory.getbasetemp())
    try:
        real = resolve(root, text)
    except Outside:
        return
    assert real == root or real.startswith(root + "/")


def test_a_directory_that_is_swapped_for_a_link_meanwhile_is_no_way_out(tmp_path):
    """Seen to fail: with a step that follows links (without O_NOFOLLOW)."""
    root, secret = tmp_path / "root", tmp_path / "secret"
    for directory, word in ((root / "sub", "mine"), (secret, "secret")):
        directory.mkdir(parents=True)
        (directory / "file").write_text(word)
    (root / "link").symlink_to(secret)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for one, other in (("sub", "aside"), ("link", "sub"), ("sub", "link"), ("aside", "sub")):
                os.rename(root / one, root / other)

    swapper = threading.Thread(target=swap)
    swapper.start()
    read: set[bytes] = set()
    refused = 0
    try:
        for _ in range(4000):
            try:
                read.add(base64.b64decode(files.read_file(str(root), "sub/file")["content"]))
            except (Outside, Unusable):
                refused += 1
    finally:
        done.set()
        swapper.join()
    assert read == {b"mine"}
    assert refused


@pytest.mark.parametrize("path", ["loop/../out/secret", "loop/../out", "loop/../loop/../out/secret"])
def test_a_link_behind_a_loop_is_no_way_out(tmp_path, path):
    """At a loop `realpath` gives up, and only tidies the rest. Seen to fail: without the second `realpath`."""
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    out.mkdir()
    (out / "secret").write_text("s3cret")
    (root / "loop").symlink_to("loop")
    (root / "out").symlink_to(out)
    assert files.stat_files(str(root), [path])["entries"] == [{"path": path}]
    for act in (resolve, files.read_file, files.list_directory):
        with pytest.raises(Outside):
            act(str(root), path)


def test_a_session_at_the_root_of_all(tmp_path):
    (tmp_path / "a").write_text("a")
    assert files.read_file("/", str(tmp_path / "a"))["size"] == 1
    os.close(open_inside("/", "/"))


def test_a_directory_that_is_gone_says_so(tmp_path):
    with pytest.raises(Unusable, match="No such file"):
        files.list_directory(str(tmp_path / "gone"), "")


# ------------------------------------------------------------------------------------------------------------- files


def test_a_listing_and_a_look_at_many_are_bounded(tmp_path):
    for number in range(files.MAX_ENTRIES + 1):
        (tmp_path / f"{number:05}").touch()
    entries = files.list_directory(str(tmp_path), "")["entries"]
    assert len(entries) == files.MAX_ENTRIES
    assert entries[0]["name"] == "00000"
    looked = files.stat_files(str(tmp_path), ["00001", "../x", "none"] + ["00002"] * 600)["entries"]
    assert len(looked) == files.MAX_STATS
    assert [sorted(entry) for entry in looked[:3]] == [["modified", "path", "size"], ["path"], ["path"]]


def test_a_directory_of_any_size_takes_the_memory_of_its_first_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_ENTRIES", 10)
    for number in range(3000):
        (tmp_path / f"{number:04}").touch()
    tracemalloc.start()
    try:
        found = files.list_directory(str(tmp_path), "")["entries"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [entry["name"] for entry in found] == [f"{number:04}" for number in range(10)]
    assert peak < 500_000


def test_a_file_that_grows_while_it_is_read_is_bounded(tmp_path, monkeypatch):
    (tmp_path / "log").write_bytes(b"x" * 300_000)
    monkeypatch.setattr(files, "MAX_READ", 200_000)
    fd = os.open(tmp_path / "log", os.O_RDONLY)
    assert files._read(fd, 10) is None, "its size was ten when it was looked at"
    os.close(fd)
    with pytest.raises(Unusable, match="files of up to"):
        files.read_file(str(tmp_path), "log")


# ------------------------------------------------------------------------------------------------------------ search


@given(texts, texts)
def test_part_of_a_path_is_found_in_any_case(before, wanted):
    if not {"*", "?"} & set(wanted):
        assert search.matcher(wanted)(f"{before}{wanted.strip().upper()}") or wanted.upper().lower() != wanted.lower()


def test_a_pattern_does_not_backtrack_without_end():
    assert not search.matcher("*a" * 40 + "b")("a" * 4000)


@pytest.mark.parametrize(
    ("path", "shown"), [("a/b", True), (".git/x", False), ("a/.b", False), ("/a", False), ("", False)]
)
def test_what_a_search_shows(path, shown):
    assert search.is_shown(path) is shown


def test_what_the_hub_would_have_rg_do_is_not_looked_at(tmp_path):
    with pytest.raises(HapiError, match="Only files are searched"):
        search.Search(str(tmp_path), search.SearchParams())


def test_a_walk_is_bounded(tmp_path, monkeypatch):
    for number in range(30):
        (tmp_path / str(number)).touch()
    monkeypatch.setattr(search, "MAX_WALKED", 20)
    with pytest.raises(HapiError, match="too many files"):
        list(search.walk(str(tmp_path)))


# --------------------------------------------------------------------------------------------------------------- git


def test_filters_of_the_repository_are_undone_and_those_of_the_user_stay():
    listing = "global\0filter.lfs.clean\0local\0filter.a=b.clean\0worktree\0filter.x.required\0system\0filter.y.clean\0"
    assert git.overrides(listing) == {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "filter.a=b.clean",
        "GIT_CONFIG_VALUE_0": "",
        "GIT_CONFIG_KEY_1": "filter.x.required",
        "GIT_CONFIG_VALUE_1": "false",
    }
    assert git.overrides("") == {"GIT_CONFIG_COUNT": "0"}


@given(texts)
def test_no_text_is_a_file_outside_for_git(tmp_path_factory, text):
    root = str(tmp_path_factory.getbasetemp())
    try:
        found = git.file_in(root, root, text)
    except (Outside, ValueError):
        return
    assert not found.startswith(("/", "../"))
    assert found != ".."


# ----------------------------------------------------------------------------------------------------------- uploads


@given(texts)
def test_a_name_is_made_harmless(text):
    name = uploads.safe_name(text)
    assert name
    assert not name.startswith((".", "-"))
    assert not set(name) & set("/\\\0\n\t '\"`$;&|<>*?@")
    assert len(name.encode()) <= 200
    assert ".." not in name


@given(texts)
def test_only_a_name_right_below_is_inside(text):
    assert uploads.name_inside("/u", f"/u/{text}") in {None, text}
    if "/" in text:
        assert uploads.name_inside("/u", f"/u/{text}") is None
    assert uploads.name_inside("/u", text) is None or text.startswith("/u/")


def encoded(size: int) -> uploads.UploadParams:
    return uploads.UploadParams("x", base64.b64encode(bytes(size)).decode())


def test_fifty_megabytes_are_kept_and_one_byte_more_is_not(tmp_path):
    directory = str(tmp_path / "uploads")
    path = uploads.store(directory, encoded(uploads.MAX_UPLOAD))["path"]
    assert os.path.getsize(path) == uploads.MAX_UPLOAD
    with pytest.raises(HapiError, match="up to 50 MiB"):
        uploads.store(directory, encoded(uploads.MAX_UPLOAD + 1))
    assert len(os.listdir(directory)) == 1


def test_what_a_session_keeps_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_KEPT_FILES", 2)
    directory = str(tmp_path / "uploads")
    first = uploads.store(directory, encoded(0))["path"]
    uploads.store(directory, encoded(1))
    with pytest.raises(HapiError, match="delete some"):
        uploads.store(directory, encoded(1))
    uploads.delete(directory, uploads.DeleteParams(first))
    uploads.store(directory, encoded(1))


def test_on_a_full_disk_nothing_half_is_left(scratch):
    with small_disk(scratch / "disk") as disk:
        if disk is None:
            skip_or_fail("mount", "only root may mount a small disk")
        directory = disk.path / "uploads"
        path = Path(uploads.store(str(directory), encoded(1000))["path"])
        with pytest.raises(HapiError, match="the disk is full") as caught:
            uploads.store(str(directory), encoded(8 << 20))
        assert caught.value.code is ErrorCode.DISK
        assert list(directory.iterdir()) == [path]


def test_a_session_whose_record_is_gone_keeps_nothing(tmp_path):
    with pytest.raises(HapiError, match="not kept"):
        uploads.store(str(tmp_path / "gone/uploads"), encoded(1))


# ------------------------------------------------------------------------------------------------ programs and places


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_program_is_not_looked_for_where_we_happen_to_be(here, monkeypatch):
    script(here / "git", "exit 0")
    monkeypatch.setenv("PATH", ".::bin")
    assert programs.find("git") is None
    assert programs.environment({})["PATH"] == ""
    monkeypatch.setenv("PATH", f".:{here}")
    assert programs.find("git") == str(here / "git")


async def test_too_much_to_say_ends_it(here):
    with pytest.raises(HapiError, match="more than 1 MiB"):
        await programs.run([script(here / "loud", "exec yes")], str(here), {}, 1 << 20)


async def test_complaints_are_cut_and_keep_nobody_waiting(here):
    ran = await programs.run([script(here / "loud", "head -c 9000000 /dev/zero >&2; echo done; exit 3")], str(here), {})
    assert (ran.code, ran.out, len(ran.err)) == (3, b"done\n", programs.MAX_COMPLAINT)


async def test_a_cancelled_program_is_ended_with_its_children(here):
    """Seen to fail: with SIGKILL for the program alone."""
    program = script(here / "slow", f"sleep 600 &\necho $! $$ > {here}/pids.new\nmv {here}/pids.new {here}/pids\nwait")
    work = asyncio.create_task(programs.run([program], str(here), {}))
    await until_async((here / "pids").exists, 10, "it runs")
    pids = [int(word) for word in (here / "pids").read_text().split()]
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await until_async(lambda: not any(map(runs, pids)), 5, "both are gone")


async def test_where_there_is_no_directory_it_is_not_the_program_that_is_missing(tmp_path):
    with pytest.raises(HapiError, match="gone: No such file or directory") as caught:
        await programs.run(["/bin/sh", "-c", "true"], str(tmp_path / "gone"), {})
    assert caught.value.code is ErrorCode.BAD_DIRECTORY


async def test_a_program_that_cannot_be_run(here):
    with pytest.raises(HapiError) as caught:
        await programs.run([str(here / "none")], str(here), {})
    assert caught.value.code is ErrorCode.MISSING_TOOL


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_who_finds_no_place_is_told_so_and_a_late_thread_keeps_its_own(monkeypatch):
    monkeypatch.setattr(places, "PATIENCE_S", 0.1)
    monkeypatch.setattr(places, "THREAD_TIMEOUT_S", 0.1)
    few, go = places.Places(1, "things"), threading.Event()
    with pytest.raises(HapiError, match="did not answer"):
        await few.run(go.wait, 10)
    with pytest.raises(HapiError, match="Too many requests for things"):
        await few.run(int, "1")
    go.set()
    monkeypatch.setattr(places, "PATIENCE_S", 10)
    assert await few.run(int, "1") == 1


async def test_a_failure_in_a_thread_gives_its_place_back():
    few = places.Places(1, "things")
    for _ in range(3):
        with pytest.raises(ValueError, match="invalid literal"):
            await few.run(int, "x")
