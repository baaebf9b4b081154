"""What is in force in a session: judged, set, deferred, and taken over from the agent."""

import copy

import pytest

from hapi import wire
from hapi.agents.built_in import BUILT_IN
from hapi.agents.offers import Offers
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import Phase
from hapi.workers.supervisor.configuring import Configuration
from hapi.workers.supervisor.start import continued


class Driver:
    """An agent with these modes, models and options, that does as it is told unless `refuses` says otherwise."""

    ended = False

    def __init__(self, *, modes=(), models=(), **options):
        self.offers = Offers(
            {
                "modes": {"currentModeId": modes[0], "availableModes": [{"id": mode} for mode in modes]}
                if modes
                else None,
                "models": {"currentModelId": models[0], "availableModels": [{"modelId": model} for model in models]}
                if models
                else None,
                "configOptions": [self._option(name, values[0], values) for name, values in options.items()],
            }
        )
        self.calls = []
        self.refuses = None
        self.meanwhile = lambda: None

    def _option(self, name, value, values):
        return {"id": name, "currentValue": value, "options": [{"value": each} for each in values]}

    def _do(self, *call):
        self.calls.append(call)
        self.meanwhile()
        if self.refuses is not None:
            raise HapiError(self.refuses, "Not now.")

    async def set_mode(self, mode, patience_s):
        self._do("mode", mode)
        self.offers.mode = mode
        return True

    async def set_model(self, model, option, patience_s):
        self._do("model", model)
        known = bool(self.offers.models(option))
        self.offers.model = model if known else None
        return known

    async def set_option(self, names, value, patience_s):
        option = self.offers.find(*names)
        if option is None:
            return False
        self._do(option.id, value)
        now = [
            self._option(o.id, value if o is option else o.value, [c.value for c in o.choices])
            for o in self.offers.options
        ]
        self.offers.take_options(now)
        return True


class Case:
    def __init__(self, agent, driver, **chosen):
        self.info = wire.SessionInfo(
            session_id="s",
            namespace="n",
            agent=agent,
            directory="/",
            phase=Phase.IDLE,
            started_by="runner",
            started_at=1,
        )
        self.driver = driver
        self.order = wire.Spawn(session_id="s", directory="/", agent=agent, started_by="runner", **chosen)
        self.configuration = Configuration(BUILT_IN[agent], self.info, driver)
        self.busy = False
        self.changes = 0
        self.configuration.listen(self._changed, lambda: self.busy)

    def _changed(self):
        self.changes += 1

    async def begin(self, *, resumed=False):
        self.notes = await self.configuration.begin(self.order, resumed=resumed)
        self.driver.calls.clear()
        return self

    async def apply(self, **values):
        return await self.configuration.apply(values)

    async def refused(self, **values):
        with pytest.raises(HapiError) as caught:
            await self.apply(**values)
        return caught.value


CURSOR = {"modes": ("agent", "plan", "ask"), "models": ("auto", "gpt")}


async def test_several_at_once_and_each_is_answered():
    case = await Case("codex", Driver(models=("a", "b"), thought_level=("low", "high"))).begin()
    applied = await case.apply(model="b", modelReasoningEffort="high", permissionMode="yolo")
    assert applied == {"model": "b", "modelReasoningEffort": "high", "permissionMode": "yolo"}
    assert (case.info.model, case.info.effort, case.info.permission_mode) == ("b", "high", "yolo")
    assert case.driver.calls == [("model", "b"), ("thought_level", "high"), ("mode", "full-access")]
    assert case.changes


async def test_one_that_is_wrong_changes_nothing():
    case = await Case("codex", Driver(models=("a", "b"), thought_level=("low", "high"))).begin()
    error = await case.refused(model="b", modelReasoningEffort="ultra")
    assert (error.code, case.driver.calls, case.info.model) == (ErrorCode.BAD_REQUEST, [], "a")
    assert "low, high" in error.message


