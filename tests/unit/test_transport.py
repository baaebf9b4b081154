"""A real broker process on real sockets, and whatever can be thrown at it: it answers in types, counts, and goes on."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import uuid
from collections import Counter
from pathlib import Path

import psutil
import pytest
import zmq

from hapi import clock, config, journal, procs, wire
from hapi.broker.app import App
from hapi.broker.books import CoreSettings
from hapi.broker.core import Core
from hapi.broker.effects import ReplyTo
from hapi.broker.takeover import Takeover
from hapi.broker.transport import Transport
from hapi.broker.workforce import Workforce
from hapi.handoff import Build
from hapi.ids import new_session_id
from hapi.lifecycle import Phase
from hapi.paths import Paths
from hapi.preflight import Preflight
from tests.support.faults import stopped
from tests.support.wait import until

REPOSITORY = Path(__file__).parent.parent.parent
ANSWER_S = 8.0
BIG = 9_000_000


def in_time(work, seconds=5.0):
    """Run `work` in a thread; one that hangs (a leaked socket in a context) fails instead of stopping everything."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"{work} hangs"


def using(home):
    """Processes of a runner that have a file open below `home`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any("hapi" in word for word in process.cmdline()[:3]) and process.pid != os.getpid():
                opened = [file.path for file in process.open_files()]
                found += [procs.identity(process.pid)] if any(path.startswith(f"{home}/") for path in opened) else []
    return [who for who in found if who is not None]


class Peer:
    """A ZeroMQ socket of ours: a CLI on the control socket, or a worker on the bus."""

    def __init__(self, context, endpoint, kind=zmq.DEALER):
        self.socket = context.socket(kind)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def send(self, *frames):
        self.socket.send_multipart([f if isinstance(f, bytes) else wire.encode(f) for f in frames])

    def receive(self, decoder):
        """(header, body) of the next message."""
        assert self.socket.poll(ANSWER_S * 1000), "no answer"
        frames = self.socket.recv_multipart()
        if not frames[0]:
            del frames[0]
        return wire.decode_header(frames[0]), wire.decode(decoder, frames[1])

    def silent(self, ms=50):
        return not self.socket.poll(ms)


class Broker:
    """`python -m hapi.broker` in a home of its own. `stop` leaves nothing behind, sessions included."""

    def __init__(self, umask=-1):
        self.home = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
        self.paths = Paths(self.home)
        self.context = zmq.Context()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HAPI_", "CLI_API"))}
        environment |= {"HAPI_HOME": str(self.home), "PYTHONPATH": str(REPOSITORY)}
        ready, theirs = os.pipe()
        arguments = ["--namespace", "default", "--ready-fd", str(theirs)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hapi.broker", *arguments],
            env=environment, pass_fds=[theirs], umask=umask, cwd="/", start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        with os.fdopen(ready) as pipe:
            self.ready = json.loads(pipe.readline())
        self.ours = {}

    def peer(self, endpoint=None, kind=zmq.DEALER):
        return Peer(self.context, endpoint or self.paths.bus_endpoint, kind)

    def cli(self):
        return self.peer(self.paths.control_endpoint)

    def ask(self, body):
        """A request as the CLI makes it."""
        peer = self.peer(self.paths.control_endpoint, zmq.REQ)
        try:
            peer.send(wire.Header("broker", "cli", 7), body)
            header, answer = peer.receive(wire.FOR_CLI)
        finally:
            peer.socket.close()
        assert (header.request, header.reply, header.sender) == (7, True, "broker")
        return answer

    def status(self):
        return self.ask(wire.GetStatus())

    def counted(self, name):
        return self.status().counters.get(name, 0)

    def spawn(self):
        order = wire.Spawn(session_id=new_session_id(), directory="/tmp", agent="demo", started_by="runner")
        answer = self.ask(order)
        assert isinstance(answer, wire.Spawned), answer
        return answer.info

    def session(self, session_id):
        listed = self.ask(wire.ListSessions(ended=True)).sessions
        return next((info for info in listed if info.session_id == session_id), None)

    def family(self):
        """Every process of this runner that can be found now."""
        for process in (procs.identity(self.process.pid), *procs.descendants(self.process.pid)):
            if process is not None:
                self.ours[process.pid] = process
        with contextlib.suppress(AssertionError):
            for worker in self.status().workers.values():
                self._remember(procs.identity(worker.pid))
            for info in self.ask(wire.ListSessions()).sessions:
                self._remember(info.supervisor, info.agent_process)
        return [process for process in self.ours.values() if procs.is_alive(process)]

    def _remember(self, *processes):
        for process in processes:
            if process is not None and process.pid != os.getpid():
                self.ours[process.pid] = process
                self.ours |= {child.pid: child for child in procs.descendants(process.pid)}

    def stop(self):
        try:
            if self.process.poll() is None:
                family = self.family()
                for info in self.ask(wire.ListSessions()).sessions:
                    if info.supervisor is not None:
                        self.ask(wire.StopSession(info.session_id))
                self.process.terminate()
                assert self.process.wait(8) == 0
                until(lambda: not any(map(procs.is_alive, family)), 5, "the family is gone")
        finally:
            self.process.kill()
            self._remember(*using(self.home))  # what only the disk still knows of: the broker may have crashed
            for process in self.ours.values():
                procs.send_signal(process, signal.SIGKILL)
            self.process.wait(5)
            until(lambda: not using(self.home), 5, "nobody uses the home")
            self.context.destroy(linger=0)
            shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def running(**options):
    broker = Broker(**options)
    try:
        yield broker
    finally:
        in_time(broker.stop, 25)


@pytest.fixture(scope="module")
def shared():
    """One broker for all who leave it as it was; made with an umask that hides nothing."""
    with running(umask=0) as broker:
        until(lambda: all(w.pid for w in broker.status().workers.values()), 10, "the workers run")
        until(lambda: broker.status().last_heartbeat, 10, "the reaper is connected")
        until(lambda: broker.status().hub.reason, 10, "the connector is connected")
        yield broker


@pytest.fixture
def alone():
    """A broker for one test that may be its last."""
    with running() as broker:
        yield broker


def header(**changes):
    return wire.Header(**({"to": "broker", "sender": "cli", "request": 9} | changes))


def old(name="hapi/2"):
    data = wire.encode(header())
    return data.replace(wire.PROTOCOL.encode(), name.encode())


# ------------------------------------------------------------------------------------------------ the control socket

GARBAGE = {
    "one frame": ([b"garbage"], "bad_request"),
    "an empty frame": ([b""], "bad_request"),
    "one frame too few": ([b"", header()], "bad_request"),
    "one frame too many": ([b"", header(), wire.GetStatus(), b""], "bad_request"),
    "fifty frames": ([b""] * 50, "bad_request"),
    "no delimiter": ([b"x", header(), wire.GetStatus()], "bad_request"),
    "no header": ([b"", b"\xc1\xff", wire.GetStatus()], "protocol_mismatch"),
    "empty frames": ([b"", b"", b""], "protocol_mismatch"),
    "a newer version": ([b"", old(), wire.GetStatus()], "protocol_mismatch"),
    "HTTP": ([b"", b"GET / HTTP/1.1", b"Host: localhost"], "protocol_mismatch"),
    "an empty body": ([b"", header(), b""], "bad_request"),
    "garbage for a body": ([b"", header(), b"\xc1\xc1"], "bad_request"),
    "an unknown tag": ([b"", header(), b"\x81\xa4type\xa5never"], "bad_request"),
    "a worker's body": ([b"", header(), wire.Beat()], "bad_request"),
    "a reply": ([b"", header(), wire.Accepted()], "bad_request"),
    "an oversized body": ([b"", header(), bytes(BIG)], "too_large"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_on_the_control_socket(shared, name):
    frames, code = GARBAGE[name]
    before = shared.counted("undecodable")
    peer = shared.cli()
    peer.send(*frames)
    head, answer = peer.receive(wire.FOR_CLI)
    peer.socket.close()
    assert (answer.code, head.reply, head.to) == (code, True, "cli")
    assert answer.message
    assert shared.counted("undecodable") == before + 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (wire.StopSession("nobody-is-called-this"), "unknown_session"),
        (wire.StopSession(""), "unknown_session"),
        (wire.SendText("PID-0", "x"), "unknown_session"),
    ],
)
def test_requests_that_make_no_sense_are_failures(shared, body, code):
    assert shared.ask(body).code == code


def test_a_cli_that_does_not_wait_for_its_answer(shared):
    before = shared.counted("answers_unwanted")
    peers = [shared.peer(shared.paths.control_endpoint, zmq.REQ) for _ in range(20)]
    for peer in peers:
        peer.send(header(), wire.GetStatus())
    assert shared.status().counters.get("answers_unwanted", 0) >= before
    for peer in peers:
        peer.socket.close()
    assert shared.status().pid == shared.process.pid


def test_many_requests_of_one_client_are_all_answered_in_order(shared):
    peer = shared.cli()
    for number in range(1, 301):
        peer.send(b"", header(request=number), wire.GetStatus())
    answers = [peer.receive(wire.FOR_CLI)[0].request for _ in range(300)]
    peer.socket.close()
    assert answers == list(range(1, 301))


@pytest.mark.parametrize("endpoint", ["control_endpoint", "bus_endpoint"])
@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\xff" * 64, b"", bytes(70_000)])
def test_strangers_who_do_not_speak_zeromq(shared, endpoint, noise):
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(getattr(shared.paths, endpoint).removeprefix("ipc://"))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stranger.sendall(noise)
    assert shared.status().pid == shared.process.pid


# ---------------------------------------------------------------------------------------------------------- the bus


def info_of(session_id, **changes):
    values = {"session_id": session_id, "namespace": "default", "agent": "demo", "directory": "/tmp"}
    values |= {"phase": Phase.IDLE, "started_by": "runner", "started_at": 1}
    return wire.SessionInfo(**(values | changes))


@pytest.fixture
def supervisor(shared):
    """A peer that the broker takes for the supervisor of a session."""
    session_id = new_session_id()
    peer = shared.peer()
    peer.name = wire.session_peer(session_id)
    hello = wire.Hello(name=peer.name, process=procs.own_identity(), version="0", info=info_of(session_id))
    peer.send(header(sender=peer.name, request=0), hello)
    assert isinstance(peer.receive(wire.FOR_SESSION)[1], wire.Welcome)
    yield peer
    over = info_of(session_id, phase=Phase.ENDED)
    peer.send(header(sender=peer.name, request=0), wire.SessionChanged(over))
    until(lambda: shared.session(session_id).phase is Phase.ENDED, 5, "the pretended session is over")
    peer.socket.close()


BUS_GARBAGE = {
    "one frame": ([b"garbage"], "bad_request"),
    "three frames": ([header(), wire.Beat(), b""], "bad_request"),
    "fifty frames": ([b""] * 50, "bad_request"),
    "no header": ([b"\xc1", wire.Beat()], "protocol_mismatch"),
    "a newer version": ([old(), wire.Beat()], "protocol_mismatch"),
    "an unknown tag": ([header(), b"\x81\xa4type\xa5never"], "bad_request"),
    "a CLI's body": ([header(), wire.GetStatus()], "bad_request"),
    "another CLI's body": ([header(), wire.SendText("x", "y")], "bad_request"),
    "an oversized body": ([header(), bytes(BIG)], "too_large"),
}


@pytest.mark.parametrize("known", [False, True], ids=["a stranger", "a supervisor"])
@pytest.mark.parametrize("name", BUS_GARBAGE)
def test_garbage_on_the_bus(shared, supervisor, name, known):
    frames, code = BUS_GARBAGE[name]
    before = shared.counted("undecodable")
    peer = supervisor if known else shared.peer()
    peer.send(*frames)
    _, answer = peer.receive(wire.FOR_SESSION)
    if not known:
        peer.socket.close()
    assert answer.code == code
    assert shared.counted("undecodable") == before + 1


@pytest.mark.parametrize("to", ["broker", "hub", "session:nobody", "", "nowhere"])
def test_who_has_not_said_hello_is_asked_to(shared, to):
    before = shared.counted("unwelcome")
    peer = shared.peer()
    peer.send(header(to=to, sender="hub"), wire.Beat())
    assert peer.receive(wire.FOR_HUB)[1] == wire.HelloWanted()
    peer.socket.close()
    assert shared.counted("unwelcome") == before + 1


@pytest.mark.parametrize("name", ["nobody", "", "cli", "broker", "HUB", "sessions:x"])
def test_a_name_that_nobody_has_is_refused(shared, name):
    before = shared.counted("wrong_role")
    peer = shared.peer()
    peer.send(header(sender=name), wire.Hello(name=name, process=procs.own_identity(), version="0"))
    assert isinstance(peer.receive(wire.FOR_HUB)[1], wire.Refused)
    peer.socket.close()
    assert shared.counted("wrong_role") == before + 1


def test_a_supervisor_that_nobody_ordered_is_refused(shared):
    before = shared.counted("refused_peers")
    peer = shared.peer()
    name = wire.session_peer(new_session_id())
    peer.send(header(sender=name), wire.Hello(name=name, process=procs.own_identity(), version="0"))
    assert isinstance(peer.receive(wire.FOR_SESSION)[1], wire.Refused)
    peer.socket.close()
    assert shared.counted("refused_peers") == before + 1


@pytest.mark.parametrize(
    ("to", "sender", "body"),
    [
        ("broker", None, wire.StopRunner()),
        ("broker", None, wire.StopSession("x")),
        ("broker", None, wire.Spawn(session_id="x", directory="/", agent="demo", started_by="runner")),
        ("broker", None, wire.HubStatus(online=True)),
        ("broker", None, wire.Heartbeat(at=1, installed_version="9")),
        ("broker", None, wire.SupervisorGone(session_id="x", process=procs.own_identity())),
        ("broker", "hub", wire.StopRunner()),
        ("broker", "reaper", wire.Beat()),
        ("broker", "session:other", wire.Beat()),
        ("reaper", None, wire.Unwatch("x")),
        ("hub", "session:other", wire.MessageFate("removed")),
        ("hub", "hub", wire.MessageFate("removed")),
    ],
)
def test_what_a_supervisor_may_not_say(shared, supervisor, to, sender, body):
    before = shared.counted("wrong_role")
    supervisor.send(header(to=to, sender=sender or supervisor.name, request=31), body)
    head, answer = supervisor.receive(wire.FOR_SESSION)
    assert (answer.code, head.request, head.reply) == ("bad_request", 31, True)
    status = shared.status()
    assert status.counters["wrong_role"] == before + 1
    assert (status.stopping, status.hub.online) == (False, False)


@pytest.mark.parametrize("to", ["session:nobody", "nowhere", ""])
def test_words_for_somebody_who_is_not_there(shared, supervisor, to):
    before = shared.counted("unroutable")
    supervisor.send(header(to=to, sender=supervisor.name, request=4), wire.Beat())
    assert supervisor.receive(wire.FOR_SESSION)[1].code == "not_running"
    supervisor.send(header(to=to, sender=supervisor.name, request=0), wire.Beat())
    assert supervisor.silent()
    assert shared.counted("unroutable") == before + 2


def test_one_supervisor_cannot_write_to_another(shared, supervisor):
    victim = shared.spawn()
    before = shared.counted("wrong_role")
    supervisor.send(header(to=f"session:{victim.session_id}", sender=supervisor.name), wire.AbortTurn())
    assert supervisor.receive(wire.FOR_SESSION)[1].code == "bad_request"
    assert shared.counted("wrong_role") == before + 1
    assert shared.ask(wire.StopSession(victim.session_id)).status == "stopped"


def test_a_second_supervisor_of_a_session_is_refused(shared, supervisor):
    session_id = supervisor.name.partition(":")[2]
    rival = shared.peer()
    hello = wire.Hello(
        name=supervisor.name, process=procs.identity(os.getppid()), version="0", info=info_of(session_id)
    )
    rival.send(header(sender=supervisor.name), hello)
    assert isinstance(rival.receive(wire.FOR_SESSION)[1], wire.Refused)
    rival.socket.close()
    supervisor.send(header(sender=supervisor.name, request=6), wire.StopRunner())
    assert supervisor.receive(wire.FOR_SESSION)[1].code == "bad_request"  # still known, still no one to stop us


def test_the_reaper_may_not_write_to_the_hub(alone):
    """The real reaper stands still meanwhile: it would take its name back."""
    until(lambda: alone.status().hub.reason, 10, "the connector is connected")
    until(lambda: alone.status().last_heartbeat, 10, "the reaper is connected")
    with stopped(procs.identity(alone.status().workers["reaper"].pid)):
        reaper = alone.peer()
        reaper.send(header(sender="reaper"), wire.Hello(name="reaper", process=procs.own_identity(), version="0"))
        assert isinstance(reaper.receive(wire.FOR_REAPER)[1], wire.Welcome)
        assert isinstance(reaper.receive(wire.FOR_REAPER)[1], wire.Watch)
        for to, body in (("hub", wire.Shutdown("me")), ("broker", wire.StopRunner())):
            reaper.send(header(to=to, sender="reaper", request=8), body)
            assert reaper.receive(wire.FOR_REAPER)[1].code == "bad_request"
        reaper.socket.close()
        assert alone.counted("wrong_role") == 2
        assert not alone.status().stopping


# ------------------------------------------------------------------------------- what must not bring the broker down


def huge_header(**changes):
    """A header that decodes and is too large to be repeated in an answer."""
    return wire._encoder.encode(header(**changes))


def nested(head):
    data = wire.encode(head)
    return bytes([data[0] + 1]) + data[1:] + b"\x91" * 100_000 + b"\xc0"


KILLERS = {
    "cli: nested header": ("control_endpoint", [b"", nested(header()), wire.GetStatus()]),
    "cli: huge sender": ("control_endpoint", [b"", huge_header(sender="x" * BIG), wire.GetStatus()]),
    "bus: huge sender": ("bus_endpoint", [huge_header(sender="x" * BIG), wire.Beat()]),
    "bus: huge name": (
        "bus_endpoint",
        [header(), wire.Hello(name="x" * (wire.MAX_BODY_BYTES - 999), process=procs.own_identity(), version="0")],
    ),
}


@pytest.mark.parametrize("name", KILLERS)
def test_bytes_that_cannot_be_answered_do_not_end_the_broker(alone, name):
    """An answer that repeats what is too large to be repeated raised out of the broker's loop."""
    endpoint, frames = KILLERS[name]
    peer = alone.peer(getattr(alone.paths, endpoint))
    peer.send(*frames)
    peer.socket.poll(300)
    peer.socket.close()
    assert alone.process.poll() is None
    assert alone.status().pid == alone.process.pid


