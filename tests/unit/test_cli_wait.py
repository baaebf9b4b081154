"""`hapi wait` at runners that a test plays: an older one, one that is on its way out, one that is slow."""

import pytest

from hapi import config, wire
from hapi.cli import app
from tests.unit.test_cli_fake import FakeBroker, session, status

ID = "1f0c"
LEAVING = wire.Failure("shutting_down", "The runner stopped.", "Start it again: hapi runner start")
REFUSAL = wire.Failure("bad_request", "Not a message for this receiver: Invalid value 'wait_session'")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of one's own, and little patience with a runner that is away."""
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    for name in ("CLI_API_TOKEN", "HAPI_NAMESPACE", "HAPI_API_URL", "HAPI_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("hapi.cli.wait.RETURN_S", 0.3)


@pytest.fixture
def hapi(capsys):
    def run(*words):
        code = app.run(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def broker(*replies):
    """A runner that answers one wait after the other, the last one for ever."""
    left = list(replies)

    def answer(body):
        if not isinstance(body, wire.WaitSession):
            return status()
        return left.pop(0) if len(left) > 1 else left[0]

    return FakeBroker(config.load().paths, answer)


def waits(broker):
    return [body for body in broker.asked if isinstance(body, wire.WaitSession)]


def test_an_older_runner_says_that_it_cannot(hapi):
    with broker(REFUSAL):
        code, _, err = hapi("wait", ID)
    assert code == 1
    assert "older version" in err
    assert "hapi runner restart" in err


def test_a_runner_that_is_replaced_is_asked_again(hapi):
    info = session()
    with broker(LEAVING, LEAVING, wire.Waited(info, reached=True)) as fake:
        assert hapi("wait", ID)[:2] == (0, "idle\n")
    assert len(waits(fake)) == 3


def test_one_that_does_not_come_back_is_given_up(hapi):
    with broker(LEAVING) as fake:
        code, _, err = hapi("wait", ID)
    assert code == 1
    assert "The runner stopped" in err
    assert len(waits(fake)) > 1


def test_patience_is_asked_for_in_slices_and_a_prefix_once(hapi):
    """No request holds a place at the runner for longer than it allows; a prefix may come to mean another session."""
    info = session()
    later = wire.Waited(info, reached=False)
    with broker(later, later, wire.Waited(info, reached=True)) as fake:
        assert hapi("wait", ID, "--timeout", "3600")[0] == 0
    assert [body.target for body in waits(fake)] == [ID, info.session_id, info.session_id]
    assert all(0 < body.timeout_ms <= wire.MAX_WAIT_MS for body in waits(fake))
