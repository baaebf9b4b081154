"""`hapi send --wait`: the agent's answer to one message, found in the session's transcript by the message's id."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from hapi import transcript, wire
from hapi.cli import output
from hapi.cli.request import carry_out
from hapi.cli.wait import wait_for
from hapi.clock import monotonic
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import Phase
from hapi.transcript import Answered, Remark, Said, Tail, TurnOver

_SLICE_S = 1.0  # after this much waiting for idle: our turn may be over while others wait


class Answer(msgspec.Struct):
    """What the agent said to the message `key`: its texts in order. `over`: that was all, for `stop_reason`."""

    key: str
    texts: list[str] = []
    stop_reason: str | None = None
    begun: bool = False
    over: bool = False

    def read(self, lines: Iterable[bytes]) -> None:
        """Take in further lines of the transcript. Remarks that are errors go to stderr."""
        for data in lines:
            match transcript.decode(data):
                case Said(id=key):
                    self.over = self.over or self.begun
                    self.begun = self.begun or key == self.key
                case Answered(text=text) if self.begun and not self.over:
                    self.texts.append(text)
                case Remark(text=text, is_error=True) if self.begun and not self.over:
                    output.note(output.clean(text))
                case TurnOver(stop_reason=reason) if self.begun and not self.over:
                    self.stop_reason, self.over = reason, True
                case _:
                    pass

    @property
    def text(self) -> str:
        """All that was said."""
        return "\n\n".join(self.texts)


def ask(config: Config, said: wire.SendText, patience_s: float | None, progress: output.Progress) -> Answer | None:
    """Say something and return the answer, None when the time is up first. `said.id` must not be empty.

    Said before under the same id, that answer is found, as far back as the transcript goes. Raises HapiError: what
    sending and waiting raise, bad_request for a session in a terminal, session_ended when it ends without an answer,
    agent_failed when there is none.
    """
    info = wait_for(config, said.target, "idle", 0, progress).info
    if info.driver == "pty" and info.phase is not Phase.ENDED:
        hint = f"See its screen: hapi send {said.target} … && hapi wait {said.target} && hapi logs {said.target}"
        raise HapiError(ErrorCode.BAD_REQUEST, "What is an answer in a terminal cannot be told.", hint)
    with Tail(config.paths.session(info.session_id) / "transcript", whole=True) as tail:
        carry_out(config, msgspec.structs.replace(said, target=info.session_id), wire.Accepted, progress)
        return _await(config, info.session_id, Answer(said.id), tail, patience_s, progress)


def _await(  # noqa: PLR0913, PLR0917
    config: Config, session_id: str, answer: Answer, tail: Tail, patience_s: float | None, progress: output.Progress
) -> Answer | None:
    deadline = math.inf if patience_s is None else monotonic() + patience_s
    while True:
        waited = wait_for(config, session_id, "idle", min(_SLICE_S, max(0.0, deadline - monotonic())), progress)
        answer.read(tail.lines())
        if answer.over:
            return answer
        if waited.reached:
            raise _no_answer(waited.info)
        if monotonic() >= deadline:
            return None


def _no_answer(info: wire.SessionInfo) -> HapiError:
    if info.phase is Phase.ENDED:
        message = f"The session ended without an answer: {info.reason}."
        return HapiError(ErrorCode.SESSION_ENDED, message, info.detail or "")
    hint = f"See what was said: hapi logs {info.session_id[:8]}"
    return HapiError(ErrorCode.AGENT_FAILED, "The message is done with, but no answer to it is on record.", hint)