def test_an_order_at_the_size_limit_does_not_end_the_broker(alone):
    """It fits as a request and not as the Welcome that hands it to its supervisor."""
    order = wire.Spawn(session_id=new_session_id(), directory="/tmp", agent="demo", started_by="runner", args=[""])
    order.args = ["x" * (wire.MAX_BODY_BYTES - len(wire.encode(order)) - 8)]
    peer = alone.cli()
    peer.send(b"", header(), order)
    until(lambda: peer.socket.poll(0) or alone.process.poll() is not None, ANSWER_S, "an answer, or the end")
    assert alone.process.poll() is None
    assert isinstance(peer.receive(wire.FOR_CLI)[1], wire.Failure)
    peer.socket.close()
    assert alone.status().pid == alone.process.pid


# ---------------------------------------------------------------------------------------------------- its processes


def said(broker, session_id):
    """What the agent of a session has said, from its journal."""
    data = broker.paths.session(session_id).joinpath("journal").read_bytes()
    entries = [entry for entry, _ in journal._frames(data)]
    events = [entry.event.event for entry in entries if isinstance(entry, journal.Emitted)]
    return "".join(event.text for event in events if isinstance(event, wire.AgentText))


def test_killed_workers_come_back_and_sessions_do_not_notice(alone):
    session = alone.spawn()
    for count, name in enumerate(("hub", "reaper", "nursery"), 1):
        pid = until(lambda name=name: alone.status().workers[name].pid, 10, f"{name} runs")
        assert procs.send_signal(procs.identity(pid), signal.SIGKILL)
        new = until(lambda name=name, pid=pid: _other(alone.status().workers[name].pid, pid), 10, f"{name} is back")
        assert procs.identity(new) is not None
        assert alone.status().workers[name].restarts == 1
        word = f"word-{count}-{uuid.uuid4().hex}"
        assert isinstance(alone.ask(wire.SendText(session.session_id, word)), wire.Accepted)
        until(lambda word=word: word in said(alone, session.session_id), 10, f"an answer without the old {name}")
    now = until(lambda: _idle(alone.session(session.session_id)), 5, "idle again")
    assert (now.supervisor, now.agent_process) == (session.supervisor, session.agent_process)
    assert procs.is_alive(now.supervisor) and procs.is_alive(now.agent_process)
    assert alone.spawn().supervisor != now.supervisor  # the new nursery forks, too


