"""`hapi doctor`: everything that can be found out about this installation. `hapi doctor clean` ends it all."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from hapi.cli import output
from hapi.cli.common import Json, examples
from hapi.cli.scope import load, state
from hapi.errors import EXIT_USER, ErrorCode, HapiError

app = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@app.callback(epilog=examples("hapi doctor", "hapi doctor --json", "hapi --namespace work doctor", "hapi doctor clean"))
def doctor(context: typer.Context, as_json: Json = False) -> None:  # noqa: FBT002
    """Check everything: versions, configuration, sockets, lock, state, service, processes, hub, agents, logs.

    Each problem is listed with the command that mends it. Exit status 1 when there are problems.
    """
    if context.invoked_subcommand is not None:
        return
    from hapi.cli import diagnosis

    with output.Progress("Looking …"):
        report = diagnosis.examine(load())
    if as_json:
        output.say_json(report)
    else:
        _print(report)
    if any(finding["severity"] == "error" for finding in report["findings"]):
        raise typer.Exit(EXIT_USER)


@app.command(epilog=examples("hapi doctor clean", "hapi doctor clean --yes", "hapi --namespace work doctor clean"))
def clean(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Stop every session and every runner of this HAPI_HOME, after showing them; --namespace limits it to one.

    Exit status 1 if anything survived.
    """
    import sys

    from hapi.cli import clean as cleaning

    plan = cleaning.plan(state.namespace)
    if not as_json:
        _print_plan(plan)
    if plan and not yes:
        if as_json or not output.is_terminal(sys.stdin):
            raise HapiError(ErrorCode.USAGE, "This ends processes; without a terminal, say --yes.")
        typer.confirm("Stop all of these?", abort=True)
    with output.Progress("Stopping …") as progress:
        results = [cleaning.carry_out(target, progress) for target in plan]
    if as_json:
        output.say_json([result.to_json() for result in results])
    else:
        for result in results:
            output.say(f"{result.target.describe()}: {result.outcome}")
    if any(not result.gone for result in results):
        raise typer.Exit(EXIT_USER)


def _print_plan(plan: list[Any]) -> None:
    if not plan:
        output.say("Nothing is running.")
        return
    rows = [[target.namespace, target.kind, target.name, str(target.pid or "-"), target.detail] for target in plan]
    output.table(["NAMESPACE", "KIND", "NAME", "PID", ""], rows)


def _print(report: dict[str, Any]) -> None:
    _section("Versions", [(name, version or "not found") for name, version in report["versions"].items()])
    configuration = report["configuration"]
    _section("Configuration", [(name, f"{item['value']}  ({item['source']})") for name, item in configuration.items()])
    runner = report["runner"]
    _section(
        "Runner",
        [
            ("state", runner["state"]),
            ("lock", f"{runner['lock']['path']} ({runner['lock']['say']})"),
            ("state file", f"{runner['stateFile']['path']} ({runner['stateFile']['say']})"),
            *[("socket", f"{socket['path']} ({socket['say']})") for socket in runner["sockets"]],
        ],
    )
    service = report["service"]
    _section("Service", [("unit", service.get("path") or ""), ("state", service["say"])])
    _title("Processes")
    rows = [
        [str(item["pid"]), output.size(item["memoryBytes"]), output.clean(item["title"])]
        for item in report["processes"]
    ]
    output.table(["PID", "MEMORY", "TITLE"], rows) if rows else output.say("  none")
    _section("Hub", [("url", report["hub"]["url"]), ("answer", report["hub"]["detail"])])
    _section("Agents", [(item["name"], item["path"] or "not found") for item in report["agents"]])
    _section("Logs", [(item["path"], output.size(item["bytes"])) for item in report["logs"]] or [("none", "yet")])
    _title("Findings")
    for finding in report["findings"]:
        mark = output.paint("✗", "red") if finding["severity"] == "error" else output.paint("!", "yellow")
        output.say(f"  {mark} {output.clean(finding['message'])}")
        if finding["fix"]:
            output.say(f"    {output.clean(finding['fix'])}")
    if not report["findings"]:
        output.say(f"  {output.paint('✓', 'green')} no problems")


def _title(text: str) -> None:
    output.say()
    output.say(output.paint(text, "bold"))


def _section(title: str, pairs: list[tuple[str, str]]) -> None:
    _title(title)
    output.facts([(f"  {name}", output.clean(value)) for name, value in pairs])
