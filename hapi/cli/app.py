"""The command tree: words to commands. What they raise becomes an exit status in `outcome`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hapi import __version__
from hapi.cli import (
    auth,
    completion,
    doctor,
    hub,
    loadtest,
    output,
    resume,
    runner,
    send,
    service,
    session_commands,
    spawn,
    terminals,
    top,
    transcripts,
    wait,
    worktree,
)
from hapi.cli.common import examples
from hapi.cli.outcome import exit_of, wants_json
from hapi.cli.scope import state
from hapi.errors import EXIT_USAGE, EXIT_USER, ErrorCode, HapiError

_HUB = "hub"  # a command whose words are another program's, like those of each agent

app = typer.Typer(
    name="hapi",
    cls=terminals.Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "hapi                                   pick an agent, and work with it here",
        "hapi claude                            the same with this agent; all further words are its own",
        "hapi run -- make test                  any command, in a session that outlives this terminal",
        "hapi runner spawn ~/proj --agent demo  start a session for chatting, without a terminal",
        "hapi --namespace work runner list      the sessions of another namespace",
        "hapi completion bash                   complete commands, agents and sessions with Tab",
    ),
)
def root(
    context: typer.Context,
    namespace: Annotated[
        str | None, typer.Option(metavar="NS", help="The namespace; default: HAPI_NAMESPACE, or that of the token.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", "-V", is_eager=True, help="Show the version and exit.")] = False,  # noqa: FBT002
) -> None:
    """Keep AI coding agents alive: sessions outlive this terminal, the runner and the hub connection."""
    if version:
        output.say(f"hapi {__version__}")
        raise typer.Exit
    state.namespace = namespace
    if context.invoked_subcommand is None:
        terminals.begin()


app.add_typer(runner.app, name="runner")
spawn.register(runner.app)
session_commands.register(runner.app)
service.register(runner.app)
app.add_typer(auth.app, name="auth")
app.add_typer(doctor.app, name="doctor")
app.add_typer(worktree.app, name="worktree")
hub.register(app)
send.register(app)
wait.register(app)
transcripts.register(app)
top.register(app)
loadtest.register(app)
completion.register(app)
terminals.register(app)
resume.register(app)


def run(arguments: list[str]) -> int:
    """Run the command line `arguments` and return its exit status. Every failure has been told when it returns."""
    return exit_of(lambda: _parse_and_run(arguments), arguments)


def _parse_and_run(arguments: list[str]) -> object:
    state.namespace = None
    try:
        return app(args=hoist_namespace(arguments), prog_name="hapi", standalone_mode=False)
    except typer.Abort:
        output.note("Aborted.")
        return EXIT_USER
    except Exception as error:
        if getattr(error, "exit_code", None) != EXIT_USAGE or not hasattr(error, "format_message"):
            raise
        return _usage_error(error, as_json=wants_json(arguments))


def hoist_namespace(arguments: list[str]) -> list[str]:
    """`arguments` with `--namespace NS` moved to the front from wherever it stands, so that it works after a command.

    Words after `--` and those of a command that hands its words on are left alone.
    """
    front: list[str] = []
    rest: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--" or (_hands_on(word) and all(earlier.startswith("-") for earlier in rest)):
            rest += [word, *words]
            break
        if word == "--namespace" and words:
            front += [word, words.pop(0)]
        elif word.startswith("--namespace="):
            front.append(word)
        else:
            rest.append(word)
    return front + rest


def _hands_on(word: str) -> bool:
    """Whether a first word takes all that follow it: the hub's, and any that is no command and so can only be an agent."""
    names = {known.name for known in app.registered_commands} | {known.name for known in app.registered_groups}
    return word == _HUB or not (word.startswith("-") or word in names)


def _usage_error(error: Any, *, as_json: bool) -> int:
    """Wrong words on the command line: typer's own text, which names the command's --help."""
    if as_json:
        output.show_error(HapiError(ErrorCode.USAGE, error.format_message(), "hapi --help"), as_json=True)
    else:
        error.show()
    return EXIT_USAGE
