"""A real `systemd --user` of our own: in a control group, a cgroup namespace and a mount namespace made for it.

It sees no process but those that it starts, so it can neither move nor signal others; the machine itself need not run
systemd. That takes root, Linux with cgroup v2 mounted somewhere and writable, and Debian's package `systemd`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from tests.support.runner import Runner
from tests.support.wait import until

SYSTEMD = Path("/usr/lib/systemd/systemd")
_COMMAND_S, _START_S, _STOP_S = 60, 20, 20
_ENTER = 'echo $$ > "$1/cgroup.procs" && exec unshare --cgroup --mount sh -c "$2" sh'
_INSIDE = f"""
set -e
mount --make-rprivate /
mount -t cgroup2 none /sys/fs/cgroup
if grep -qx $PPID /sys/fs/cgroup/cgroup.procs; then echo "the control group is not our own" >&2; exit 1; fi
mkdir -p /run/systemd
mount -t tmpfs none /run/systemd
mkdir /run/systemd/system
exec {SYSTEMD} --user
"""


def why_not() -> str | None:
    """Why no user manager can run here; None when it can be tried."""
    if os.geteuid() != 0:
        return "a systemd user manager of our own needs root"
    if not SYSTEMD.exists() or not shutil.which("unshare"):
        return "systemd is not installed: apt-get install systemd"
    place = _cgroup()
    return None if place is not None and os.access(place, os.W_OK) else "no control group can be made here"


class UserManager:
    """A user manager for the user of `runner`, whose commands talk to it from now on. Leaving it ends all of it."""

    def __init__(self, runner: Runner) -> None:
        place = _cgroup()
        assert place is not None
        self._runner = runner
        self._group = place / f"hapi-test-{os.getpid()}-{id(self):x}"
        self._runtime = runner.home.parent / "run"
        self._log = runner.home.parent / "systemd.log"
        self._home = runner.home.parent / "user"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        for directory in (self._runtime, self._home):
            directory.mkdir(mode=0o700)
        self._runner.environment |= {"HOME": str(self._home), "XDG_RUNTIME_DIR": str(self._runtime)}
        self._runner.environment.pop("XDG_CONFIG_HOME", None)
        self._group.mkdir()
        keep = {"PATH": os.environ["PATH"], "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_COLOR": "0"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _ENTER, "sh", str(self._group), _INSIDE],
                env=keep | {"HOME": str(self._home), "XDG_RUNTIME_DIR": str(self._runtime)},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(self._settled, _START_S, "systemd's user manager answers")
            assert self._process.poll() is None, "it ended"
        except AssertionError as error:
            self.__exit__()
            raise AssertionError(f"{error}\n{self._log.read_text(errors='replace')[-2000:]}") from None
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._runner.hapi("doctor", "clean", "--yes")
        self.systemctl("exit")
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)
        until(self._group_is_removed, _STOP_S, f"{self._group} is empty")

    @property
    def units(self) -> Path:
        """Where the user's unit files are."""
        return self._home / ".config/systemd/user"

    def systemctl(self, *words: str, check: bool = False) -> str:
        """`systemctl --user WORDS`; its output. With `check` it must succeed."""
        done = subprocess.run(
            ["systemctl", "--user", *words],
            env=self._runner.environment,
            capture_output=True,
            text=True,
            timeout=_COMMAND_S,
            check=False,
        )
        assert not check or done.returncode == 0, f"systemctl --user {' '.join(words)}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", f"--property={name}", "--value", unit)

    def _settled(self) -> bool:
        assert self._process is not None
        return bool(self.systemctl("show", "--property=Version")) or self._process.poll() is not None

    def _group_is_removed(self) -> bool:
        for directory, _, _ in os.walk(self._group, topdown=False):
            try:
                os.rmdir(directory)
            except OSError:
                return False
        return not self._group.exists()


def _cgroup() -> Path | None:
    """The directory of our own control group in the v2 hierarchy; None when there is none."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    place = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), None)
    path = next((line.removeprefix("0::") for line in groups if line.startswith("0::")), None)
    return Path(place + path) if place and path else None


def verify(unit: Path) -> str:
    """What `systemd-analyze --user verify` has to say against a unit file, "" when it accepts it without a word."""
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(unit.parent), "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=_COMMAND_S,
        check=False,
    )
    return done.stderr if done.returncode or unit.name in done.stderr else ""
