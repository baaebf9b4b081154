"""Who may pass from the chat into a terminal or back, and what is asked of the runner for it."""

from __future__ import annotations

import pytest

from hapi import config as configuration
from hapi import handover, wire
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import Phase

SESSION = "00000000-0000-4000-8000-000000000001"
DEMO = {"use": "demo"}


@pytest.fixture
def config(tmp_path):
    """A configuration in which `chatty` has no terminal interface, and `forgetful` cannot resume in its own."""
    loaded = configuration.load(environ={"HAPI_HOME": str(tmp_path / "home")})
    agents = {
        "mine": DEMO,
        "chatty": {"command": "sh"},
        "forgetful": {"command": "sh", "terminal": "sh"},
    }
    fields = {name: getattr(loaded, name) for name in loaded.__struct_fields__} | {"agents": agents}
    return configuration.Config(**fields)


def session(**more) -> wire.SessionInfo:
    known = {"agent": "demo", "phase": Phase.IDLE, "native_id": "n-1", "directory": "/d", "started_by": "terminal"}
    return wire.SessionInfo(session_id=SESSION, namespace="default", started_at=1, **known | more)


def refusal(config, info, driver, *, cut=False) -> HapiError:
    with pytest.raises(HapiError) as caught:
        handover.steps(info, driver, config, {"PATH": "/bin"}, cut=cut)
    return caught.value


@pytest.mark.parametrize(("have", "want"), [("acp", "pty"), ("pty", "acp")])
def test_a_living_session_is_stopped_for_it_and_goes_on_in_its_own_conversation(config, have, want):
    steps = handover.steps(session(driver=have), want, config, {})
    assert steps.stop == wire.StopSession(SESSION, handoff=True)
    assert steps.spawn == wire.Spawn(
        session_id=SESSION,
        directory="/d",
        agent="demo",
        started_by="terminal",
        existing=True,
        resume="n-1",
        driver=want,
    )


@pytest.mark.parametrize("driver", ["acp", "pty"])
def test_one_that_ended_is_taken_up_by_either(config, driver):
    for before in ("acp", "pty"):
        steps = handover.steps(session(driver=before, phase=Phase.ENDED, reason="completed"), driver, config, {})
        assert steps.stop is None
        assert steps.spawn is not None
        assert (steps.spawn.driver, steps.spawn.resume) == (driver, "n-1")


def test_one_that_is_there_already_stays(config):
    assert (
        handover.steps(session(driver="pty", native_id=None, phase=Phase.WORKING), "pty", config, {})
        == handover.Steps()
    )


@pytest.mark.parametrize("phase", [Phase.WORKING, Phase.WAITING])
def test_one_at_work_is_cut_only_when_that_is_said(config, phase):
    assert "hapi wait" in refusal(config, session(phase=phase), "pty").hint
    assert handover.steps(session(phase=phase), "pty", config, {}, cut=True).stop is not None


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.STOPPING])
def test_one_that_starts_or_stops_is_left_alone(config, phase):
    assert refusal(config, session(phase=phase), "pty", cut=True).code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("more", "driver", "words"),
    [
        ({"native_id": None, "driver": "pty"}, "acp", "has not told the id"),
        ({"agent": "make", "driver": "pty"}, "acp", "is a command, not an agent"),
        ({"agent": "chatty"}, "pty", "has no terminal interface"),
        ({"agent": "forgetful"}, "pty", "cannot take up a conversation in the terminal"),
        ({"agent": "dsh"}, "pty", "has no terminal interface"),
        ({"agent": "agy", "driver": "pty"}, "acp", "has no chat interface"),
        ({"agent": "dsh", "driver": "pty"}, "acp", "cannot take up a conversation in the chat"),
    ],
)
def test_what_cannot_be_is_refused_with_words(config, more, driver, words):
    error = refusal(config, session(**more), driver)
    assert error.code is ErrorCode.BAD_REQUEST
    assert words in error.message


def test_a_program_that_is_missing_is_told_before_anything_is_stopped(config):
    assert refusal(config, session(agent="claude"), "pty").code is ErrorCode.AGENT_UNAVAILABLE


def test_who_can_chat(config):
    assert handover.can_chat(session(agent="mine", driver="pty"), config)
    assert not handover.can_chat(session(), config)
    assert not handover.can_chat(session(driver="pty", native_id=None), config)
    assert not handover.can_chat(session(driver="pty", agent="vim"), config)


def test_the_way_back_is_as_it_was(config):
    order = handover.back(session(driver="acp"))
    assert (order.driver, order.resume, order.existing) == ("acp", "n-1", True)