def _other(pid, than):
    return pid if pid != than else 0


def _idle(info):
    return info if info.phase is Phase.IDLE else None


def test_an_order_that_died_with_the_nursery_is_given_again(alone):
    """The nursery was killed between taking an order and forking: the connector never came back."""
    until(lambda: all(w.pid for w in alone.status().workers.values()), 10, "the workers run")
    pids = {name: worker.pid for name, worker in alone.status().workers.items()}
    nursery = procs.identity(pids["nursery"])
    procs.send_signal(nursery, signal.SIGSTOP)
    procs.send_signal(procs.identity(pids["hub"]), signal.SIGKILL)
    until(lambda: alone.status().workers["hub"].pid == 0, 5, "the broker knows that the connector is gone")
    until(lambda: "started again" in alone.paths.log("runner").read_text(), 5, "and has planned the next")
    peer = alone.peer()  # half a second with nobody to talk to: the connector is due after 0.1 s
    peer.socket.poll(500)
    peer.socket.close()
    procs.send_signal(nursery, signal.SIGKILL)
    until(lambda: _other(alone.status().workers["nursery"].pid, nursery.pid), 5, "the nursery is back")
    until(lambda: alone.status().workers["hub"].pid, 3, "the connector is back")


def test_everything_is_private_under_umask_0(shared):
    assert shared.spawn()
    for path in [shared.home, *shared.home.rglob("*")]:
        mode = path.lstat().st_mode
        assert stat.S_IMODE(mode) & 0o077 == 0, f"{path} {stat.filemode(mode)}"
    assert stat.S_IMODE(shared.paths.run.stat().st_mode) == 0o700
    for name in ("broker.sock", "bus.sock"):
        assert stat.S_ISSOCK((shared.paths.run / name).stat().st_mode)


