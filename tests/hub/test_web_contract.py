"""RPCs that the web app's buttons reach on a detour only: switch, hand-off, and the hub's own stop of a failed resume."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.hub import OfficialHub, WebError
from tests.support.wait import until
from tests.support.web_stage import SOON, Stage, end_all, on_stage

pytestmark = pytest.mark.hub
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def theatre(shared_hub: OfficialHub) -> Iterator[Stage]:
    with on_stage(shared_hub, "contract") as found:
        yield found


@pytest.fixture
def stage(theatre: Stage) -> Iterator[Stage]:
    yield theatre
    end_all(theatre)


def test_switch_changes_nothing_for_a_session_that_is_remote_always(stage: Stage) -> None:
    session = stage.new()
    stage.web.post(f"/api/sessions/{session}/switch", to="remote")
    assert stage.row(session)["agentState"]["controlledByUser"] is False
    assert stage.say(session, "/say still here") == "still here"


def test_switch_of_nobody_is_refused_and_hostile_words_change_nothing(stage: Stage) -> None:
    session = stage.new()
    with pytest.raises(WebError):
        stage.web.post(f"/api/sessions/{NOBODY}/switch", to="remote")
    stage.web.post(f"/api/sessions/{session}/switch", to="../local")  # the hub asks for "remote" whatever it is told
    assert stage.row(session)["agentState"]["controlledByUser"] is False
    assert stage.say(session, "/say still here") == "still here"


def test_a_failed_resume_of_pi_is_stopped_by_the_hub_and_may_be_tried_again(stage: Stage) -> None:
    """The hub asks the machine to stop it, and refuses further resumes unless it hears that it is gone."""
    place = stage.root / "pi-place"
    place.mkdir()
    session = stage.new(agent="pi", directory=str(place))
    stage.say(session, "hello")
    assert stage.web.archive(session)["ok"] is True
    until(lambda: stage.lifecycle(session) == (False, "archived"), SOON, "archived")
    place.rmdir()
    with pytest.raises(WebError) as refused:
        stage.reopen(session)
    assert refused.value.status >= 400
    place.mkdir()
    assert stage.reopen(session)["sessionId"] == session
    assert stage.say(session, "/count") == "2"
