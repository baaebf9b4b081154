"""Can the installed code be a runner? A child process of it is asked before it replaces the one that runs.

An installation that is half written, or that lacks a library, shows here, and nothing is stopped for it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

import msgspec

from hapi.clock import monotonic
from hapi.handoff import Build

DEADLINE_S = 20.0  # one second on an idle machine
_OUTPUT_BYTES = 65_536
_WORDS_CHARACTERS = 300


class Preflight:
    """One check under way. `words` is `command(..., check=True)`; `wanted` the code that it must turn out to be."""

    def __init__(self, words: Sequence[str], wanted: Build, environ: Mapping[str, str], cwd: str | None = None) -> None:
        self.wanted = wanted
        self.deadline = monotonic() + DEADLINE_S
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble = ""
        try:
            self._process = subprocess.Popen(
                words,
                env=dict(environ),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self._trouble = f"{words[0]} cannot be started: {error.strerror}"

    def ended(self) -> bool:
        """Whether the result is there; after the deadline it is, for the child is killed then. Does not block."""
        if self._process is None or self._process.poll() is not None:
            return True
        if monotonic() < self.deadline:
            return False
        self._process.kill()
        self._process.wait()
        self._trouble = f"it did not start within {DEADLINE_S:g} s"
        return True

    def wait(self) -> None:
        """Block until the result is there, until the deadline at most."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, self.deadline - monotonic()))
            except subprocess.TimeoutExpired:
                self.ended()

    def trouble(self) -> str | None:
        """Why the code must not take over, in words; None when it may. Call once, when `ended`."""
        output = b""
        if self._process is not None and self._process.stdout is not None:
            with self._process.stdout as pipe:
                os.set_blocking(pipe.fileno(), False)
                output = pipe.read(_OUTPUT_BYTES) or b""
        return self._trouble or verdict(self._process.returncode if self._process else 1, output, self.wanted)

    def abandon(self) -> None:
        """End a check whose result nobody wants any more."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


def verdict(status: int, output: bytes, wanted: Build) -> str | None:
    """Why code whose check ended so must not take over; None when it may. Pure."""
    lines = output.decode(errors="replace").strip().splitlines()
    last = lines[-1][:_WORDS_CHARACTERS] if lines else ""
    if status:
        return f"it does not start: {last or f'exit status {status}'}"
    try:
        found = msgspec.json.decode(last, type=Build)
    except (msgspec.MsgspecError, UnicodeError):
        return f"its check says nonsense: {last}"
    if found != wanted:
        return f"it turns out to be {found.version} ({found.digest}), not {wanted.version} ({wanted.digest})"
    return None