def test_trap_14_nothing_listens_on_the_network(shared):
    info = shared.spawn()
    family = shared.family()
    pids = {process.pid for process in family}
    assert {shared.process.pid, info.supervisor.pid, info.agent_process.pid} <= pids
    assert {worker.pid for worker in shared.status().workers.values()} <= pids
    found = [connection for pid in pids for connection in psutil.Process(pid).net_connections("inet")]
    assert [connection for connection in found if connection.status == psutil.CONN_LISTEN] == []


def test_ready_tells_where_it_is(shared):
    assert shared.ready == {
        "pid": shared.process.pid,
        "endpoint": shared.paths.control_endpoint,
        "log": str(shared.paths.log("runner")),
    }
    report = json.loads(shared.paths.state.read_bytes())
    assert (report["pid"], report["status"]) == (shared.process.pid, "running")
    assert set(report["workers"]) == {"hub", "nursery", "reaper"}


def test_a_second_broker_is_refused_in_words(shared):
    status, report, words = broker_start(shared.home)
    assert (status, report["error"]["code"]) == (1, "already_running")
    assert "running already" in words


def test_stopping_ends_the_workers_and_says_so(alone):
    session = alone.spawn()
    family = [process for process in alone.family() if process.pid != alone.process.pid]
    answer = alone.ask(wire.StopRunner())
    assert answer == wire.RunnerStopping(1)
    assert alone.process.wait(8) == 0
    kept = {session.supervisor.pid, session.agent_process.pid}
    until(lambda: {p.pid for p in family if procs.is_alive(p)} == kept, 3, "the workers are gone, the session lives")
    assert json.loads(alone.paths.state.read_bytes())["status"] == "stopped"


