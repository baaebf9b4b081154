"""`hapi`, `hapi AGENT`, `hapi run` and `hapi attach` as commands. What they do is loaded when one of them runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from hapi.cli import output
from hapi.cli.common import Json, examples
from hapi.cli.scope import load
from hapi.cli.sessions import to_json
from hapi.errors import ErrorCode, HapiError


def register(app: typer.Typer) -> None:
    """Add `hapi attach` and `hapi run`."""
    app.command(
        "attach",
        epilog=examples(
            "hapi attach                    choose a session; the only one straight away",
            "hapi attach 1f0c               and leave it with the detach key: Ctrl-\\ d",
            "hapi attach 1f0c --read-only   look over its shoulder",
        ),
    )(attach)
    app.command(
        "run",
        cls=_RunCommand,
        context_settings={"allow_extra_args": True, "allow_interspersed_args": False},
        epilog=examples(
            "hapi run -- make test",
            "hapi run --name build --detach -- sh -c 'make && make install'",
            "hapi run htop",
        ),
    )(run)


class Commands(TyperGroup):
    """The commands of `hapi`; a word that is none of them may be an agent."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return super().get_command(ctx, cmd_name) or _agent_command(cmd_name)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "| AGENT [ARGS]..."]


class AgentCommand(TyperCommand):
    """`hapi NAME …` for an agent: all words are the agent's own, `--help` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return list(args)

    def invoke(self, ctx: Any) -> int:
        from hapi.cli import agents

        return agents.run_agent(load(), str(self.name), ctx.args)


class _RunCommand(TyperCommand):
    """`run`: the first word that is no option of ours begins the command; a `--` before it is not part of it."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[--] COMMAND [ARGS]..."]


def begin() -> None:
    """`hapi` alone: pick an agent, start a session of it here, attach."""
    from hapi.cli import agents

    raise typer.Exit(agents.begin(load()))


def attach(
    target: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A session id, a unique prefix of one, or PID-n.")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", "-r", help="Look only; Ctrl-C leaves as well.")] = False,  # noqa: FBT002
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing of hapi's own.")] = False,  # noqa: FBT002
) -> None:
    """Show a session's terminal in this one, and type into it. The session goes on when you leave.

    When its program ends, so does this, with the program's exit status (128 + n after signal n). Detached: 0.
    """
    from hapi.cli import attach as attaching

    options = attaching.Options(read_only=read_only, quiet=quiet)
    raise typer.Exit(attaching.run(load(), target, options))


def run(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not attach; print the session's id.")] = False,  # noqa: FBT002
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What to call it in lists; default: the program's name."),
    ] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Run a command here in a session of its own, and attach to it. It goes on when this terminal is closed.

    Ends with the command's exit status. Starts the runner when needed.
    """
    from hapi.cli import agents

    if as_json and not detach:
        raise HapiError(ErrorCode.USAGE, "--json needs --detach: attached, the terminal is the command's.")
    done = agents.command(load(), context.args, name, detach=detach)
    if isinstance(done, int):
        raise typer.Exit(done)
    if as_json:
        output.say_json(to_json(done))
    else:
        output.say(done.session_id)


def _agent_command(name: str) -> AgentCommand | None:
    if name.startswith("-") or not _is_agent(name):
        return None
    return AgentCommand(name, help=f"Start {name} here and attach.", add_help_option=False)


def _is_agent(name: str) -> bool:
    from hapi.agents.built_in import BUILT_IN

    return name in BUILT_IN or name in load().agents
