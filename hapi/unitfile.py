"""What a service manager is told about the runner: systemd user units and launchd agents. Pure: text in, text out.

deploy/ holds both for reading; deploy/README.md says why each line is there.
"""

from __future__ import annotations

import itertools
import plistlib
import re
import shlex
from pathlib import PurePath
from xml.parsers.expat import ExpatError

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.ids import DEFAULT_NAMESPACE

MARK = "Written by `hapi runner install`"
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A runner as a service manager has to start it.

    `program` is what stands for `hapi`, its first word an absolute path; `environment` comes on top of the mark that
    makes it a supervised runner; `umask` is for what agents write, the runner's own files are always private.
    """

    program: list[str]
    namespace: str = DEFAULT_NAMESPACE
    roots: list[str] = []
    environment: dict[str, str] = {}
    umask: int = 0o022

    @property
    def command(self) -> list[str]:
        """The whole command line."""
        namespace = [] if self.namespace == DEFAULT_NAMESPACE else ["--namespace", self.namespace]
        roots = [word for root in self.roots for word in ("--workspace-root", root)]
        return [*self.program, *namespace, "runner", "start-sync", *roots]

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment that it is given."""
        return {"HAPI_RUNNER_SUPERVISED": "1", **self.environment}


def unit_name(namespace: str) -> str:
    """`hapi-runner.service`, or `hapi-runner-NS.service`."""
    return f"hapi-runner{'' if namespace == DEFAULT_NAMESPACE else f'-{namespace}'}.service"


def label(namespace: str) -> str:
    """`com.hapi.runner`, or `com.hapi.runner.NS`."""
    return f"com.hapi.runner{'' if namespace == DEFAULT_NAMESPACE else f'.{namespace}'}"


def restart_command(namespace: str, platform: str) -> str:
    """What a person types to restart a runner that was installed on `platform` (as in sys.platform)."""
    if platform == "darwin":
        return f"launchctl kickstart -k gui/$(id -u)/{label(namespace)}"
    return f"systemctl --user restart {unit_name(namespace).removesuffix('.service')}"


def systemd_unit(service: Service) -> str:
    """The unit file of a systemd user service. Raises HapiError(bad_configuration) for text that it cannot hold."""
    _check(service)
    if set(service.program[0]) & set("'\"\\"):
        message = f"systemd runs no program whose path has quotes or backslashes: {service.program[0]}"
        raise HapiError(ErrorCode.BAD_CONFIGURATION, message, "Install hapi elsewhere.")
    of = "" if service.namespace == DEFAULT_NAMESPACE else f", namespace {service.namespace}"
    name = unit_name(service.namespace).removesuffix(".service")
    variables = "".join(f"Environment={_word(f'{key}={value}')}\n" for key, value in service.variables.items())
    return f"""\
# {MARK}, which replaces it: changes belong into `systemctl --user edit {name}`.
[Unit]
Description=hapi runner{of} (keeps AI coding agents alive)
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=exec
ExecStart={_exec(service.command)}
{variables}# Only the runner is stopped with the unit: sessions live on and are found again by the next start.
KillMode=process
TimeoutStopSec=15
Restart=on-failure
RestartSec=2
# One agent that the kernel ends for want of memory does not take the runner along.
OOMPolicy=continue
TasksMax=infinity
UMask={service.umask:04o}

[Install]
WantedBy=default.target
"""


def launchd_plist(service: Service) -> str:
    """The property list of a launchd agent. Raises HapiError(bad_configuration) for text that it cannot hold."""
    _check(service)
    keys = {
        "Label": label(service.namespace),
        "ProgramArguments": service.command,
        "EnvironmentVariables": service.variables,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 15,
        "AbandonProcessGroup": True,
        "ProcessType": "Interactive",
        "Umask": service.umask,
    }
    head, plist, body = plistlib.dumps(keys, sort_keys=False).decode().partition("<plist ")
    return f"{head}<!-- {MARK}, which replaces it. -->\n{plist}{body}"


def is_ours(text: str) -> bool:
    """Whether a unit file or property list came from here."""
    return MARK in text


def command_of_unit(text: str, home: str) -> list[str]:
    """The words of a unit's ExecStart, `%h` being `home`; [] when there is none that we could have written."""
    line = next((line for line in text.splitlines() if line.startswith("ExecStart=")), "ExecStart=")
    try:
        words = shlex.split(line.removeprefix("ExecStart="))
    except ValueError:
        return []
    if words:
        words[0] = words[0].removeprefix(":")
    return [re.sub("%(.)", lambda found: home if found[1] == "h" else found[1], word) for word in words]


def command_of_plist(text: str) -> list[str]:
    """The ProgramArguments of a property list; [] when there are none."""
    try:
        words = plistlib.loads(text.encode())["ProgramArguments"]
    except (ValueError, KeyError, TypeError, ExpatError):
        return []
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else []


def roots_of(command: list[str]) -> list[str]:
    """The workspace roots in a command line."""
    return [root for option, root in itertools.pairwise(command) if option == "--workspace-root"]


def _check(service: Service) -> None:
    if not PurePath(service.program[0]).is_absolute():
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"Not an absolute path: {service.program[0]}")
    for text in [*service.command, *service.variables, *service.variables.values()]:
        if _UNWRITABLE.search(text):
            message = f"A unit file cannot hold {text!r}: it has control characters, or is not UTF-8."
            raise HapiError(ErrorCode.BAD_CONFIGURATION, message, "Rename the directory, or choose another.")


def _exec(words: list[str]) -> str:
    """An ExecStart line's value. Where a dollar occurs, a leading colon turns off all substitution of variables."""
    colon = ":" if any("$" in word for word in words) else ""
    return " ".join([_word(colon + words[0]), *map(_word, words[1:])])


def _word(text: str) -> str:
    """One word, as systemd reads it back: per cent signs doubled (specifiers), the rest quoted where needed."""
    doubled = text.replace("%", "%%")
    if _PLAIN.fullmatch(doubled):
        return doubled
    return '"' + doubled.replace("\\", "\\\\").replace('"', '\\"') + '"'