# ------------------------------------------------------------------------------------------- Transport and App alone


@pytest.fixture
def place():
    folder = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def broker_start(home):
    """(exit status, the JSON line) of a broker that is not to start in `home`."""
    ready, theirs = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "hapi.broker", "--namespace", "default", "--ready-fd", str(theirs)],
        env=os.environ | {"HAPI_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        pass_fds=[theirs], capture_output=True, timeout=10, check=False,
    )  # fmt: skip
    os.close(theirs)
    with os.fdopen(ready) as pipe:
        return done.returncode, json.loads(pipe.readline()), done.stderr.decode()


@pytest.mark.parametrize("name", ["broker.sock", "bus.sock"])
@pytest.mark.parametrize("kind", ["file", "link", "directory", "listener"])
def test_a_squatter_keeps_its_place_and_learns_nothing(place, name, kind):
    paths = Paths(place)
    paths.make_private()
    path = paths.run / name
    with socket.socket(socket.AF_UNIX) as squatter:
        if kind == "listener":
            squatter.bind(str(path))
            squatter.listen()
        elif kind == "link":
            path.symlink_to(place / "elsewhere")
        elif kind == "directory":
            path.mkdir()
        else:
            path.write_text("mine")
        before = path.lstat()
        status, report, words = broker_start(place)
        assert (status, report["error"]["code"]) == (1, "start_failed")
        assert str(path) in words
        assert path.lstat().st_ino == before.st_ino
        if kind == "listener":
            stranger, _ = squatter.accept()
            with stranger:
                assert stranger.recv(100) == b""


