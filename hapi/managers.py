"""The service managers of a user: systemd and launchd. Where they want the file, and how they are told.

Every command is bounded by COMMAND_S. What a manager refuses is HapiError(service_manager) with its own words.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hapi import unitfile
from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError

if TYPE_CHECKING:
    import subprocess

COMMAND_S = 60
_BOOTOUT_S = 20.0
_PAUSE_S = 0.1
_LINGER = Path("/var/lib/systemd/linger")
_NO_USER_MANAGER = (
    "In a container: hapi runner start-sync as its command. After su or sudo: log in as that user instead, "
    "or once as root: loginctl enable-linger USER"
)


class Manager(Protocol):
    """A service manager, and the one unit of a namespace in it."""

    name: str
    unit: str
    path: Path

    def render(self, service: unitfile.Service) -> str:
        """The file's content."""

    def command(self, text: str) -> list[str]:
        """The command line in such a file; [] when there is none."""

    def check(self) -> None:
        """Make it read the files anew. Raises HapiError(missing_tool, service_manager) when it cannot be reached."""

    def activate(self, *, changed: bool) -> None:
        """Start the unit now and at every login; one that runs is restarted if its file has `changed`."""

    def deactivate(self) -> None:
        """Stop the unit and start it no more. Sessions live on."""

    def forget(self) -> None:
        """Clean up after the file has been removed; also works where no manager can be reached."""

    def main_pid(self) -> int | None:
        """The process that it started for the unit; None when there is none."""

    def trouble(self) -> str:
        """What a person types to see why the unit does not run."""

    def advice(self) -> list[str]:
        """What is still missing for sessions that outlive the login."""


class Systemd:
    """`systemctl --user`."""

    name = "systemd"

    def __init__(self, namespace: str) -> None:
        configured = os.environ.get("XDG_CONFIG_HOME", "")
        base = Path(configured) if os.path.isabs(configured) else Path.home() / ".config"
        self.unit = unitfile.unit_name(namespace)
        self.path = base / "systemd" / "user" / self.unit

    def render(self, service: unitfile.Service) -> str:
        return unitfile.systemd_unit(service)

    def command(self, text: str) -> list[str]:
        return unitfile.command_of_unit(text, str(Path.home()))

    def check(self) -> None:
        done = self._systemctl("daemon-reload")
        if done.returncode:
            raise _refused("systemd's user manager does not answer", done, _NO_USER_MANAGER)

    def activate(self, *, changed: bool) -> None:
        before = self.main_pid()
        self._demand("enable", str(self.path))  # by its path, wherever XDG_CONFIG_HOME points
        self._systemctl("reset-failed", self.unit)  # a start limit that was hit before counts no more
        self._demand("restart" if before and changed else "start", self.unit)

    def deactivate(self) -> None:
        self._demand("disable", "--now", self.unit)

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            (self.path.parent / "default.target.wants" / self.unit).unlink()
        with contextlib.suppress(HapiError):
            self._systemctl("daemon-reload")

    def main_pid(self) -> int | None:
        text = self._systemctl("show", "--property=MainPID", "--value", self.unit).stdout.strip()
        return int(text) if text.isdigit() and int(text) else None

    def trouble(self) -> str:
        return f"systemctl --user status {self.unit}; journalctl --user -u {self.unit}"

    def advice(self) -> list[str]:
        if (_LINGER / _user()).exists():
            return []
        return ["When you log out, systemd ends it all, sessions included. To keep them: loginctl enable-linger"]

    def _demand(self, *words: str) -> None:
        done = self._systemctl(*words)
        if done.returncode:
            raise _refused(f"systemctl --user {' '.join(words)} failed", done, self.trouble())

    def _systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = dict(os.environ)
        runtime = f"/run/user/{os.getuid()}"
        if not environ.get("XDG_RUNTIME_DIR") and os.path.isdir(runtime):
            environ["XDG_RUNTIME_DIR"] = runtime  # su and cron leave it out
        hint = f"It belongs to systemd. {_NO_USER_MANAGER}"
        return _run(["systemctl", "--user", "--no-ask-password", *words], hint, environ)