@pytest.mark.parametrize(
    ("agent", "driver", "values", "words"),
    [
        ("dsh", {}, {"model": "x"}, "dsh takes no model"),
        ("kimi", {}, {"model": "x"}, "kimi offers no model to change"),
        ("kimi", {}, {"effort": "high"}, "kimi has no effort 'high'. It takes none."),
        ("codex", {}, {"effort": "high"}, "codex offers no effort to change"),
        ("codex", {}, {"serviceTier": "fast"}, "codex offers no service tier to change"),
        ("codex", {}, {"collaborationMode": "plan"}, "codex offers no collaboration mode"),
        ("copilot", {}, {"copilotAgentMode": "autopilot"}, "copilot does not offer the agent mode 'autopilot'"),
        ("pi", {}, {"permissionMode": "default"}, "pi has no permission mode 'default'. It has none."),
        ("cursor", CURSOR, {"permissionMode": "debug"}, "does not offer the mode 'debug'. It has: agent, plan, ask."),
        ("cursor", CURSOR, {"model": "llama"}, "cursor has no model 'llama'. It has: auto, gpt."),
        ("kimi", {}, {"model": None}, "kimi does not say what its default model is"),
        ("kimi", {}, {"colour": "blue"}, "There is no setting 'colour'"),
    ],
)
async def test_refusals_name_the_agent_and_what_there_is(agent, driver, values, words):
    case = await Case(agent, Driver(**driver)).begin()
    error = await case.refused(**values)
    assert error.code is ErrorCode.BAD_REQUEST
    assert words in error.message


@pytest.mark.parametrize("key", ["serviceTier", "collaborationMode", "copilotAgentMode"])
async def test_the_usual_is_in_force_where_there_is_nothing_else(key):
    case = await Case("codex", Driver()).begin()
    usual = {"serviceTier": "standard", "collaborationMode": "default", "copilotAgentMode": "interactive"}[key]
    assert await case.apply(**{key: usual}) == {key: usual}
    assert await case.apply(**{key: None}) == {key: usual}


async def test_null_is_what_the_agent_began_with():
    case = await Case(
        "codex", Driver(models=("a", "b"), thought_level=("low", "high")), model="b", effort="high"
    ).begin()
    assert (case.info.model, case.info.defaults) == ("b", {"model": "a", "effort": "low"})
    assert await case.apply(model=None, effort=None) == {"model": "a", "effort": "low"}


async def test_a_resumed_conversation_is_no_default():
    case = Case("codex", Driver(models=("b", "a", "default")))
    case.info.defaults = {"model": "a"}
    await case.begin(resumed=True)
    assert await case.apply(model=None) == {"model": "a"}
    case.info.defaults = {}
    assert await case.apply(model=None) == {"model": "default"}


@pytest.mark.parametrize(
    ("agent", "modes", "mode", "native"),
    [
        ("codex", (), "yolo", "full-access"),
        ("codex", (), "safe-yolo", "auto"),
        ("opencode", ("build", "plan"), "plan", "plan"),
        ("opencode", ("build", "plan"), "yolo", "build"),
        ("cursor", ("agent", "plan", "ask"), "yolo", "agent"),
        ("kimi", (), "yolo", None),
        ("copilot", ("x#agent", "x#plan"), "yolo", None),
        ("claude", ("default", "plan"), "bypassPermissions", "bypassPermissions"),
    ],
)
async def test_modes_as_the_agent_calls_them(agent, modes, mode, native):
    case = await Case(agent, Driver(modes=modes)).begin()
    await case.apply(permissionMode=mode)
    assert case.driver.calls == ([("mode", native)] if native else [])
    assert (case.info.permission_mode, case.configuration.allowing) == (mode, mode)


@pytest.mark.parametrize(
    ("driver", "wanted", "native"),
    [(("x#agent", "x#plan"), "plan", "x#plan"), (("x#plan", "x#agent"), "interactive", "x#agent")],
)
async def test_copilots_agent_modes(driver, wanted, native):
    case = await Case("copilot", Driver(modes=driver), permission_mode="yolo").begin()
    assert await case.apply(copilotAgentMode=wanted) == {"copilotAgentMode": wanted}
    assert case.driver.calls == [("mode", native)]
    assert case.info.permission_mode == "yolo"


