"""What a handoff touches: the files that are installed, the pre-flight's process, the lock and the exec."""

import os
import subprocess
import sys

import pytest

from hapi import config, files, preflight
from hapi.broker.__main__ import _become_installed
from hapi.broker.app import Start
from hapi.files import FileLock
from hapi.handoff import Build
from hapi.installed import Installed

TWO = Build("2", "b")


# -------------------------------------------------------------------------------------------------- what is installed


@pytest.fixture
def package(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "__init__.py").write_text('"""x."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "part" / "code.py").write_text("a = 1\n")
    return tmp_path


def test_content_counts_and_time_does_not(package):
    installed = Installed(str(package))
    first = installed.look()
    assert first.version == "1.2.3"
    os.utime(package / "part" / "code.py", ns=(1, 1))
    (package / "part" / "__pycache__").mkdir()
    (package / "part" / "__pycache__" / "code.py").write_text("of no account")
    (package / "notes.txt").write_text("neither")
    assert installed.look() == first == Installed(str(package)).look()
    (package / "part" / "code.py").write_text("a = 2\n")
    second = installed.look()
    assert (second.version, second.digest == first.digest) == ("1.2.3", False)
    (package / "part" / "code.py").write_text("a = 1\n")
    assert installed.look() == first


def test_a_file_that_comes_goes_or_moves_is_another_content(package):
    installed = Installed(str(package))
    digests = {installed.look().digest}
    (package / "part" / "more.py").touch()
    digests.add(installed.look().digest)
    (package / "part" / "more.py").rename(package / "more.py")
    digests.add(installed.look().digest)
    assert len(digests) == 3


def test_contents_are_read_once(package, monkeypatch):
    import hapi.installed

    seen = []
    real = hapi.installed._read
    monkeypatch.setattr(hapi.installed, "_read", lambda path: seen.append(os.path.basename(path)) or real(path))
    installed = Installed(str(package))
    installed.look()
    assert seen.count("code.py") == 1
    installed.look()
    assert seen.count("code.py") == 1


@pytest.mark.parametrize("harm", ["no version", "no file", "no directory"])
def test_what_cannot_be_read_is_no_build(package, harm):
    if harm == "no version":
        (package / "__init__.py").write_text("")
    if harm == "no file":
        (package / "__init__.py").unlink()
    assert not Installed(str(package / "missing" if harm == "no directory" else package)).look()


# ------------------------------------------------------------------------------------------------------ the pre-flight


@pytest.mark.parametrize(
    ("status", "output", "words"),
    [
        (0, b'{"version":"2","digest":"b"}\n', None),
        (0, b'a warning\n{"version":"2","digest":"b"}\n', None),
        (0, b'{"version":"1","digest":"b"}\n', "turns out to be 1"),
        (0, b"", "nonsense"),
        (0, b"\xff\xfe", "nonsense"),
        (1, b"Traceback\nSyntaxError: no\n", "SyntaxError: no"),
        (-9, b"", "exit status -9"),
    ],
)
def test_the_pre_flights_verdict(status, output, words):
    found = preflight.verdict(status, output, TWO)
    assert found is None if words is None else words in found


def flight(code):
    return preflight.Preflight([sys.executable, "-c", code], TWO, os.environ)


def test_a_pre_flight_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(preflight, "DEADLINE_S", 0.3)
    check = flight("import signal; signal.pause()")
    assert not check.ended()
    check.wait()
    assert check.ended()
    assert "did not start within" in check.trouble()


def test_a_pre_flight_that_succeeds():
    check = flight("""print('{"version":"2","digest":"b"}')""")
    check.wait()
    assert check.trouble() is None


def test_a_pre_flight_without_an_interpreter():
    check = preflight.Preflight(["/nowhere/python"], TWO, os.environ)
    assert check.ended()
    assert "cannot be started" in check.trouble()


def test_a_pre_flight_that_nobody_wants_any_more():
    check = flight("import signal; signal.pause()")
    check.abandon()
    assert check.ended()


# ------------------------------------------------------------------------------------------------- taking the place


@pytest.fixture
def held(tmp_path):
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire("1")
    yield lock
    lock.release()


def test_the_lock_survives_an_exec_and_no_other(tmp_path, held):
    fd = held.bequeath()
    code = (
        "import sys\nfrom pathlib import Path\nfrom hapi.files import FileLock\n"
        f"lock = FileLock(Path({str(tmp_path / 'lock')!r}))\nprint(lock.adopt({fd}))\n"
    )
    for fds, taken in (((fd,), "True"), ((), "False")):
        done = subprocess.run([sys.executable, "-c", code], pass_fds=fds, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == taken
    held.retain()
    assert not os.get_inheritable(fd)


def test_a_descriptor_that_is_not_the_lock_is_not_taken_for_it(tmp_path, held):
    with open(tmp_path / "other", "w") as other:
        assert not FileLock(tmp_path / "lock").adopt(other.fileno())
        assert os.get_inheritable(other.fileno()) is False
    with open(tmp_path / "lock") as stranger:  # the same file, opened by somebody who does not hold the lock
        assert not FileLock(tmp_path / "lock").adopt(stranger.fileno())


def test_an_exec_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch, held, caplog):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    settings = config.load(None, {"HAPI_HOME": str(tmp_path)})
    before = os.umask(0o077)
    try:
        _become_installed(settings, Start(workspace_roots=[], umask=0o022), held)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert "going on with this one" in caplog.text
    assert files.is_locked(tmp_path / "lock")