def test_a_dead_socket_is_replaced(place):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "b"))
    transport = Transport(f"ipc://{place}/b", f"ipc://{place}/c", Counter())
    in_time(transport.close)


def test_who_is_gone_is_counted(place):
    counters = Counter()
    transport = Transport(f"ipc://{place}/b", f"ipc://{place}/c", counters)
    transport.send(b"nobody", "hub", wire.Beat())
    assert not transport.forward(b"nobody", b"", b"")
    transport.answer(ReplyTo("control", b"nobody", "cli", 1), wire.Accepted())
    transport.answer(ReplyTo("bus", b"nobody", "hub", 1), wire.Accepted())
    in_time(transport.close)
    assert counters == {"unroutable": 3, "answers_unwanted": 1}


def test_an_answer_too_large_becomes_a_failure(place):
    transport = Transport(f"ipc://{place}/b", f"ipc://{place}/c", Counter())
    context = zmq.Context()
    peer = Peer(context, f"ipc://{place}/b", zmq.REQ)
    peer.send(header(), wire.GetStatus())
    assert transport.control.poll(2000)
    identity = transport.control.recv_multipart()[0]
    transport.answer(ReplyTo("control", identity, "cli", 9), wire.Accepted("x" * BIG))
    assert peer.receive(wire.FOR_CLI)[1].code == "too_large"
    peer.socket.close()
    in_time(context.term)
    in_time(transport.close)


