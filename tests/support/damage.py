"""Faults for files, disks and rights; and a power cut."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tests.support.power import kill_all
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

GARBAGE = b"\x00\xff\xfe not what it was \x81\n"
_RIGHTS = "-dac_override,-dac_read_search,-fowner"
_STRANGER = 65534


def crash_runner(runner: Runner) -> None:
    """SIGKILL the broker; its workers end, the sessions live on."""
    broker = identity(runner.status()["pid"])
    os.kill(broker.pid, signal.SIGKILL)
    gone(broker)


def works(runner: Runner) -> None:
    """A new session can be had, spoken to and stopped."""
    session = runner.spawn()["sessionId"]
    runner.hapi("send", session, "hello", check=0)
    until(lambda: "TurnEnded" in {type(event).__name__ for event in runner.events(session)}, 20, "it answers")
    runner.hapi("runner", "stop-session", session, check=0)


def refused(runner: Runner, *arguments: str) -> dict[str, str]:
    """The command fails with exit status 1, a reason and a hint; returns the error."""
    done = runner.hapi(*arguments, "--json", check=1)
    error: dict[str, str] = done.json["error"]
    assert error["message"], done
    assert error["hint"], done
    return error


def dead_session(runner: Runner) -> Path:
    """The directory of a session that a power cut ended."""
    session = runner.spawn()["sessionId"]
    runner.hapi("send", session, "hello", check=0)
    until(lambda: "TurnEnded" in {type(event).__name__ for event in runner.events(session)}, 20, "it answers")
    kill_all(runner)
    return runner.home / "sessions" / str(session)


def copies(template: Path, names: list[str]) -> dict[str, Path]:
    """A session directory per name, each with an id and a record of its own."""
    found = {}
    for name in names:
        directory = template.with_name(str(uuid.uuid4()))
        directory.mkdir(mode=0o700)
        for file in ("spec.json", "state.json", "journal"):
            content = (template / file).read_bytes().replace(template.name.encode(), directory.name.encode())
            put(directory / file, content)
        found[name] = directory
    return found


def put(path: Path, content: bytes | None) -> None:
    """Make the file hold that, whatever is there now; None: nothing."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)


def changed(sound: bytes, **values: Any) -> bytes:
    """A JSON object with some keys set."""
    return json.dumps(json.loads(sound) | values).encode()


CONTENTS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "cut": lambda sound: sound[: len(sound) // 2],
    "garbage": lambda _: GARBAGE,
    "wrong type": lambda _: b'["state"]',
}
KINDS: dict[str, Callable[[Path], None]] = {
    "directory": Path.mkdir,
    "fifo": os.mkfifo,
    "dangling link": lambda path: path.symlink_to("/nonexistent/for/sure"),
}


def kept_aside(path: Path) -> list[bytes]:
    """What was moved out of the way for that path."""
    return [found.read_bytes() for found in sorted(path.parent.glob(f"{path.name}.bad-*")) if found.is_file()]


def can_take_rights() -> bool:
    """Whether permission bits can be made to mean something: we are not root, or `setpriv` can clip it."""
    return os.geteuid() != 0 or shutil.which("setpriv") is not None


def without_privileges(runner: Runner) -> None:
    """From now on the commands of that home respect permission bits although the tests run as root."""
    if os.geteuid() == 0:
        runner.wrapper = ["setpriv", f"--bounding-set={_RIGHTS}", f"--inh-caps={_RIGHTS}"]


def give_away(path: Path) -> None:
    """Make it another user's. Needs root."""
    os.chown(path, _STRANGER, _STRANGER)


class Disk:
    """A small file system of its own, which can be filled to the last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC, error

    def make_room(self) -> None:
        self._filler.unlink()


@contextmanager
def small_disk(path: Path, size: str = "4m") -> Iterator[Disk | None]:
    """Mount a tmpfs at `path`; None when this user may not."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def stranger() -> Iterator[psutil.Process]:
    """A process that is none of ours; still alive at the end, or the test fails."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        try:
            yield psutil.Process(process.pid)
            assert process.poll() is None, "the stranger was killed"
        finally:
            process.kill()
