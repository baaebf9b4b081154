"""Terminals and those who look at them, by bytes on the socket: real programs, real pseudo-terminals."""

from __future__ import annotations

from hapi.terminal.protocol import Ended
from tests.support.terminal import stage


async def test_what_is_typed_reaches_the_program_and_its_echo_comes_back(tmp_path):
    async with stage(tmp_path) as scene:
        scene.run("cat")
        viewer, attached = await scene.attach()
        assert (attached.terminal, attached.cols, attached.rows, attached.viewers) == ("agent", 80, 24, 1)
        viewer.type("grüße\r".encode())
        await viewer.until("grüße\r\ngrüße\r\n".encode())
        viewer.type(b"\x04")
        assert await viewer.next(Ended) == Ended(code=0, reason="exit code 0")
        assert await viewer.next() is None


async def test_a_shell_is_opened_by_name(tmp_path):
    async with stage(tmp_path) as scene:
        viewer, attached = await scene.attach(terminal="mine", open_shell=True)
        assert attached.created
        viewer.type(b"echo $((6*7)) $PWD\r")
        await viewer.until(f"42 {tmp_path}".encode())
