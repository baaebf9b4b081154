"""The agents, as data: which programs they are, what they can do, and what the user's settings make of them.

A new agent is a new entry in `BUILT_IN` or a user's `agents.NAME` in settings.json (docs/agents.md); no code. This
module decides and looks for executables; it starts nothing and keeps nothing.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from hapi.agents.built_in import BUILT_IN, FLAGS, FLAVORS, NEUTRAL, Agent, Conversation
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError

_NOTHING: Mapping[str, str] = MappingProxyType({})
_PUNCTUATION = str.maketrans("._-", "000")


class _Custom(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """`agents.NAME` of settings.json; what is absent comes from the agent that `use` names, or from NAME itself."""

    use: str | None = None
    title: str | None = None
    command: str | list[str] | None = None
    terminal: str | list[str] | None = None
    conversation: Conversation | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    permission_mode: str | None = None
    model: str | None = None
    effort: str | None = None


def names(config: Config) -> list[str]:
    """Every agent that can be asked for, ours and the user's, sorted."""
    return sorted({*BUILT_IN, *config.agents})


def find(name: str, config: Config) -> Agent:
    """The agent called `name`, with the user's settings applied.

    Raises HapiError: unknown_agent, with the known names in the hint; bad_configuration, naming the wrong key.
    """
    return _find(name, config, ())


