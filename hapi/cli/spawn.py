"""`hapi runner spawn`: start a session from this terminal."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from hapi import files, ids, settings, wire
from hapi.cli import output
from hapi.cli.common import Json, examples
from hapi.cli.request import spawned
from hapi.cli.scope import load
from hapi.cli.sessions import to_json
from hapi.errors import ErrorCode, HapiError
from hapi.paths import Paths

DEFAULT_AGENT = "claude"
_SECRETS = frozenset({"CLI_API_TOKEN", "HAPI_EXTRA_HEADERS_JSON"})
_AGENT_WORDS = "hapi.agent_words"
_NAME = re.compile(r"[^-./~][^/]*")


def register(app: typer.Typer) -> None:
    """Add the command to `hapi runner`."""
    app.command(
        "spawn",
        cls=SpawnCommand,
        epilog=examples(
            "hapi runner spawn .",
            "hapi runner spawn ~/proj --agent codex --permission-mode yolo",
            "hapi runner spawn ~/proj --worktree fix-login --agent claude -- --verbose",
        ),
    )(spawn)


class SpawnCommand(TyperCommand):
    """`spawn`: what follows `--` goes to the agent untouched, and `--worktree` may stand without a name."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        cut = args.index("--") if "--" in args else len(args)
        ctx.meta[_AGENT_WORDS] = args[cut + 1 :]
        return super().parse_args(ctx, name_worktree(args[:cut]))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- AGENT ARGS]"]


def name_worktree(words: list[str]) -> list[str]:
    """`words` with `--worktree [NAME]` as `--worktree=NAME`: empty unless the next word can only be a name.

    A word that looks like a path (it has a slash, or begins with a dot or a tilde) or an option is not taken.
    """
    result: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--worktree":
            word = f"--worktree={rest.pop(0) if rest and _NAME.fullmatch(rest[0]) else ''}"
        result.append(word)
    return result


def spawn(  # noqa: PLR0913, PLR0917 - one parameter per option
    context: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Where the agent works.", show_default=False)],
    agent: Annotated[
        str | None, typer.Option(metavar="NAME", help="The agent; default: settings key defaultAgent, else claude.")
    ] = None,
    session_id: Annotated[
        str | None, typer.Option("--id", metavar="UUID", help="The session's id; spawning it twice starts one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model, as the agent names it.")] = None,
    effort: Annotated[str | None, typer.Option(help="The reasoning effort, as the agent names it.")] = None,
    permission_mode: Annotated[str | None, typer.Option(metavar="MODE", help="When the agent must ask.")] = None,
    yolo: Annotated[bool, typer.Option("--yolo", help="Let the agent do everything without asking.")] = False,  # noqa: FBT002
    worktree: Annotated[
        str | None, typer.Option(metavar="[NAME]", help="Work in a new git worktree of DIR, with or without a name.")
    ] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Start a session here, wait until its agent is ready, and print its id. Starts the runner when needed."""
    config = load()
    order = wire.Spawn(
        session_id=ids.session_id(session_id) if session_id else ids.new_session_id(),
        directory=_directory(directory),
        agent=agent or default_agent(config.paths),
        started_by="terminal",
        model=model,
        effort=effort,
        permission_mode=permission_mode,
        yolo=yolo,
        worktree=worktree,
        args=context.meta.get(_AGENT_WORDS, []),
        env=environment(),
        umask=files.own_umask(),
    )
    with output.Progress(f"Starting {output.clean(order.agent)} …") as progress:
        started = spawned(config, order, progress)
    if as_json:
        output.say_json(to_json(started.info) | {"existing": started.existing})
    else:
        output.say(started.info.session_id)
        if started.existing:
            output.note("That session was running already; nothing was started.")


def environment() -> dict[str, str]:
    """This terminal's environment, for the agent: without the hub's token, and without what is no text."""
    return {name: value for name, value in os.environ.items() if name not in _SECRETS and _is_text(name + value)}


def default_agent(paths: Paths) -> str:
    """The agent for those who name none: settings key `defaultAgent`, the namespace's before the home's."""
    for path in (paths.settings, paths.home_settings):
        chosen = settings.read(path).get("defaultAgent")
        if isinstance(chosen, str) and chosen:
            return chosen
        if chosen:
            raise HapiError(ErrorCode.BAD_CONFIGURATION, f"{path}: defaultAgent must be the name of an agent.")
    return DEFAULT_AGENT


def _directory(text: str) -> str:
    """The directory as an absolute path; a missing one is made if a person says so."""
    path = Path(os.path.abspath(Path(text).expanduser()))
    if not _is_text(str(path)):
        raise HapiError(ErrorCode.BAD_DIRECTORY, "The directory's name is not UTF-8.", "Rename it.")
    if not path.exists():
        if not (output.is_terminal(sys.stdin) and output.is_terminal(sys.stderr)):
            raise HapiError(ErrorCode.BAD_DIRECTORY, f"{path} does not exist.", f"Create it: mkdir -p {path}")
        typer.confirm(f"{path} does not exist. Create it?", abort=True, err=True)
        path.mkdir(parents=True)
    return str(path)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
