"""Model, effort, permission mode and the other options of one session: set at the start, changed live, kept on record.

What the agent says is in force wins over what was asked for. `SessionInfo` holds the values, the agent's `Offers` what
there is to choose from. Meaning of the keys: the hub's protocol, §5.10, §5.11 and §8.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from hapi import wire
from hapi.agents import offers, table
from hapi.agents.built_in import NEUTRAL, Agent
from hapi.errors import ErrorCode, HapiError
from hapi.workers.supervisor import permissions
from hapi.workers.supervisor.acp_driver import AcpDriver

PATIENCE_S = 10.0
BUSY_PATIENCE_S = 3.0
MODE, MODEL, EFFORT, AGENT_MODE = "permissionMode", "model", "effort", "copilotAgentMode"
_SAME = {"modelReasoningEffort": EFFORT}
_OPTIONS = {
    "serviceTier": ("service_tier", "serviceTier", "service-tier"),
    "collaborationMode": ("collaboration_mode", "collaborationMode", "collaboration-mode"),
}
_WORDS = {
    "serviceTier": "service tier",
    "collaborationMode": "collaboration mode",
    AGENT_MODE: "agent mode",
    MODE: "permission mode",
}
_AGENT_MODES = {"interactive": ("agent", "interactive", "default")}
_LATER = frozenset({ErrorCode.AGENT_FAILED, ErrorCode.AGENT_TIMEOUT})


class Configuration:
    """What is in force in one session. `allowing` is the mode by which the agent's questions are answered.

    A mode that the agent took by itself is shown, but never makes us approve what the person's choice did not, and
    neither does it in a continued session (`SessionInfo.granted_mode`).
    """

    def __init__(self, entry: Agent, info: wire.SessionInfo, driver: AcpDriver) -> None:
        self._entry = entry
        self._info = info
        self._driver = driver
        self._changed: Callable[[], None] = lambda: None
        self._busy: Callable[[], bool] = lambda: False
        self._one = asyncio.Lock()
        self._switching = False
        self._seen: str | None = None  # the agent's own mode when we last looked
        self._later: dict[str, tuple[str, str | None]] = {}  # what waits for the next prompt, and what was before
        self._chosen: str | None = None  # the mode that a person, or the order, said last
        self.allowing: str | None = None

    def listen(self, changed: Callable[[], None], busy: Callable[[], bool]) -> None:
        """`changed` is called after every change; `busy` says whether a turn runs."""
        self._changed, self._busy = changed, busy

    @property
    def unsettled(self) -> bool:
        """Whether a change waits for the next prompt."""
        return bool(self._later)

    @property
    def plan_denies(self) -> bool:
        """Whether we keep the agent from writing in plan mode: it has no such mode, or asks in it all the same."""
        return self._entry.asks_in_plan or self._own_mode("plan") is None

    def models(self) -> list[wire.Choice]:
        """The models that the agent offers."""
        return self._driver.offers.models(self._entry.model_option) if self._entry.takes_model else []

    def efforts(self) -> list[wire.Choice]:
        """The levels that it offers for the model that is chosen now."""
        return self._driver.offers.efforts(self._entry.effort_option)

    def modes(self) -> list[wire.Choice]:
        """The agent's own modes."""
        return self._driver.offers.all_modes()

    async def begin(self, order: wire.Spawn, *, resumed: bool) -> list[str]:
        """Put the order in force as far as the command line did not; what the agent turns down is returned in words.

        Raises HapiError when the agent ends meanwhile.
        """
        info, entry, notes = self._info, self._entry, list[str]()
        mode = table.permission_mode(entry, order.permission_mode, yolo=order.yolo)
        info.model, info.effort = order.model or entry.default_model, order.effort or entry.default_effort
        self._put(MODE, mode)
        info.config = dict(order.config)
        if not resumed:  # a resumed one says what was chosen in it
            info.defaults = {key: value for key, value in self._said() if key in {MODEL, EFFORT}}
        for key, value in self._unsaid():
            try:
                await self._set(key, value, PATIENCE_S)
            except HapiError as error:
                if self._driver.ended:
                    raise
                self._forget(key)
                notes.append(error.message)
        self._follow()
        return notes

    async def apply(self, values: dict[str, str | None]) -> dict[str, str | None]:
        """Change settings; the values now in force, one for every key asked for. None means the default again.

        All keys are judged before the first is changed. While a turn runs, what the agent will not do at once is done
        before the next prompt. Raises HapiError: bad_request for what this agent does not have, agent_failed or
        agent_timeout when it refuses.
        """
        async with self._one:
            try:
                wanted = [(key, self._checked(key, value)) for key, value in values.items()]
                for key, value in wanted:
                    await self._now_or_later(_SAME.get(key, key), value)
            finally:
                self._follow()
                self._changed()
        return {key: self._get(_SAME.get(key, key)) for key in values}

    async def settle(self) -> list[str]:
        """Before a prompt: do what had to wait for the end of a turn; returns in words what the agent turned down."""
        notes: list[str] = []
        async with self._one:
            later, self._later = self._later, {}
            for key, (value, before) in later.items():
                try:
                    await self._set(key, value, PATIENCE_S)
                except HapiError as error:
                    self._put(key, before)
                    if self._driver.ended:
                        return []  # nothing is in force any more
                    notes.append(f"The {_WORDS.get(key, key)} is not {value}: {error.message}")
            self._follow()
            self._changed()
        return notes

    def heard(self) -> None:
        """The agent told of a change: show it."""
        before = self._shown()
        self._follow()
        if self._shown() != before:
            self._changed()

    # -------------------------------------------------------------------------------------------------- judging

    def _checked(self, key: str, value: str | None) -> str:
        """The value to set, a default found. Raises HapiError(bad_request)."""
        setting = _SAME.get(key, key)
        wanted = value or self._default(setting)
        if wanted is None:
            raise _bad(f"{self._entry.name} does not say what its default {_WORDS.get(setting, key)} is; choose one.")
        match setting:
            case "model":
                self._check_model(wanted)
            case "effort":
                self._check_effort(wanted)
            case "permissionMode":
                self._check_mode(wanted)
            case _ if setting not in NEUTRAL:
                raise _bad(f"There is no setting {key!r}.")
        return wanted

    def _default(self, key: str) -> str | None:
        if key in NEUTRAL:
            return NEUTRAL[key]
        entry, listed = self._entry, {MODEL: self.models, EFFORT: self.efforts, MODE: self.modes}.get(key)
        own = {MODEL: entry.default_model, EFFORT: entry.default_effort, MODE: entry.default_mode}.get(key)
        named = "default" if listed is not None and "default" in {choice.value for choice in listed()} else None
        return own or self._info.defaults.get(key) or named

    def _check_model(self, model: str) -> None:
        known = self.models()
        if not self._entry.takes_model:
            raise _bad(f"{self._entry.name} takes no model.")
        if known and model not in {choice.value for choice in known}:
            raise _bad(f"{self._entry.name} has no model {model!r}. It has: {offers.names(known)}.")

    def _check_effort(self, effort: str) -> None:
        known = [choice.value for choice in self.efforts()] or self._entry.efforts
        if known is not None and effort not in known:
            has = f"It has: {', '.join(known)}." if known else "It takes none."
            raise _bad(f"{self._entry.name} has no effort {effort!r}. {has}")

    def _check_mode(self, mode: str) -> None:
        known = self._entry.modes or tuple(choice.value for choice in self.modes())
        if mode not in known:
            has = f"It has: {', '.join(known)}." if known else "It has none."
            raise _bad(f"{self._entry.name} has no permission mode {mode!r}. {has}")

    # -------------------------------------------------------------------------------------------------- setting

    async def _now_or_later(self, key: str, value: str) -> None:
        now = self.allowing if key == MODE else self._get(key)  # not what the agent may have gone to by itself
        before = self._later.get(key, ("", now))[1]
        try:
            await self._set(key, value, BUSY_PATIENCE_S if self._busy() else PATIENCE_S)
        except HapiError as error:
            if not self._busy() or error.code not in _LATER or self._driver.ended:
                raise  # what waited for the next prompt goes on waiting
            self._later[key] = (value, before)
            self._put(key, value)
        else:
            self._later.pop(key, None)

    async def _set(self, key: str, value: str, patience_s: float) -> None:
        """Have the agent do it. Raises HapiError(bad_request) when it offers no way to."""
        name, driver = self._entry.name, self._driver
        match key:
            case "permissionMode":
                return await self._set_mode(value, patience_s)
            case "copilotAgentMode":
                return await self._set_agent_mode(value, patience_s)
            case "model":
                done = await driver.set_model(value, self._entry.model_option, patience_s)
            case "effort":
                done = await driver.set_option((self._entry.effort_option,), value, patience_s)
            case _:
                started_with = self._get(key) in self._entry.flags.settings.get(key, {})  # no more to be taken back
                usual = value == NEUTRAL[key] and not started_with
                done = await driver.set_option(_OPTIONS[key], value, patience_s) or usual
        if not done:
            raise _bad(f"{name} offers no {_WORDS.get(key, key)} to change; {value} was ignored.")
        self._put(key, value)
        return None

    async def _set_mode(self, mode: str, patience_s: float) -> None:
        """Switch the agent to its own mode of that meaning; questions are answered by a stricter mode at once."""
        before, native = self.allowing, self._native(mode)
        if native is None and mode in permissions.AGENTS_OWN:
            raise _bad(f"{self._entry.name} does not offer the mode {mode!r}. It has: {offers.names(self.modes())}.")
        if not permissions.grants_all(mode):
            self.allowing = mode
            self._changed()
        try:
            await self._switch(native, patience_s)
        except HapiError:
            self.allowing = before
            raise
        self._put(MODE, mode)

    async def _set_agent_mode(self, mode: str, patience_s: float) -> None:
        candidates = _AGENT_MODES.get(mode, (mode,))
        native = next(filter(None, map(self._driver.offers.own_mode, candidates)), None)
        if native is not None:
            await self._switch(native, patience_s)
        elif mode != NEUTRAL[AGENT_MODE]:
            known = offers.names(self.modes()) or "none"
            raise _bad(f"{self._entry.name} does not offer the agent mode {mode!r}. It offers: {known}.")
        self._put(AGENT_MODE, mode)

    async def _switch(self, native: str | None, patience_s: float) -> None:
        """Switch the agent's own mode; that it tells of the change meanwhile is no news."""
        self._switching = True
        try:
            if native is not None:
                await self._driver.set_mode(native, patience_s)
        finally:
            self._switching = False
            self._seen = self._driver.offers.mode

    def _native(self, mode: str) -> str | None:
        """The agent's own mode for one of ours: its equal, else its default, which our answers then make into that."""
        equal = self._own_mode(mode)
        if equal is not None or mode in permissions.AGENTS_OWN or AGENT_MODE in self._entry.settings:
            return equal  # its own modes are those of AGENT_MODE
        return self._own_mode("default")

    def _own_mode(self, mode: str) -> str | None:
        return self._entry.acp_modes.get(mode) or self._driver.offers.own_mode(mode)

    # ------------------------------------------------------------------------------------------------- following

    def _follow(self) -> None:
        """Take over what the agent says, except where our change is still to be made."""
        for key, value in self._said():
            if key not in self._later:
                self._put(key, value, by_agent=True)
        if not self._switching:
            self._seen = self._driver.offers.mode
        entry = self._entry
        if EFFORT not in self._later and not entry.flags.effort and not self.efforts():
            self._info.effort = None  # this model has no levels

    def _said(self) -> Iterator[tuple[str, str]]:
        """(key, value) of all that the agent says is in force."""
        now, entry = self._driver.offers, self._entry
        model, effort = now.model, now.effort(entry.effort_option)
        said = {  # but what cannot be asked for is not remembered as a choice
            MODEL: model if entry.takes_model else None,
            EFFORT: effort if entry.efforts is None or effort in entry.efforts else None,
            MODE: self._mode_said(),
        }
        for key, names in _OPTIONS.items():
            option = now.find(*names)
            said[key] = option.value if option is not None else None
        yield from ((key, value) for key, value in said.items() if value is not None)

    def _mode_said(self) -> str | None:
        """Our name for the mode that the agent has gone to; of several that mean the same to it, the one in force."""
        native, current = self._driver.offers.mode, self._info.permission_mode
        if native in {None, self._seen} or self._switching or (current and native == self._native(current)):
            return None
        return next((ours for ours in self._entry.modes if self._own_mode(ours) == native), None)

    def _put(self, key: str, value: str | None, *, by_agent: bool = False) -> None:
        info = self._info
        match key:
            case "model":
                info.model = value
            case "effort":
                info.effort = value
            case "permissionMode":
                self._put_mode(value, by_agent=by_agent)
            case _ if value is not None:
                info.config = info.config | {key: value}
            case _:
                info.config = {name: kept for name, kept in info.config.items() if name != key}

    def _put_mode(self, mode: str | None, *, by_agent: bool) -> None:
        info = self._info
        info.permission_mode = mode
        if not by_agent:
            self._chosen = mode
        if permissions.grants_no_more(mode, self._chosen):
            self.allowing = mode
        info.granted_mode = None if self.allowing == mode else self.allowing or ""

    def _get(self, key: str) -> str | None:
        info = self._info
        known = {MODEL: info.model, EFFORT: info.effort, MODE: info.permission_mode}
        return known[key] if key in known else info.config.get(key)

    def _forget(self, key: str) -> None:
        """The agent does not do what the order says: nothing of it is in force."""
        self._put(key, "default" if key == MODE and "default" in self._entry.modes else None)

    def _unsaid(self) -> Iterator[tuple[str, str]]:
        """What is in force by the order and was not said on the command line."""
        info, flags = self._info, self._entry.flags
        if info.permission_mode and info.permission_mode not in flags.modes:
            yield MODE, info.permission_mode
        if info.model and not flags.model:
            yield MODEL, info.model
        if info.effort and not flags.effort:
            yield EFFORT, info.effort
        for key, value in info.config.items():
            said = value in flags.settings.get(key, {}) and self._driver.offers.find(*_OPTIONS.get(key, ())) is None
            if key in NEUTRAL and not said:
                yield key, value

    def _shown(self) -> tuple[str | None, ...]:
        return tuple(self._get(key) for key in (MODE, MODEL, EFFORT, *NEUTRAL))


def _bad(message: str) -> HapiError:
    return HapiError(ErrorCode.BAD_REQUEST, message)