def resolve(
    agent: Agent,
    path: str | None,
    flags: Sequence[str] = (),
    *,
    terminal: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> list[str]:
    """The whole command, its first word an absolute path; `path` is the PATH to search (None: that of `environ`).

    `flags` (see `launch_arguments`) go where the command wants them. `environ` is asked for the agent's override.
    Raises HapiError: agent_unavailable with the PATH searched; bad_configuration for an override that is no program.
    """
    searched = path if path is not None else environ.get("PATH", os.defpath)
    candidates = [agent.terminal] if terminal else [agent.command, *agent.alternatives]
    candidates = [candidate for candidate in candidates if candidate]
    if not candidates:
        raise _unavailable(f"{agent.name} is not available: {agent.missing or 'it has no such interface'}", "")
    override = _override(agent, searched, environ)
    if override and (terminal or not agent.adapter_variable):
        return _with_flags([override, *_override_args(agent, candidates[0], environ)], flags)
    for candidate in candidates:
        program = which(candidate[0], searched)
        if program:
            return _with_flags([native_program(program, agent.native), *candidate[1:]], flags)
    install = f" Install it: {agent.install}." if agent.install else ""
    hint = (
        f"Looked for {' or '.join(candidate[0] for candidate in candidates)} in {searched or 'an empty PATH'}.{install}"
    )
    raise _unavailable(f"{agent.name} is not installed or is not on PATH", hint)


def environment(agent: Agent, path: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables to add to the agent's environment. Raises HapiError(bad_configuration) as `resolve` does."""
    searched = path if path is not None else environ.get("PATH", os.defpath)
    program = _override(agent, searched, environ) if agent.adapter_variable else None
    return {**({agent.adapter_variable: program} if program else {}), **agent.env}


def availability(config: Config, path: str | None = None) -> list[tuple[str, bool, str | None]]:
    """(flavor, available, why not: "not_found" or "invalid_configuration") for each flavor of the hub, sorted."""
    return [(flavor, why is None, why) for flavor in FLAVORS for why in [_why_not(flavor, config, path)]]


def permission_mode(agent: Agent, chosen: str | None, *, yolo: bool) -> str | None:
    """The mode to start in; what was chosen wins over yolo, yolo over the settings. None: the agent's own."""
    return chosen or (agent.yolo_mode if yolo else None) or agent.default_mode


def check_options(agent: Agent, *, model: str | None, effort: str | None, permission_mode: str | None) -> None:
    """Raises HapiError(bad_request) for an option that this agent does not have; the hint says what it has."""
    if model and not agent.takes_model:
        raise _bad_option(f"{agent.name} takes no model", "Leave the model out.")
    if effort and agent.efforts is not None and effort not in agent.efforts:
        raise _bad_option(f"{agent.name} has no effort {effort!r}", _known("efforts", agent.efforts))
    if permission_mode and permission_mode not in agent.modes:
        raise _bad_option(f"{agent.name} has no permission mode {permission_mode!r}", _known("modes", agent.modes))


def check_settings(agent: Agent, settings: Mapping[str, str]) -> None:
    """Raises HapiError(bad_request) for one of the hub's further settings that this agent cannot be given.

    The values that ask for nothing (`NEUTRAL`) fit every agent.
    """
    for key, value in settings.items():
        known = agent.settings.get(key, ())
        if value not in known and value != NEUTRAL.get(key):
            raise _bad_option(f"{agent.name} has no {key} {value!r}", _known(f"values of {key}", known))


def launch_arguments(  # noqa: PLR0913 - one per option of a spawn
    agent: Agent,
    *,
    model: str | None = None,
    effort: str | None = None,
    permission_mode: str | None = None,
    yolo: bool = False,
    settings: Mapping[str, str] = _NOTHING,
    args: Sequence[str] = (),
    terminal: bool = False,
) -> list[str]:
    """The arguments for `resolve`: the options that the program takes as flags, the settings' `args`, then `args`.

    Options without a flag are not lost: over ACP they are set once the session is open. `settings` are the hub's
    (`Agent.settings`). Raises HapiError(bad_request) as `check_options` and `check_settings` do.
    """
    model, effort = model or agent.default_model, effort or agent.default_effort
    mode = _mode(agent, permission_mode, yolo=yolo)
    check_options(agent, model=model, effort=effort, permission_mode=mode)
    check_settings(agent, settings)
    flags = agent.terminal_flags if terminal else agent.flags
    chosen = [word.replace("{model}", model) for word in flags.model] if model else []
    chosen += [word.replace("{effort}", effort) for word in flags.effort] if effort else []
    chosen += flags.modes.get(mode or "", ())
    for key, value in settings.items():
        chosen += flags.settings.get(key, {}).get(value, ())
    return [*chosen, *agent.args, *args]


def which(program: str, path: str) -> str | None:
    """The absolute path of an executable file: `program` itself if it has a slash, else the first in `path`.

    Relative directories in `path` are passed over: what they mean depends on where one stands.
    """
    if "/" in program:
        candidates = [os.path.abspath(os.path.expanduser(program))]
    else:
        candidates = [os.path.join(place, program) for place in path.split(os.pathsep) if os.path.isabs(place)]
    return next((file for file in candidates if os.path.isfile(file) and os.access(file, os.X_OK)), None)


def native_program(program: str, native: str) -> str:
    """What the npm shim `program` would start as its child, if that is installed beside it; else `program`.

    A shim that is killed leaves its child behind, so we start the child. `native` is a path below a `node_modules`,
    as in `Agent.native`; it is looked for as node does, from the shim's real place upwards.
    """
    arch = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(os.uname().machine.lower(), os.uname().machine)
    relative = native.format(platform=sys.platform, arch=arch)
    for place in _parents(os.path.realpath(program)) if native else ():
        found = which(os.path.join(place, "node_modules", relative), "")
        if found:
            return found
    return program


_mode = permission_mode  # `launch_arguments` has a parameter of that name


def _find(name: str, config: Config, seen: tuple[str, ...]) -> Agent:
    if name not in config.agents:
        if name not in BUILT_IN:
            hint = f"Known: {', '.join(names(config))}. docs/agents.md tells how to add one."
            raise HapiError(ErrorCode.UNKNOWN_AGENT, f"There is no agent called {name!r}.", hint)
        return BUILT_IN[name]
    if not (name.isascii() and name.translate(_PUNCTUATION).isalnum() and name[0].isalnum()):
        raise _bad(name, "the name may have letters, digits, dots, dashes and underscores only")
    custom = _read(name, config.agents[name])
    known = BUILT_IN.get(name)
    stranger = custom.use is None and (known is None or (custom.command is not None and not known.flavor))
    if custom.use is None:
        base = known if known and not stranger else _stranger(name, known)
    elif custom.use == name or custom.use in seen:
        raise _bad(f"{name}.use", f"goes in a circle: {' → '.join((*seen, name, custom.use))}")
    elif custom.use not in {*BUILT_IN, *config.agents}:
        raise _bad(f"{name}.use", f"there is no agent called {custom.use!r}; known: {', '.join(names(config))}")
    else:
        base = _alias(name, _find(custom.use, config, (*seen, name)))
    return _checked(_customised(base, custom), stranger=stranger)


def _stranger(name: str, known: Agent | None) -> Agent:
    """An agent that the user describes; of a `known` one that no flavor of the hub is, only the terminal is kept."""
    agent = Agent(name=name, title=name, flavor=False)
    if known is None:
        return agent
    return msgspec.structs.replace(
        agent, title=known.title, terminal=known.terminal, conversation=known.conversation, interrupt=known.interrupt
    )


def _alias(name: str, used: Agent) -> Agent:
    """`used` under another name. The hub judges a flavor's modes and efforts by its name, so those remain."""
    own = BUILT_IN.get(name)
    if own is None:
        return msgspec.structs.replace(used, name=name, title=name, flavor=False)
    return msgspec.structs.replace(
        used,
        name=name,
        title=own.title,
        flavor=own.flavor,
        modes=own.modes,
        yolo_mode=own.yolo_mode,
        takes_model=own.takes_model,
        efforts=own.efforts,
        settings=own.settings,
        asks_in_plan=own.asks_in_plan,
    )


def _read(name: str, raw: dict[str, Any]) -> _Custom:
    try:
        return msgspec.convert(raw, _Custom)
    except msgspec.ValidationError as error:
        raise _bad(name, str(error).replace("`$", f"`agents.{name}")) from None


def _customised(base: Agent, custom: _Custom) -> Agent:
    changes: dict[str, Any] = {
        "title": custom.title,
        "terminal": _words(f"{base.name}.terminal", custom.terminal),
        "conversation": _conversation(f"{base.name}.conversation", custom.conversation),
        "default_mode": custom.permission_mode,
        "default_model": custom.model,
        "default_effort": custom.effort,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    command = _words(f"{base.name}.command", custom.command)
    if command:
        changes |= {"command": command, "alternatives": (), "native": "", "override": "", "missing": ""}
    elif not base.command and not base.missing and "terminal" not in changes:
        raise _bad(base.name, 'needs a "command", or "use" with the name of another agent')
    changes |= {"args": (*base.args, *custom.args), "env": {**base.env, **custom.env}}
    return msgspec.structs.replace(base, **changes)


def _checked(agent: Agent, *, stranger: bool) -> Agent:
    """Refuse defaults that the agent does not have; a stranger, whom we know nothing of, may have any."""
    if stranger:
        modes = (agent.default_mode,) if agent.default_mode else ()
        return msgspec.structs.replace(agent, modes=modes, acp_modes={mode: mode for mode in modes}, efforts=None)
    try:
        check_options(agent, model=agent.default_model, effort=agent.default_effort, permission_mode=agent.default_mode)
    except HapiError as error:
        raise _bad(agent.name, error.words) from None
    return agent


def _conversation(key: str, value: Conversation | None) -> Conversation | None:
    """As it stands in the settings, if it makes sense."""
    if value is None:
        return None
    for name in ("new", "resume"):
        words = getattr(value, name)
        if words and not any("{id}" in word for word in words):
            raise _bad(f"{key}.{name}", "must have {id} in it, for the conversation's id")
    for name in ("file", "farewell"):
        pattern = getattr(value, name)
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise _bad(f"{key}.{name}", f"is no regular expression: {error}") from None
        if pattern and groups != 1:
            raise _bad(f"{key}.{name}", "must have one group, for the conversation's id")
    return value


def _words(key: str, value: str | list[str] | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    import shlex

    try:
        words = shlex.split(value) if isinstance(value, str) else value
    except ValueError as error:
        raise _bad(key, str(error)) from None
    if not words or not words[0]:
        raise _bad(key, "is empty")
    return tuple(words)


def _override(agent: Agent, searched: str, environ: Mapping[str, str]) -> str | None:
    value = environ.get(agent.override) if agent.override else None
    program = which(value, searched) if value else None
    if value and program is None:
        hint = f"Point {agent.override} at an executable file, or unset it."
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"{agent.override} names no program: {value}", hint)
    return program


def _override_args(agent: Agent, command: Sequence[str], environ: Mapping[str, str]) -> Sequence[str]:
    raw = environ.get(agent.override_args) if agent.override_args else None
    try:
        return msgspec.json.decode(raw, type=list[str]) if raw else command[1:]
    except msgspec.MsgspecError:
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"{agent.override_args} must be a JSON list of strings.") from None


def _with_flags(command: list[str], flags: Sequence[str]) -> list[str]:
    at = command.index(FLAGS) if FLAGS in command else len(command)
    return [*command[:at], *flags, *command[at + 1 :]]


def _why_not(flavor: str, config: Config, path: str | None) -> str | None:
    try:
        resolve(find(flavor, config), path)
    except HapiError as error:
        return "not_found" if error.code is ErrorCode.AGENT_UNAVAILABLE else "invalid_configuration"
    return None


def _parents(path: str) -> Iterator[str]:
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        yield path


def _known(what: str, values: Sequence[str]) -> str:
    return f"Its {what}: {', '.join(values)}." if values else f"It has no {what} to choose from."


def _unavailable(message: str, hint: str) -> HapiError:
    return HapiError(ErrorCode.AGENT_UNAVAILABLE, message, hint)


def _bad_option(message: str, hint: str) -> HapiError:
    return HapiError(ErrorCode.BAD_REQUEST, f"{message}.", hint)


def _bad(key: str, why: str) -> HapiError:
    hint = "docs/agents.md tells what an agent's settings may hold."
    return HapiError(ErrorCode.BAD_CONFIGURATION, f"settings.json: agents.{key}: {why}", hint)