async def test_what_the_order_says_is_set_and_what_is_turned_down_is_said():
    options = {"thought_level": ("low", "high"), "service_tier": ("standard", "fast")}
    driver = Driver(models=("a", "b"), **options)
    case = Case("codex", driver, model="b", effort="high", config={"serviceTier": "fast", "collaborationMode": "plan"})
    await case.begin()
    assert (case.info.model, case.info.effort) == ("b", "high")
    assert case.info.config == {"serviceTier": "fast"}
    assert case.notes == ["codex offers no collaboration mode to change; plan was ignored."]


async def test_a_busy_agent_that_refuses_gets_it_before_the_next_prompt():
    case = await Case("cursor", Driver(**CURSOR)).begin()
    case.busy, case.driver.refuses = True, ErrorCode.AGENT_TIMEOUT
    assert await case.apply(model="gpt", permissionMode="plan") == {"model": "gpt", "permissionMode": "plan"}
    case.configuration.heard()
    assert (case.info.model, case.configuration.allowing) == ("gpt", "plan")
    case.busy, case.driver.refuses = False, None
    case.driver.calls.clear()
    assert await case.configuration.settle() == []
    assert case.driver.calls == [("model", "gpt"), ("mode", "plan")]
    assert await case.configuration.settle() == []
    assert len(case.driver.calls) == 2


async def test_what_is_refused_in_the_end_is_said_and_taken_back():
    case = await Case("cursor", Driver(**CURSOR)).begin()
    case.busy, case.driver.refuses = True, ErrorCode.AGENT_FAILED
    await case.apply(model="gpt")
    case.busy = False
    (note,) = await case.configuration.settle()
    assert note == "The model is not gpt: Not now."
    assert case.info.model == "auto"


async def test_an_idle_agents_refusal_is_the_answer():
    case = await Case("cursor", Driver(**CURSOR), permission_mode="yolo").begin()
    case.driver.refuses = ErrorCode.AGENT_FAILED
    assert (await case.refused(permissionMode="plan")).code is ErrorCode.AGENT_FAILED
    assert (case.info.permission_mode, case.configuration.allowing) == ("yolo", "yolo")


async def test_a_stricter_mode_holds_while_the_agent_is_still_told():
    case = await Case("cursor", Driver(**CURSOR), permission_mode="yolo").begin()
    allowing = []
    case.driver.meanwhile = lambda: allowing.append(case.configuration.allowing)
    await case.apply(permissionMode="default")
    await case.apply(permissionMode="yolo")
    assert allowing == ["default", "default"]


@pytest.mark.parametrize(("native", "mode", "allowing"), [("plan", "plan", "plan"), ("full", "default", "default")])
async def test_the_agents_own_change_of_mode(native, mode, allowing):
    case = await Case("cursor", Driver(**CURSOR), permission_mode="default").begin()
    case.driver.offers.take_update({"sessionUpdate": "current_mode_update", "currentModeId": native})
    case.configuration.heard()
    assert (case.info.permission_mode, case.configuration.allowing) == (mode, allowing)


async def test_the_echo_of_our_own_change_is_no_news():
    """Several of our modes are one to the agent: its word for them must not take us from one to the other."""
    case = await Case("codex", Driver()).begin()
    case.driver.meanwhile = lambda: (
        case.driver.offers.take_update({"sessionUpdate": "current_mode_update", "currentModeId": "auto"}),
        case.configuration.heard(),
    )
    await case.apply(permissionMode="safe-yolo")
    changes = case.changes
    case.configuration.heard()
    assert (case.info.permission_mode, case.changes) == ("safe-yolo", changes)


async def test_a_model_without_levels_has_no_effort():
    case = await Case("codex", Driver(model=("a", "b"), thought_level=("low", "high")), effort="high").begin()
    case.driver.offers.take_options([{"id": "model", "currentValue": "b", "options": [{"value": "b"}]}])
    case.configuration.heard()
    assert (case.info.model, case.info.effort) == ("b", None)


