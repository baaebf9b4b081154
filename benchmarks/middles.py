"""What can stand between two peers at ZeroMQ sockets: the C proxy, the shortest loop in Python, our broker. Each is a process of its own."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from multiprocessing.connection import Connection
from typing import Any, Self

import zmq

from hapi import config, procs, wire
from hapi.broker.app import App, Start
from hapi.files import FileLock
from hapi.ids import new_session_id
from hapi.lifecycle import Phase

PROXY, LOOP, BROKER = "zmq.proxy in C", "a bare ROUTER loop in Python", "the broker"
_QUEUE = 10_000  # as the broker's
_ANSWER_MS = 10_000
SENDER, TARGET = b"sender", b"target"
Socket = zmq.Socket[bytes]
processes = multiprocessing.get_context("spawn")


class Middle:
    """One of them, running."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.place = tempfile.mkdtemp(prefix="hapi-f-", dir="/tmp")
        self.session = new_session_id()
        ready, theirs = processes.Pipe(duplex=False)
        self._process = processes.Process(target=_WORK[kind], args=(self.place, theirs), daemon=True)
        self._process.start()
        theirs.close()
        ready.recv()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        shutil.rmtree(self.place)


def connect(kind: str, place: str, session: str, end: bytes) -> Socket:
    """One end of a middle; that of TARGET comes first. The broker's peers are welcome when this returns."""
    context: zmq.Context[Socket] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.set_hwm(_QUEUE)
    if kind == LOOP:
        socket.identity = end
    socket.connect(_endpoint(kind, place, end))
    if kind == BROKER:
        _introduce(socket, end, session)
    return socket


def header(session: str, end: bytes) -> bytes:
    """What the messages of that end begin with."""
    name = wire.session_peer(session)
    return wire.encode(wire.Header(wire.HUB, name) if end == SENDER else wire.Header(name, wire.HUB))


def _endpoint(kind: str, place: str, end: bytes) -> str:
    if kind == BROKER:
        return config.load(environ={"HAPI_HOME": place}).paths.bus_endpoint
    return f"ipc://{place}/{end.decode() if kind == PROXY else 'both'}"


def _introduce(socket: Socket, end: bytes, session: str) -> None:
    """Say hello as a session's supervisor, or as the hub connector; take what the broker has to say to that."""
    me = procs.own_identity()
    name = wire.session_peer(session) if end == SENDER else wire.HUB
    info = wire.SessionInfo(
        session_id=session, namespace="default", agent="demo", directory="/", phase=Phase.IDLE,
        started_by="terminal", started_at=1, supervisor=me,
    )  # fmt: skip
    hello = wire.Hello(name=name, process=me, version="", generation=1, info=info if end == SENDER else None)
    socket.send_multipart([wire.encode(wire.Header(wire.BROKER, name)), wire.encode(hello)])
    socket.rcvtimeo = _ANSWER_MS
    decoder: Any = wire.FOR_SESSION if end == SENDER else wire.FOR_HUB
    answer = wire.decode(decoder, socket.recv_multipart()[1])
    assert isinstance(answer, wire.Welcome), answer


def _proxy(place: str, ready: Connection) -> None:
    context: zmq.Context[Socket] = zmq.Context()
    ends = [context.socket(zmq.DEALER) for _ in range(2)]
    for socket, name in zip(ends, (SENDER, TARGET), strict=True):
        socket.set_hwm(_QUEUE)
        socket.bind(_endpoint(PROXY, place, name))
    ready.send(True)
    zmq.proxy(*ends)


def _loop(place: str, ready: Connection) -> None:
    context: zmq.Context[Socket] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.set_hwm(_QUEUE)
    socket.bind(_endpoint(LOOP, place, b""))
    ready.send(True)
    other = {SENDER: TARGET, TARGET: SENDER}
    while True:
        identity, header, body = socket.recv_multipart()
        socket.send_multipart((other[identity], header, body))


def _broker(place: str, ready: Connection) -> None:
    """The broker itself, its real loop; only that it starts no workers."""
    settings = config.load(environ={"HAPI_HOME": place})
    settings.paths.make_private()
    lock = FileLock(settings.paths.lock)
    lock.acquire()
    app = App(settings, lock, Start(workspace_roots=[]))
    for worker in app.workforce.workers.values():
        worker.ordered()
    ready.send(True)
    app.run()


_WORK = {PROXY: _proxy, LOOP: _loop, BROKER: _broker}