class Launchd:
    """`launchctl`, in the domain of the logged-in user."""

    name = "launchd"

    def __init__(self, namespace: str) -> None:
        self.unit = unitfile.label(namespace)
        self.path = Path.home() / "Library" / "LaunchAgents" / f"{self.unit}.plist"
        self._domain = f"gui/{os.getuid()}"
        self._target = f"{self._domain}/{self.unit}"

    def render(self, service: unitfile.Service) -> str:
        return unitfile.launchd_plist(service)

    def command(self, text: str) -> list[str]:
        return unitfile.command_of_plist(text)

    def check(self) -> None:
        done = self._launchctl("print", self._domain)
        if done.returncode:
            raise _refused(f"launchd has no domain {self._domain}", done, "Log in at the screen, not over ssh only.")

    def activate(self, *, changed: bool) -> None:
        if self._loaded() and changed:
            self.deactivate()
        if not self._loaded():
            self._demand("bootstrap", self._domain, str(self.path))
        self._demand("kickstart", self._target)  # does nothing to one that runs

    def deactivate(self) -> None:
        if not self._loaded():
            return
        self._demand("bootout", self._target)
        deadline = monotonic() + _BOOTOUT_S
        while self._loaded():  # bootout returns before the job has ended, and tells nobody of the end
            if monotonic() >= deadline:
                message = f"launchd has not let go of {self.unit} within {_BOOTOUT_S:g} s."
                raise HapiError(ErrorCode.TIMEOUT, message, self.trouble())
            _pause()

    def forget(self) -> None:
        """Nothing is left but the file."""

    def main_pid(self) -> int | None:
        found = re.search(r"^\s*pid = ([0-9]+)$", self._launchctl("print", self._target).stdout, re.MULTILINE)
        return int(found[1]) if found else None

    def trouble(self) -> str:
        return f"launchctl print {self._target}"

    def advice(self) -> list[str]:
        return []

    def _loaded(self) -> bool:
        return self._launchctl("print", self._target).returncode == 0

    def _demand(self, *words: str) -> None:
        done = self._launchctl(*words)
        if done.returncode:
            raise _refused(f"launchctl {' '.join(words)} failed", done, self.trouble())

    def _launchctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return _run(["launchctl", *words], "It belongs to macOS.", dict(os.environ))


def manager_for(namespace: str, platform: str = sys.platform) -> Manager:
    """This platform's service manager. Raises HapiError(unsupported_platform) where there is none that we know."""
    if platform == "linux":
        return Systemd(namespace)
    if platform == "darwin":
        return Launchd(namespace)
    message = f"No service manager is known for {platform}: only systemd on Linux and launchd on macOS."
    raise HapiError(ErrorCode.UNSUPPORTED_PLATFORM, message, "Have yours run: hapi runner start-sync")


def _run(words: list[str], hint: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    import subprocess

    program = shutil.which(words[0])
    if program is None:
        raise HapiError(ErrorCode.MISSING_TOOL, f"{words[0]} is not on PATH.", hint)
    try:
        return subprocess.run(
            [program, *words[1:]],
            env=environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=COMMAND_S,
        )
    except subprocess.TimeoutExpired:
        message = f"{' '.join(words)} has not ended within {COMMAND_S} s."
        raise HapiError(ErrorCode.TIMEOUT, message, "The service manager hangs.") from None
    except OSError as error:
        raise HapiError(ErrorCode.MISSING_TOOL, f"Cannot run {program}: {error.strerror}", hint) from None


def _refused(what: str, done: subprocess.CompletedProcess[str], hint: str) -> HapiError:
    words = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
    return HapiError(ErrorCode.SERVICE_MANAGER, f"{what}: {words}", hint)


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _pause() -> None:
    import select

    select.select([], [], [], _PAUSE_S)
