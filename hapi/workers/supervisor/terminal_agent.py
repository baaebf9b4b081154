"""An agent with a terminal for its standard streams: its own interface, or any command."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from hapi.terminal.protocol import AGENT
from hapi.workers.supervisor.agent_process import HANG_UP, AgentProcess, Launch, run
from hapi.workers.supervisor.pty import Pty
from hapi.workers.supervisor.terminal import Terminal

TAIL_LINES = 20
TAIL_LINE_LIMIT = 400


class TerminalAgent(AgentProcess):
    """Make one with `start`. `terminal` is where it lives; its owner ends that after the process."""

    first_rung = HANG_UP

    def __init__(self, process: subprocess.Popen[bytes], spare: Callable[[int], bool], terminal: Terminal) -> None:
        super().__init__(process, spare)
        self.terminal = terminal

    @classmethod
    def start(cls, launch: Launch, spare: Callable[[int], bool], size: tuple[int, int]) -> TerminalAgent:
        """Run it in a terminal of that many columns and rows. Raises HapiError: at_capacity, and as `run`."""
        pty = Pty(*size)
        try:
            process = run(launch, **pty.child())
        except BaseException:
            pty.close()
            raise
        return cls(process, spare, Terminal(AGENT, pty, process.pid))

    def take_leave(self) -> None:
        """Hang up. Who is a job of a shell is told by the shell; what outlives the program, by the kernel."""
        if self.exit is None:
            self.terminal.hang_up()

    def remind(self) -> None:
        """Hang up again: programs that hear it on their way to the next read may wait there for ever."""
        self.take_leave()
        super().remind()

    async def tail(self, _: float = 0.0) -> str:
        """The last lines on its screen, if it did not end well. Does not wait: what it wrote is in the terminal."""
        if self.exit is not None and self.exit.code == 0:
            return ""
        self.terminal.catch_up()
        lines = [line.rstrip()[:TAIL_LINE_LIMIT] for line in self.terminal.recorder.screen.text().splitlines()]
        return "\n".join([line for line in lines if line][-TAIL_LINES:])
