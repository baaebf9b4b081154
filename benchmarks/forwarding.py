"""What the broker costs a message between two workers: beside zmq.proxy in C, and beside the shortest loop in Python around a ROUTER.

All three stand between the same two processes, one of which sends bodies of 200 bytes, as many as fit in flight, and the other counts them.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Self

import zmq

from benchmarks.figures import MIB, Result, Row, Target
from benchmarks.middles import BROKER, LOOP, PROXY, SENDER, TARGET, Middle, connect, header, processes
from hapi import footprint

FULL = {"messages": 50_000, "rounds": 7, "round_trips": 2_000, "steady": 1_000_000}
QUICK = {"messages": 2_000, "rounds": 1, "round_trips": 100, "steady": 4_000}
BODY_BYTES = 200
IN_FLIGHT, _STEP = 2_000, 500  # messages that are on their way at most; that are counted at once
_WARM = 4_000
_PATIENCE_S = 60.0
_MORE = int(zmq.SNDMORE)
BEFORE, AFTER = "the broker before", "the broker after"


def measure(messages: int, rounds: int, round_trips: int, steady: int) -> list[Result]:
    """Rates and round trips, taking turns; then a long run through the broker alone."""
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(stack.enter_context(Middle(kind)))) for kind in (PROXY, LOOP, BROKER)]
        for line in lines:
            line.send(_WARM)
        sent: dict[str, list[tuple[float, float]]] = {line.kind: [] for line in lines}
        trips: dict[str, list[float]] = {line.kind: [] for line in lines}
        for number in range(rounds):
            for line in lines if number % 2 == 0 else reversed(lines):
                sent[line.kind].append(line.send(messages))
                trips[line.kind] += line.round_trips(round_trips)
        memory = lines[-1].memory_over(steady)
    return [_rates(sent), _cost(sent), _trips(trips), _flat(memory, steady)]


class Line:
    """Two ends with a middle: this process sends, another one takes."""

    def __init__(self, middle: Middle) -> None:
        self.kind = middle.kind
        self._pid = middle.pid
        self._target, theirs = processes.Pipe()
        words = (middle.kind, middle.place, middle.session)
        self._process = processes.Process(target=_take, args=(*words, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._heard()
        self._socket = connect(*words, SENDER)
        self._header = header(middle.session, SENDER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._target.close()
        self._process.join(_PATIENCE_S)

    def send(self, count: int) -> tuple[float, float]:
        """Messages per second of `count`, until the last one has arrived; and the seconds of processor time that each took of the middle."""
        body, send = os.urandom(BODY_BYTES), self._socket.send
        self._target.send(("count", count))
        before, start = _cpu(self._pid), time.perf_counter()
        sent = arrived = 0
        while arrived < count:
            while sent < count and sent - arrived <= IN_FLIGHT - _STEP:
                for _ in range(_STEP):
                    send(self._header, _MORE)
                    send(body)
                sent += _STEP
            arrived += self._heard()
        return count / (time.perf_counter() - start), (_cpu(self._pid) - before) / count

    def round_trips(self, count: int) -> list[float]:
        """The seconds of each, one at a time."""
        body, send, receive = os.urandom(BODY_BYTES), self._socket.send, self._socket.recv
        self._target.send(("echo", count))
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            send(self._header, _MORE)
            send(body)
            receive()
            receive()
            taken.append(time.perf_counter() - start)
        return taken

    def memory_over(self, count: int) -> tuple[int, int]:
        """What the middle has of its own before and after so many messages, in bytes."""
        before = footprint.memory(self._pid)[1]
        self.send(count)
        return before, footprint.memory(self._pid)[1]

    def _heard(self) -> int:
        if not self._target.poll(_PATIENCE_S):
            raise TimeoutError(f"{self.kind}: nothing arrives")
        return int(self._target.recv())


def _take(kind: str, place: str, session: str, orders: Connection) -> None:
    """The other end: counts what comes, or sends it back, until nobody orders any more."""
    socket = connect(kind, place, session, TARGET)
    back, receive, send = header(session, TARGET), socket.recv, socket.send
    orders.send(0)
    while True:
        try:
            order, count = orders.recv()
        except EOFError:
            break
        for number in range(1, count + 1):
            receive()
            body = receive()
            if order == "echo":
                send(back, _MORE)
                send(body)
            elif number % _STEP == 0:
                orders.send(_STEP)
    socket.close()


def _cpu(pid: int) -> float:
    return footprint.cpu([pid])[pid]


def _rates(sent: dict[str, list[tuple[float, float]]]) -> Result:
    return Result(
        title=f"Messages of {BODY_BYTES} bytes, {IN_FLIGHT} in flight",
        rows=[Row(kind, [rate for rate, _ in figures], "/s") for kind, figures in sent.items()],
        targets=[Target(f"broker forwarding {BODY_BYTES}-byte bodies", BROKER, 0.4, PROXY, at_least=True)],
    )


def _cost(sent: dict[str, list[tuple[float, float]]]) -> Result:
    return Result(
        title="Processor time of whoever forwards, per message (µs)",
        rows=[Row(kind, [seconds * 1e6 for _, seconds in figures], "") for kind, figures in sent.items()],
    )


def _trips(trips: dict[str, list[float]]) -> Result:
    return Result(
        title="Round trip, one at a time",
        rows=[Row(kind, trips[kind]) for kind in (LOOP, BROKER, PROXY)],
        targets=[
            Target("hop added by the broker, round trip", BROKER, 1.5, LOOP),
            Target("hop added by the broker, slowest of 100", BROKER, 3.0, LOOP, statistic="p99"),
        ],
    )


def _flat(memory: tuple[int, int], count: int) -> Result:
    before, after = memory
    said = f"{after - before:+,} bytes over {count:,} messages"
    return Result(
        title=f"Memory of the broker over {count:,} messages (private)",
        rows=[Row(BEFORE, [float(before)], "B"), Row(AFTER, [float(after)], "B")],
        notes=[said],
        wrong=[f"the broker grows: {said}"] if after - before > 4 * MIB else [],
    )
