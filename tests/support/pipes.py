"""The other ends of an agent's pipes, in the hands of a test."""

import asyncio
import os

import msgspec

from hapi.workers.supervisor.acp_transport import AgentTransport

LIMIT = 4096


class Agent:
    """The other ends of an agent's pipes."""

    async def open(self):
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit=LIMIT)
        read_end, self.stdout = os.pipe()
        self.stdin, write_end = os.pipe()
        self.pipes = [os.fdopen(read_end, "rb", 0), os.fdopen(write_end, "wb", 0)]
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self.reader), self.pipes[0])
        writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, self.pipes[1])
        self.ends = [transport, writing]
        self.updates = []
        writer = asyncio.StreamWriter(writing, protocol, None, loop)
        self.transport = AgentTransport(self.reader, writer, self.updates.append)
        return self

    def says(self, *lines):
        for line in lines:
            os.write(self.stdout, line if isinstance(line, bytes) else msgspec.json.encode(line) + b"\n")

    def hangs_up(self):
        if self.stdout is not None:
            os.close(self.stdout)
            self.stdout = None

    async def receive(self):
        return await asyncio.wait_for(self.transport.receive(), 2)

    async def close(self):
        self.hangs_up()
        for end in self.ends:
            end.close()
        if self.stdin is not None:
            os.close(self.stdin)
        await asyncio.sleep(0)
