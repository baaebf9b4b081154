"""`hapi loadtest`: many sessions at once in a home of their own, every message accounted for, and what it cost."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from hapi.cli import output
from hapi.cli.common import Json, examples
from hapi.cli.scope import load, state
from hapi.clock import monotonic
from hapi.errors import EXIT_USER, ErrorCode, HapiError

if TYPE_CHECKING:
    from hapi.config import Config
    from hapi.loadtest.report import Report
    from hapi.loadtest.run import LoadTest
    from hapi.loadtest.stage import Hub

INTERRUPTED = 130
_PHASES = {
    "start": "starting a runner",
    "spawn": "sessions started",
    "idle": "seconds of idling",
    "talk": "messages answered",
    "probe": "requests",
    "stop": "sessions stopped",
    "clean": "cleaning up",
}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REDRAW_S = 0.2
_AT_ONCE = 16
_LEAVING_S, _PAUSE_S = 5.0, 0.1
_GONE = frozenset({"already_gone", "already gone"})


def register(app: typer.Typer) -> None:
    """Add `hapi loadtest`."""
    app.command(
        "loadtest",
        epilog=examples(
            "hapi loadtest --local --sessions 20",
            "hapi loadtest --sessions 1000 --spawn-rate 40 --messages 10 --html load.html",
            "hapi loadtest --sessions 200 --message-rate 500 --duration 600 --json > load.json",
            "hapi loadtest --local --kill broker --kill hub      (nothing may be lost by that)",
        ),
    )(loadtest)


def loadtest(  # noqa: PLR0913, PLR0917 - one parameter per option
    sessions: Annotated[int, typer.Option("--sessions", "-n", metavar="N", help="How many sessions.")] = 100,
    spawn_rate: Annotated[
        float, typer.Option(metavar="R", help="Start at most R sessions a second. Default: as fast as they come up.")
    ] = 0.0,
    messages: Annotated[
        int | None, typer.Option(metavar="M", help="Messages to each session. Default: 5, with --duration no end.")
    ] = None,
    message_rate: Annotated[
        float, typer.Option(metavar="R", help="At most R messages a second in all. Default: as fast as answered.")
    ] = 0.0,
    duration: Annotated[float | None, typer.Option(metavar="S", help="Talk for S seconds.")] = None,
    idle: Annotated[float, typer.Option(metavar="S", help="Leave the sessions alone for S seconds, and measure.")] = 5,
    agent: Annotated[str, typer.Option(metavar="NAME", help="The agent; a real one may cost money.")] = "demo",
    local: Annotated[bool, typer.Option("--local", help="Without a hub.")] = False,  # noqa: FBT002
    hub: Annotated[str | None, typer.Option(metavar="URL", help="The hub. Default: the configured one.")] = None,
    allow_remote_hub: Annotated[  # noqa: FBT002
        bool, typer.Option("--allow-remote-hub", help="Load a hub on another machine, too.")
    ] = False,
    at_once: Annotated[int, typer.Option(metavar="N", help="How many to start, or to stop, at a time.")] = 16,
    probes: Annotated[int, typer.Option(metavar="N", help="How often to ask for the list and the status.")] = 100,
    patience: Annotated[float, typer.Option(metavar="S", help="How long one answer may take.")] = 60,
    kill: Annotated[
        list[str] | None,
        typer.Option(metavar="WHO", help="In the middle, SIGKILL broker, hub, nursery or reaper; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="For the order in which sessions are spoken to.")] = 0,
    html: Annotated[str | None, typer.Option(metavar="FILE", help="Write a page with plots, too.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the directory with logs and transcripts.")] = False,  # noqa: FBT002
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Start many sessions in a home and a namespace of their own, talk to them, and stop them.

    Every message is numbered and accounted for. Exit status 1 when one was lost or doubled, or a session failed.
    """
    from hapi.loadtest.plan import Plan
    from hapi.loadtest.run import LoadTest
    from hapi.loadtest.stage import Setting, Stage

    plan = Plan(
        sessions=sessions,
        spawn_rate=spawn_rate,
        messages=messages if messages is not None or duration is not None else 5,
        message_rate=message_rate,
        duration_s=duration,
        idle_s=idle,
        agent=agent,
        at_once=at_once,
        probes=probes,
        patience_s=patience,
        kill=tuple(kill or ()),
        seed=seed,
    )
    plan.check()
    _check_page(html)
    config = load()
    _check_agent(config, agent)
    chosen = None if local else _hub(config, hub, allow_remote=allow_remote_hub)
    setting = Setting(agent=agent, agents=config.agents, namespace=state.namespace or "", keep=keep)
    live = Live()
    with Stage(chosen, setting, _sweep) as stage:
        test = LoadTest(plan, stage, chosen, live)
        finished = _carry_out(test)
        live.done()
        if keep:
            output.note(f"Logs and transcripts are in {stage.path}")
    report = test.report
    report.sessions.survivors = stage.survivors
    if not finished:
        _say_interrupted(report, keep=keep)
        raise typer.Exit(INTERRUPTED)
    report.judge()
    written = _show(report, html, as_json=as_json)
    if report.wrong or not written:
        raise typer.Exit(EXIT_USER)


