"""An agent built with the official ACP SDK: it takes nothing that the protocol's models do not. A program.

It writes every message that it gets to the file in its first argument. The prompt `ask` has it ask for permission and
then show a form, and tell both answers.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import acp
from acp import schema

OPTIONS = [schema.PermissionOption(option_id=kind, name=kind, kind=kind) for kind in ("allow_once", "reject_once")]


class SdkAgent(acp.Agent):
    """Echoes; offers modes, a model to choose, a copy of the conversation."""

    def on_connect(self, connection: Any) -> None:
        self.client = connection

    async def initialize(self, protocol_version: int, **_: Any) -> acp.InitializeResponse:
        sessions = schema.SessionCapabilities(fork=schema.SessionForkCapabilities())
        can = schema.AgentCapabilities(load_session=True, session_capabilities=sessions)
        return acp.InitializeResponse(protocol_version=protocol_version, agent_capabilities=can)

    async def new_session(self, cwd: str, **_: Any) -> acp.NewSessionResponse:
        modes = [schema.SessionMode(id=name, name=name) for name in ("default", "plan")]
        state = schema.SessionModeState(current_mode_id="default", available_modes=modes)
        choices = [schema.SessionConfigSelectOption(value=name, name=name) for name in ("m1", "m2")]
        model = schema.SessionConfigOptionSelect(
            type="select", id="model", name="model", category="model", current_value="m1", options=choices
        )
        return acp.NewSessionResponse(session_id="native", modes=state, config_options=[model])

    async def load_session(self, **_: Any) -> acp.LoadSessionResponse:
        return acp.LoadSessionResponse()

    async def set_session_mode(self, **_: Any) -> acp.SetSessionModeResponse:
        return acp.SetSessionModeResponse()

    async def set_config_option(self, **_: Any) -> schema.SetSessionConfigOptionResponse:
        return schema.SetSessionConfigOptionResponse(config_options=[])

    async def fork_session(self, **_: Any) -> schema.ForkSessionResponse:
        return schema.ForkSessionResponse(session_id="copy")

    async def cancel(self, **_: Any) -> None:
        return None

    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> acp.PromptResponse:
        text = prompt[0].text
        if text == "ask":
            call = schema.ToolCallUpdate(tool_call_id="call", title="echo hi", kind="execute")
            allowed = await self.client.request_permission(session_id=session_id, tool_call=call, options=OPTIONS)
            text = json.dumps([dumped(allowed.outcome), await self.form(session_id)])
        await self.client.session_update(session_id, acp.update_agent_message_text(text))
        return acp.PromptResponse(stop_reason="end_turn")

    async def form(self, session_id: str) -> dict[str, Any]:
        words = schema.ElicitationStringPropertySchema(type="string")
        wanted = schema.ElicitationSchema(type="object", properties={"why": words}, required=["why"])
        mode = schema.ElicitationFormSessionMode(mode="form", session_id=session_id, requested_schema=wanted)
        return dumped(await self.client.create_elicitation(message="Why?", mode=mode))


def dumped(answer: Any) -> Any:
    """A model as JSON."""
    return answer.model_dump(by_alias=True, mode="json", exclude_none=True)


def main() -> None:
    """Serve on stdin and stdout."""
    record = Path(sys.argv[1])

    def note(event: Any) -> None:
        if event.direction == "incoming":
            with record.open("a") as file:
                file.write(json.dumps(event.message) + "\n")

    asyncio.run(acp.run_agent(SdkAgent(), use_unstable_protocol=True, observers=[note]))


if __name__ == "__main__":
    main()