MODES = ("default", "plan", "acceptEdits", "bypassPermissions")


def goes_to(case, native):
    case.driver.offers.take_update({"sessionUpdate": "current_mode_update", "currentModeId": native})
    case.configuration.heard()


@pytest.mark.parametrize(
    ("chosen", "native", "allowing"),
    [
        ("default", "bypassPermissions", "default"),
        ("default", "acceptEdits", "default"),
        ("acceptEdits", "plan", "plan"),
        ("bypassPermissions", "default", "default"),
        (None, "acceptEdits", "default"),
    ],
)
async def test_a_mode_of_the_agents_own_choice_grants_nothing(chosen, native, allowing):
    """`acceptEdits` did; and a session that went on after a reboot had what the agent had gone to as a person's choice."""
    case = await Case("claude", Driver(modes=MODES), permission_mode=chosen).begin()
    goes_to(case, native)
    assert (case.info.permission_mode, case.configuration.allowing) == (native, allowing)
    for asked in (None, native):  # the hub repeats in a reopen what it was shown
        assert reopened(case.info, asked).permission_mode == allowing
    assert reopened(case.info, "plan").permission_mode == "plan"


def reopened(previous, asked):
    order = wire.Spawn(session_id="s", directory="/", agent="claude", started_by="runner", permission_mode=asked)
    return continued(order, copy.copy(previous), previous, None)


def test_where_nobody_chose_a_mode_the_agent_has_its_own_again():
    case = Case("demo", Driver())
    case.info.permission_mode, case.info.granted_mode = "bypassPermissions", ""
    assert reopened(case.info, "bypassPermissions").permission_mode is None


async def test_back_in_the_mode_that_was_chosen_all_is_as_it_was():
    case = await Case("claude", Driver(modes=MODES), permission_mode="bypassPermissions").begin()
    goes_to(case, "plan")
    goes_to(case, "bypassPermissions")
    assert (case.configuration.allowing, case.info.granted_mode) == ("bypassPermissions", None)


async def test_what_cannot_be_set_in_the_end_does_not_grant_what_the_agent_took():
    case = await Case("claude", Driver(modes=MODES), permission_mode="default").begin()
    goes_to(case, "bypassPermissions")
    case.busy, case.driver.refuses = True, ErrorCode.AGENT_FAILED
    await case.apply(permissionMode="plan")
    case.busy = False
    assert len(await case.configuration.settle()) == 1
    assert case.configuration.allowing == "default"


async def test_a_change_that_waits_outlives_one_that_is_refused():
    """It was dropped, and shown as if it were in force."""
    case = await Case("cursor", Driver(**CURSOR | {"models": ("auto", "gpt", "opus")})).begin()
    case.busy, case.driver.refuses = True, ErrorCode.AGENT_FAILED
    await case.apply(model="gpt")
    case.busy = False
    await case.refused(model="opus")
    assert case.info.model == "gpt"
    case.driver.refuses = None
    case.driver.calls.clear()
    assert await case.configuration.settle() == []
    assert case.driver.calls == [("model", "gpt")]


async def test_whoever_answers_questions_hears_of_a_mode_that_there_is_not():
    """The answer to a permission had put it in force for the questions, and there it stayed."""
    case = await Case("claude", Driver(modes=MODES), permission_mode="default").begin()
    before = case.changes
    await case.refused(permissionMode="safe-yolo")
    assert case.changes == before + 1


@pytest.mark.parametrize("value", ["standard", None])
async def test_what_only_the_command_line_could_say_is_not_taken_back_in_words(value):
    """The web showed the standard tier while the agent went on with the fast one."""
    case = await Case("codex", Driver(), config={"serviceTier": "fast"}).begin()
    assert (case.notes, case.info.config) == ([], {"serviceTier": "fast"})
    assert "offers no service tier to change" in (await case.refused(serviceTier=value)).message
    assert case.info.config == {"serviceTier": "fast"}