@pytest.fixture
def bus(place):
    """A transport with three peers at its bus: two that send, and one whose identity is known as a target."""
    transport = Transport(f"ipc://{place}/b", f"ipc://{place}/c", Counter())
    context = zmq.Context()
    peers = [Peer(context, f"ipc://{place}/c") for _ in range(3)]
    yield transport, peers, [greeted(transport, peer) for peer in peers]
    for peer in peers:
        peer.socket.close()
    in_time(context.term)
    in_time(transport.close)


def greeted(transport, peer):
    """The identity that the transport has given a peer."""
    peer.send(b"hello", b"")
    assert transport.bus.poll(2000)
    _, (identity, _, _) = transport.pass_on({}, 1)
    return identity


def taken(transport, passes, wanted):
    """What the transport hands over of the `wanted` messages, as bytes; the others it has passed on."""
    handed, left = [], wanted
    while left:
        assert transport.bus.poll(2000), f"{left} of {wanted} are missing"
        count, message = transport.pass_on(passes, left)
        left -= count
        if message is not None:
            identity, data, bodies = message
            handed.append((identity, data, [body.bytes for body in bodies]))
    return handed


def test_what_is_known_passes_and_the_rest_is_handed_over_in_order(bus):
    transport, (one, two, hub), (a, b, target) = bus
    passes = {(a, b"known"): target}
    one.send(b"known", b"1")
    assert taken(transport, passes, 1) == []
    one.send(b"unknown", b"2")
    two.send(b"known", b"3")
    assert sorted(taken(transport, passes, 2)) == sorted([(a, b"unknown", [b"2"]), (b, b"known", [b"3"])])
    one.send(b"known", b"4" * 1_000_000)
    assert taken(transport, passes, 1) == []
    assert [hub.socket.recv_multipart() for _ in range(2)] == [[b"known", b"1"], [b"known", b"4" * 1_000_000]]
    assert transport._counters == {"forwarded": 2}


