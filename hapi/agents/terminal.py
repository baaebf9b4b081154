"""How an agent's own interface is started in a terminal, and in which of its conversations. Pure but for finding it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from hapi.agents.built_in import Agent, Conversation
from hapi.agents.table import check_options, launch_arguments, permission_mode, resolve
from hapi.ids import new_session_id

_NOTHING: Mapping[str, str] = MappingProxyType({})


class TerminalOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of an agent's own interface; `args` are the words of a person for the program.

    `resume`: the agent's own id of a conversation to take up. `model`, `effort`, `permission_mode`, `yolo` and
    `settings` as in `launch_arguments`.
    """

    resume: str | None = None
    model: str | None = None
    effort: str | None = None
    permission_mode: str | None = None
    yolo: bool = False
    settings: Mapping[str, str] = _NOTHING
    args: Sequence[str] = ()


class TerminalCommand(msgspec.Struct, frozen=True, kw_only=True):
    """A whole command for a pseudo-terminal. `native_id`: the agent's own id of its conversation, if known beforehand.

    `resumed`: it takes up the conversation that was asked for. `notes`: what was asked for and cannot be had, for people.
    """

    argv: list[str]
    native_id: str | None = None
    resumed: bool = False
    notes: list[str] = []


def has_chat(agent: Agent) -> bool:
    """Whether it can be talked to over ACP."""
    return bool(agent.command)


def has_terminal(agent: Agent) -> bool:
    """Whether it has an interface of its own for the terminal."""
    return bool(agent.terminal)


def terminal_command(
    agent: Agent, order: TerminalOrder, path: str | None, environ: Mapping[str, str] = os.environ
) -> TerminalCommand:
    """The command that shows the agent's own interface, in a new conversation or in the old one.

    A new one gets an id of ours where the program lets us choose it; where it makes its own, or people choose the
    conversation by words of their own, `native_id` is None: `learned_id` may find it while the program runs. An opening
    prompt at the end of `args` is not said a second time in an old conversation.
    Raises HapiError as `resolve` and `launch_arguments` do.
    """
    how, args = agent.conversation, list(order.args)
    resume = order.resume if how.resume else None
    native_id: str | None = None
    words: tuple[str, ...] = ()
    if resume:
        native_id, words, args = resume, how.resume, _without_prompt(args)
    elif how.new and not _chooses(how, args):
        native_id, words = new_session_id(), how.new
    mode, notes = _terminal_mode(agent, order, resumed=resume is not None)
    flags = launch_arguments(
        agent,
        model=order.model,
        effort=order.effort,
        permission_mode=mode,
        settings=order.settings,
        args=args,
        terminal=True,
    )
    named = [word.replace("{id}", native_id or "") for word in words]
    argv = resolve(agent, path, [*named, *flags], terminal=True, environ=environ)
    if order.resume and not resume:
        notes.append(f"{agent.title} cannot take up an old conversation in its own interface; a new one began.")
    return TerminalCommand(argv=argv, native_id=native_id, resumed=resume is not None, notes=notes)


def learned_id(agent: Agent, files: Iterable[str]) -> str | None:
    """The agent's own id of the conversation that it holds, from the paths of the files that its processes have open.

    None where that says nothing (yet). Of several the first by name, which is the oldest: agents that this one started
    for parts of its work have their own.
    """
    if not agent.conversation.file:
        return None
    found = (match for file in files if (match := re.search(agent.conversation.file, file)))
    first = min(found, key=lambda match: match.string, default=None)
    return first.group(1) if first else None


def parting_id(agent: Agent, text: str) -> str | None:
    """The agent's own id of the conversation that it was in, from what it left on the screen; None if it says none."""
    found = re.findall(agent.conversation.farewell, text) if agent.conversation.farewell else []
    return found[-1] if found else None


def _chooses(how: Conversation, args: Sequence[str]) -> bool:
    """Whether people choose the conversation by words of their own."""
    return any(word in how.chosen or word.partition("=")[0] in how.chosen for word in args)


def _without_prompt(args: list[str]) -> list[str]:
    """`args` without a last word that can only be a prompt: it is no option, nor the value of one."""
    alone = len(args) < 2 or not args[-2].startswith("-")
    return args[:-1] if args and alone and not args[-1].startswith("-") else args


def _terminal_mode(agent: Agent, order: TerminalOrder, *, resumed: bool) -> tuple[str | None, list[str]]:
    """The permission mode that a flag is there for, and a note where there is none for the mode that was asked for."""
    mode = permission_mode(agent, order.permission_mode, yolo=order.yolo)
    check_options(agent, model=None, effort=None, permission_mode=mode)
    keeps = resumed and agent.conversation.keeps_mode
    if mode is None or (mode in agent.terminal_flags.modes and not keeps):
        return mode, []
    silent = mode == "default"
    why = "an old conversation keeps its own" if keeps else "it has no flag for it"
    note = f"{agent.title} was not started in permission mode {mode} ({why}); choose it in its own interface."
    return None, [] if silent else [note]
