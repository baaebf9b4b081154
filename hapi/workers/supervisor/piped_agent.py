"""An agent with pipes for its standard streams: we speak to it, listen, and drain what it writes to stderr."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from hapi.workers.supervisor.agent_process import EOF, AgentProcess, Launch, follow_parent, run

LINE_LIMIT = 64 * 1024 * 1024
STDERR_TAIL_LINES = 20
STDERR_LINE_LIMIT = 400
AGENT_LOG_BYTES = 5 * 1024 * 1024

logger = logging.getLogger(__name__)


class PipedAgent(AgentProcess):
    """Make one with `start`. `writer` leads to its stdin, `reader` has its stdout."""

    first_rung = EOF

    def __init__(self, process: subprocess.Popen[bytes], log: Path, spare: Callable[[int], bool]) -> None:
        super().__init__(process, spare)
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._tail: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self._logged = 0
        self._stderr_closed = asyncio.Event()
        self.reader = asyncio.StreamReader(limit=LINE_LIMIT)
        self.writer: asyncio.StreamWriter

    @classmethod
    async def start(cls, launch: Launch, log: Path, spare: Callable[[int], bool]) -> PipedAgent:
        """Run an agent; its stderr goes to `log`. Raises HapiError as `run`, with the system's reason."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        before = follow_parent(launch.parent_dies)
        agent = cls(run(launch, **pipes, start_new_session=True, preexec_fn=before), log, spare)
        await agent._connect()
        return agent

    def take_leave(self) -> None:
        self.writer.close()

    async def tail(self, wait_s: float = 0.2) -> str:
        """The last lines on stderr; waits briefly for what is still in the pipe."""
        try:
            await asyncio.wait_for(self._stderr_closed.wait(), wait_s)
        except TimeoutError:
            pass  # a descendant holds the pipe: what we have is what there is
        return "\n".join(self._tail)

    async def _connect(self) -> None:
        process, loop = self._process, self._loop
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.reader), _pipe(process.stdout))
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, _pipe(process.stdin))
        transport.set_write_buffer_limits(0)  # `drain` returns when all is in the pipe
        self.writer = asyncio.StreamWriter(transport, protocol, None, loop)
        await loop.connect_read_pipe(lambda: _StderrSink(self._take_stderr, self._stderr_closed), _pipe(process.stderr))

    def _take_stderr(self, data: bytes) -> None:
        self._tail.extend(line[:STDERR_LINE_LIMIT] for line in data.decode(errors="replace").splitlines())
        try:
            if self._logged + len(data) > AGENT_LOG_BYTES:
                self._log.replace(self._log.with_name(f"{self._log.name}.1"))
            with self._log.open("ab") as file:
                self._logged = file.tell() + len(data)
                file.write(data)
        except OSError as error:
            logger.warning("cannot write %s: %s", self._log, error)


class _StderrSink(asyncio.Protocol):
    """Reads the agent's stderr as fast as it comes, so that the agent never blocks on it."""

    def __init__(self, take: Callable[[bytes], None], closed: asyncio.Event) -> None:
        self._take = take
        self._closed = closed

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, _: Exception | None) -> None:
        self._closed.set()


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:  # pragma: no cover - all three are pipes
        raise RuntimeError("not a pipe")
    return stream