@pytest.mark.parametrize("broken", [[b"known"], [b"known", b"1", b"2"], [b"known", b"", b"", b""]])
def test_a_broken_message_takes_nothing_of_its_neighbours(bus, broken):
    """Seen to fail: without the look at `first.more`."""
    transport, (one, _, hub), (a, _, target) = bus
    passes = {(a, b"known"): target}
    for number in range(100):  # a burst, so that there is a next message when the broken one is read
        one.send(*broken)
        one.send(b"else", b"%d" % number)
    handed = taken(transport, passes, 200)
    assert handed[::2] == [(a, b"known", broken[1:])] * 100
    assert handed[1::2] == [(a, b"else", [b"%d" % number]) for number in range(100)]
    one.send(b"known", b"later")
    assert taken(transport, passes, 1) == []
    assert hub.socket.recv_multipart() == [b"known", b"later"]
    assert transport._counters == {"forwarded": 1}


def test_nobody_speaks_for_another_within_a_broken_message(bus):
    """Seen to fail: where a frame that looks like an identity was taken for the beginning of the next message."""
    transport, (one, _, _), (a, b, target) = bus
    passes = {(a, b"known"): target, (b, b"known"): target}
    one.send(b"known", b, b"known", b"in another's name")
    assert taken(transport, passes, 1) == [(a, b"known", [b, b"known", b"in another's name"])]
    one.send(b"known", b, b"rare", b"in another's name")
    assert taken(transport, passes, 1) == [(a, b"known", [b, b"rare", b"in another's name"])]


def test_a_message_without_a_body_takes_nothing_of_a_peer_that_named_itself(bus, place):
    """Seen to fail: where a frame that does not look like an identity was taken for the broken message's body."""
    transport, (one, *_), (a, *_, target) = bus
    with one.socket.context.socket(zmq.DEALER) as named:
        named.linger, named.routing_id = 0, b"a name of its own"
        named.connect(f"ipc://{place}/c")
        named.send_multipart([b"hello", b""])
        assert taken(transport, {}, 1) == [(b"a name of its own", b"hello", [b""])]
        for _ in range(100):
            one.send(b"known")
            named.send_multipart([b"else", b"1"])
        handed = taken(transport, {(a, b"known"): target}, 200)
    assert sorted(handed) == sorted([(a, b"known", []), (b"a name of its own", b"else", [b"1"])] * 100)


@pytest.fixture
def app(tmp_path):
    """What an App decides by; without its sockets and signals, which are the process's."""
    app = App.__new__(App)
    app.core = Core(CoreSettings(instance="", version="", ready_timeout_s=1, workspace_roots=[]))
    app.workforce = Workforce(app.core, Paths(tmp_path), zmq.Poller(), lambda _: None, lambda: None)
    app._takeover = Takeover(config.load(None, {"HAPI_HOME": str(tmp_path)}), app.core)
    yield app
    app.workforce.end()


def test_the_loop_wakes_for_a_pre_flight(app):
    for worker in app.workforce.workers.values():
        worker.started(1)
    app._takeover._preflight = preflight = Preflight(["sleep", "60"], Build("2", "b"), {"PATH": os.environ["PATH"]})
    preflight.deadline = clock.monotonic() + 0.5
    assert 300 < app._poll_ms() <= 501
    app._takeover.abandon()


@pytest.mark.parametrize("name", ["hub", "reaper"])
def test_the_loop_sleeps_while_a_due_worker_waits_for_the_nursery(app, name):
    """With the nursery in its back-off (up to 30 s) and another worker due, the broker polled without a pause."""
    app.workforce.workers["nursery"].start_at = clock.monotonic() + 20
    for worker in ("hub", "reaper"):
        app.workforce.workers[worker].ordered()
    app.workforce.workers[name].start_at = clock.monotonic() - 3
    assert app._poll_ms() > 1000


def test_the_loop_wakes_for_what_is_due_first(app):
    for worker in app.workforce.workers.values():
        worker.started(1)
    assert app._poll_ms() == 5001
    app._decided = True
    app.workforce.workers["nursery"].start_at = clock.monotonic() + 0.5
    assert 300 < app._poll_ms() <= 501