def _say_interrupted(report: Report, *, keep: bool) -> None:
    """What could not be ended as it should be, by name; if there is nothing, that."""
    left = [f"Was left running: {words}" for words in report.sessions.survivors]
    if report.sessions.left_at_hub:
        left.append(f"Could not be deleted at the hub: {output.plural(report.sessions.left_at_hub, 'session')}")
    for words in left:
        output.note(words)
    well = "everything was stopped" if keep else "everything was stopped and removed"
    output.note("Interrupted." if left else f"Interrupted; {well}.")


def _carry_out(test: LoadTest) -> bool:
    """Run the test; False when a signal cut it short. It has cleaned up behind itself either way, as far as it could.

    A signal that comes while it cleans up changes nothing: the report is there.
    """
    import asyncio

    from hapi import procs

    warning = procs.raise_descriptor_limit()
    if warning:
        output.note(warning)

    async def main() -> bool:
        task = asyncio.create_task(test.run())
        loop = asyncio.get_running_loop()

        def interrupt() -> None:
            for number in _SIGNALS:  # once is enough: what follows is the cleaning up
                loop.add_signal_handler(number, _nothing)
            if not test.leaving:
                task.cancel()

        for number in _SIGNALS:
            loop.add_signal_handler(number, interrupt)
        try:
            await task
        except asyncio.CancelledError:
            return False
        return True

    return asyncio.run(main())


def _nothing() -> None:
    pass


def _hub(config: Config, url: str | None, *, allow_remote: bool) -> Hub:
    """The hub to go through. Raises HapiError for none, and for one that is not ours to load."""
    from hapi.config import is_address
    from hapi.loadtest.plan import check_hub
    from hapi.loadtest.stage import Hub

    address = (url or config.api_url).rstrip("/")
    if not is_address(address):
        raise HapiError(ErrorCode.USAGE, f"--hub must be an http or https address, not {url!r}.")
    check_hub(address, allow_remote=allow_remote)
    if config.token is None:
        hint = "Save it: hapi auth login. Without a hub: hapi loadtest --local"
        raise HapiError(ErrorCode.BAD_CONFIGURATION, "No hub token is set.", hint)
    return Hub(address, config.token, config.extra_headers)


def _check_agent(config: Config, agent: str) -> None:
    """Raises HapiError for an agent that is not known, or not installed."""
    from hapi.agents import table

    table.resolve(table.find(agent, config), os.environ.get("PATH"))


def _check_page(html: str | None) -> None:
    """Raises HapiError before the work is done for a page that could not be written after it."""
    place = html if html and os.path.exists(html) else os.path.dirname(os.path.abspath(html or ""))
    if html and (os.path.isdir(html) or not os.access(place, os.W_OK)):
        raise HapiError(ErrorCode.USAGE, f"Cannot write {html}.", "--html FILE: a file in a directory that is yours.")


def _sweep() -> list[str]:
    """End whatever runs below HAPI_HOME, and say what that was. From here on signals are not heeded any more."""
    from concurrent.futures import ThreadPoolExecutor

    from hapi import config, procs
    from hapi.cli import clean

    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    deadline = monotonic() + _LEAVING_S
    targets = clean.plan()
    while targets and all(target.kind == "process" for target in targets) and monotonic() < deadline:
        select.select([], [], [], _PAUSE_S)  # supervisors that have ended their sessions are on their way out
        targets = clean.plan()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = list(pool.map(clean.carry_out, targets))
    strays = procs.marked("HAPI_HOME", str(config.home_directory()))
    for process in strays:
        procs.send_signal(process, signal.SIGKILL)
    there = [result for result in results if result.outcome not in _GONE]  # some end while we look
    found = [f"{result.target.describe()} ({result.outcome})" for result in there]
    return found + [f"process {process.pid} (killed)" for process in strays]


def _show(report: Report, html: str | None, *, as_json: bool) -> bool:
    """Print the report, and write the page if there is to be one; False when that could not be."""
    from hapi.loadtest.page import page
    from hapi.loadtest.report import WIDTH, as_text

    written = True
    if html:
        try:
            with open(html, "w", encoding="utf-8") as file:
                file.write(page(report))
        except OSError as error:
            output.note(f"The page could not be written: {error}")
            written = False
    if as_json:
        output.say_json(report)
    else:
        for line in as_text(report, shutil.get_terminal_size((WIDTH, 24)).columns):
            output.say(line)
    return written


class Live:
    """How far it is, on stderr: one line that is drawn anew on a terminal, else a line for each phase that is done."""

    def __init__(self) -> None:
        self._terminal = output.is_terminal(sys.stderr)
        self._started = monotonic()
        self._drawn = 0.0
        self._shown = ("", 0)

    def __call__(self, phase: str, done: int, of: int) -> None:
        """Show it, unless something was shown a moment ago and it is not the end of a phase. `of` 0: nobody knows."""
        now = monotonic()
        over = done == of
        if (now - self._drawn < _REDRAW_S and not over) or (not over and not self._terminal):
            return
        if self._shown == (phase, done):
            return
        self._drawn, self._shown = now, (phase, done)
        count = {0: f"{done} ", 1: ""}.get(of, f"{done} of {of} ")
        words = f"{now - self._started:6.1f} s  {count}{_PHASES.get(phase, phase)}"
        sys.stderr.write(f"\r\033[K{words}" if self._terminal and not over else f"{self._clear()}{words}\n")
        sys.stderr.flush()

    def done(self) -> None:
        """Nothing more comes."""
        sys.stderr.write(self._clear())
        sys.stderr.flush()

    def _clear(self) -> str:
        return "\r\033[K" if self._terminal else ""
