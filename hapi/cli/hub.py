"""`hapi hub`: the official hub with our settings; installed from npm on first use."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import typer

from hapi.cli import hubcheck, output
from hapi.cli.common import examples
from hapi.cli.scope import load
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.ids import split_token

PACKAGE = "@twsxtd/hapi@0.30.7"
NATIVE = "@twsxtd/hapi-{platform}-{arch}/bin/hapi"
INSTALL_TIMEOUT_S = 600


def register(app: typer.Typer) -> None:
    """Add the command to `hapi`."""
    app.command(
        "hub",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        epilog=examples("hapi hub", "hapi hub --relay", "HAPI_HUB_BIN=/opt/hapi/bin/hapi hapi hub"),
    )(hub)


def hub(context: typer.Context) -> None:
    """Run the official hub here, with our home, token and port; all further words are its own.

    The first use installs it from npm below HAPI_HOME/hub.
    """
    become(load(), context.args)


def become(config: Config, words: list[str]) -> NoReturn:
    """Replace this process by the hub. Raises HapiError(missing_tool, start_failed) when there is none to run."""
    from hapi.agents.table import native_program

    shim = find(config.home) or install(config.home)
    program = native_program(str(shim), NATIVE)  # killing npm's shim would leave the hub behind
    sys.stdout.flush()
    try:
        os.execve(program, [program, "hub", *words], environment(config))  # noqa: S606 - we become the hub
    except OSError as error:
        hint = "Remove it and try again, or name another with HAPI_HUB_BIN."
        raise HapiError(ErrorCode.START_FAILED, f"Cannot run {program}: {error.strerror}", hint) from None


def find(home: Path) -> Path | None:
    """The hub's program: HAPI_HUB_BIN, or the one that we installed; None when it is to be installed."""
    named = os.environ.get("HAPI_HUB_BIN")
    if named:
        path = Path(named).expanduser()
        if not os.access(path, os.X_OK):
            raise HapiError(ErrorCode.MISSING_TOOL, f"HAPI_HUB_BIN: {named} is not an executable file.")
        return path.absolute()
    ours = _installed(home)
    return ours if os.access(ours, os.X_OK) else None


def install(home: Path) -> Path:
    """Install the pinned version with npm, its progress on stderr; the program's path."""
    import subprocess

    npm = shutil.which("npm")
    if npm is None:
        message = "The hub is a Node program, and npm is not on PATH."
        hint = "Install Node.js 20 or later (https://nodejs.org, or: apt install npm), or set HAPI_HUB_BIN."
        raise HapiError(ErrorCode.MISSING_TOOL, message, hint)
    prefix = home / "hub"
    prefix.mkdir(mode=0o700, parents=True, exist_ok=True)
    output.note(f"Installing {PACKAGE} into {prefix} (once) …")
    words = [npm, "install", "--prefix", str(prefix), "--no-audit", "--no-fund", "--loglevel", "http", PACKAGE]
    try:
        done = subprocess.run(words, stdout=sys.stderr, check=False, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        message = f"npm did not finish within {INSTALL_TIMEOUT_S} s."
        raise HapiError(ErrorCode.TIMEOUT, message, "Is the registry reachable?") from None
    program = _installed(home)
    if done.returncode or not program.exists():
        message = f"npm could not install {PACKAGE} (exit status {done.returncode})."
        raise HapiError(ErrorCode.MISSING_TOOL, message, "Its own words are above.")
    return program


def environment(config: Config) -> dict[str, str]:
    """Our environment for the hub: home, the token without a namespace, and the port of a hub on this machine."""
    environ = dict(os.environ) | {"HAPI_HOME": str(config.home)}
    if config.token:
        environ["CLI_API_TOKEN"] = split_token(config.token)[0]
    port = urlsplit(config.api_url).port
    if hubcheck.is_loopback(config.api_url) and port:
        environ.setdefault("HAPI_LISTEN_PORT", str(port))
    return environ


def _installed(home: Path) -> Path:
    return home / "hub" / "node_modules" / ".bin" / "hapi"
