"""A broker for the tests of the command line, on the real endpoint with the real lock; and the control client itself."""

import contextlib
import threading

import pytest
import zmq

from hapi import __version__, config, control, wire
from hapi.errors import ErrorCode, HapiError, NotRunning
from hapi.files import FileLock
from hapi.ids import ProcessId
from hapi.lifecycle import EndReason, Phase
from hapi.procs import own_identity

SESSION = "1f0c22ab-0000-4000-8000-000000000001"


def status(**changes):
    """A plausible Status."""
    values = {
        "pid": 4711,
        "version": __version__,
        "namespace": "default",
        "endpoint": "ipc:///run/broker.sock",
        "started_at": 1_700_000_000_000,
        "log_path": "/home/u/.hapi/logs/runner.log",
        "workspace_roots": [],
        "hub": wire.HubStatus(url="http://localhost:3006", online=True),
        "workers": {
            "hub": wire.WorkerStatus(pid=1, restarts=2),
            "reaper": wire.WorkerStatus(pid=0, restarts=9, failed="boom"),
        },
        "sessions": {"idle": 1},
        "verdicts": {"adopted": 1},
        "counters": {"unroutable": 3},
    }
    return wire.Status(**(values | changes))


def session(**changes):
    """A plausible SessionInfo; its supervisor is this process."""
    values = {
        "session_id": SESSION,
        "namespace": "default",
        "agent": "demo",
        "directory": "/home/u/proj",
        "phase": Phase.IDLE,
        "started_by": "runner",
        "started_at": 1_700_000_000_000,
        "supervisor": own_identity(),
        "agent_process": ProcessId(999_999, 1, "another boot"),
    }
    return wire.SessionInfo(**(values | changes))


class FakeBroker:
    """Answers every request with `answer(body)`; None: never. Keeps what it was asked."""

    def __init__(self, paths, answer):
        self.asked = []
        self._answer = answer
        self._paths = paths
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._paths.make_private()
        self._lock = FileLock(self._paths.lock)
        assert self._lock.acquire("not a number")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.bind(self._paths.control_endpoint)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(10)
        self._socket.close(linger=0)
        self._context.term()
        self._lock.release()

    def _serve(self):
        while not self._stop.is_set():
            if not self._socket.poll(20):
                continue
            peer, empty, head, body = self._socket.recv_multipart()
            header = wire.decode_header(head)
            assert (header.to, header.sender) == ("broker", "cli")
            self.asked.append(wire.decode(wire.FOR_CONTROL, body))
            reply = self._answer(self.asked[-1])
            if reply is not None:
                frames = reply if isinstance(reply, list) else self._frames(header, reply)
                self._socket.send_multipart([peer, empty, *frames])

    def _frames(self, header, reply):
        answer = wire.Header(to="cli", sender="broker", request=header.request, reply=True)
        return [wire.encode(answer), wire.encode(reply)]


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    monkeypatch.delenv("CLI_API_TOKEN", raising=False)
    monkeypatch.delenv("HAPI_NAMESPACE", raising=False)
    return config.load()


def test_a_request_gets_its_reply(configuration):
    with FakeBroker(configuration.paths, lambda _: status(pid=42)) as broker:
        assert control.Control(configuration).ask(wire.GetStatus(), wire.Status).pid == 42
    assert broker.asked == [wire.GetStatus()]


def test_a_failure_is_raised_as_what_it_is(configuration):
    failure = wire.Failure("unknown_session", "No session begins with 'x'.", "hapi runner list")
    with FakeBroker(configuration.paths, lambda _: failure), pytest.raises(HapiError) as caught:
        control.Control(configuration).request(wire.StopSession("x"))
    assert (caught.value.code, caught.value.hint) == (ErrorCode.UNKNOWN_SESSION, "hapi runner list")


def test_nobody_holds_the_lock(configuration):
    with pytest.raises(NotRunning, match="no process holds its lock"):
        control.Control(configuration).request(wire.GetStatus())


def test_a_stale_socket_is_ignored(configuration):
    configuration.paths.make_private()
    control.socket_path(configuration.paths).touch()
    configuration.paths.lock.touch()
    with pytest.raises(NotRunning, match="no process holds its lock"):
        control.Control(configuration).request(wire.GetStatus())


def test_a_held_lock_without_a_socket(configuration):
    configuration.paths.make_private()
    lock = FileLock(configuration.paths.lock)
    lock.acquire()
    with contextlib.closing(_Releasing(lock)), pytest.raises(NotRunning, match="starting or stopping"):
        control.Control(configuration).request(wire.GetStatus(), timeout_s=0.2)


def test_a_runner_that_is_just_starting_is_waited_for(configuration):
    """It holds the lock already; its socket comes when somebody has waited a while."""
    configuration.paths.make_private()
    socket = control.socket_path(configuration.paths)
    parked = socket.with_name("parked")
    with FakeBroker(configuration.paths, lambda _: status(pid=42)):
        socket.rename(parked)
        waited = []

        def come(seconds):
            waited.append(seconds)
            if len(waited) == 3:
                parked.rename(socket)

        assert control.Control(configuration, come).ask(wire.GetStatus(), wire.Status).pid == 42
    assert len(waited) >= 3


def test_silence_ends_at_the_deadline_and_is_shown(configuration):
    seen = []
    with FakeBroker(configuration.paths, lambda _: None), pytest.raises(HapiError) as caught:
        control.Control(configuration, seen.append).request(wire.GetStatus(), timeout_s=0.35)
    assert caught.value.code is ErrorCode.TIMEOUT
    assert "doctor" in caught.value.hint
    assert seen == sorted(seen)
    assert len(seen) >= 3


@pytest.mark.parametrize(
    "frames",
    [
        [b"garbage", b"garbage"],
        [b"one frame"],
        [wire.encode(wire.Header("cli", "broker", 77, reply=True)), wire.encode(wire.Accepted())],
        [wire.encode(wire.Header("cli", "broker", 1, reply=True)), b"\xc1"],
        [wire.encode(wire.Header("cli", "broker", 1, reply=True)), wire.encode(wire.Beat())],
    ],
)
def test_nonsense_is_a_mismatch(configuration, frames):
    with FakeBroker(configuration.paths, lambda _: frames), pytest.raises(HapiError) as caught:
        control.Control(configuration).request(wire.GetStatus())
    assert caught.value.code is ErrorCode.PROTOCOL_MISMATCH


def test_another_kind_of_reply_is_a_mismatch(configuration):
    with FakeBroker(configuration.paths, lambda _: wire.Accepted()), pytest.raises(HapiError) as caught:
        control.Control(configuration).ask(wire.GetStatus(), wire.Status)
    assert caught.value.code is ErrorCode.PROTOCOL_MISMATCH


def ended(**changes):
    """A session that is over."""
    over = {"phase": Phase.ENDED, "reason": EndReason.STOPPED_BY_USER, "exit_code": 0, "ended_at": 1_700_000_060_000}
    return session(**(over | changes))


class _Releasing:
    def __init__(self, lock):
        self.close = lock.release
