"""Messages, files, images, plans, usage and lists as the web shows them, through the hub's REST API."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hapi import wire
from hapi.agents import demo_chat
from tests.support.chat import SHOWN_S, Chat, chat_at
from tests.support.faults import stopped
from tests.support.hub import OfficialHub, WebError
from tests.support.runner import identity
from tests.support.wait import until

pytestmark = pytest.mark.hub
PNG = base64.b64decode(demo_chat._SQUARE)
BUSY = "/slow 60 600"


@pytest.fixture(scope="module")
def chat(shared_hub: OfficialHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    home = tmp_path_factory.mktemp("home")
    skill(home / ".claude/skills/tidy", "name: tidy\ndescription: Cleans up.")
    with chat_at(shared_hub, "msgs", HOME=str(home)) as made:
        yield made


def skill(directory: Path, front: str) -> None:
    directory.mkdir(parents=True)
    (directory / "SKILL.md").write_text(f"---\n{front}\n---\nDo it.\n")


def busy(chat: Chat, **spawn: Any) -> str:
    """A session in the middle of a long turn."""
    key = chat.spawn(**spawn)
    chat.web.send(key, BUSY, f"{key}-busy")
    until(lambda: chat.web.session(key)["thinking"], SHOWN_S, "it works")
    until(lambda: chat.queued(key, f"{key}-busy") == "consumed", SHOWN_S, "the agent has it")
    return key


def attach(chat: Chat, key: str, text: str, *files: dict[str, Any]) -> None:
    attachments = [{"id": f"a{at}", "size": 1, **file} for at, file in enumerate(files)]
    chat.web.post(f"/api/sessions/{key}/messages", text=text, localId=f"{key}-files", attachments=attachments)


# ------------------------------------------------------------------------------------------ the queue and the turn


def test_trap_34_a_follow_up_never_aborts_the_turn(chat: Chat) -> None:
    """Messages that come meanwhile wait, and run in their order when the turn is over.

    Seen to fail: with `receive` cancelling the turn that runs.
    """
    key = chat.spawn()
    chat.web.send(key, "/slow 1 4 ; /say first done", f"{key}-1")
    chat.settles(lambda: chat.queued(key, f"{key}-1") == "consumed")
    chat.web.send(key, "/say second", f"{key}-2")
    chat.web.send(key, "/say third", f"{key}-3")
    assert chat.queued(key, f"{key}-2") == "queued"
    chat.hears(key, "third")
    said = chat.said(key)
    assert said == ["chunk 1 of 4 chunk 2 of 4 chunk 3 of 4 chunk 4 of 4 \n\nfirst done", "second", "third"]
    assert not [row for row in chat.rows(key, "message") if "abort" in row["message"].lower()]


def test_a_short_turn_is_shown_in_order_and_leaves_the_session_at_rest(chat: Chat) -> None:
    """The hub takes a session for busy from a person's message on, and a turn that is over before the next look is no
    change to tell; what was said in it is consumed together, and stays in its order.

    Seen to fail: without the keepalive behind a consumed message (shown busy for 10 s).
    """
    key = chat.spawn()
    for number in range(3):
        chat.web.send(key, f"/say {number} ; /tool Bash ; /say then", f"{key}-{number}")
        until(lambda: not chat.web.session(key)["thinking"], 3, "the session is at rest")
        chat.turns(key, number + 1)
    texts = [text for number in range(3) for text in (str(number), "then")]
    assert chat.said(key) == texts
    rows = [row["content"] for row in chat.web.messages(key)]
    said = [row["content"]["text"] for row in rows if row["role"] == "user"]
    assert said == [f"/say {number} ; /tool Bash ; /say then" for number in range(3)]
    first = next(at for at, row in enumerate(rows) if row["role"] == "agent")
    assert rows[first - 1]["role"] == "user" and rows[first]["content"]["data"]["message"] == "0"
    kinds = [row["content"]["data"]["type"] for row in rows if row["role"] == "agent"][:7]
    assert kinds == ["message", "tool-call", "tool-call", "tool-call-result", "message", "token_count", "ready"]


def test_abort_ends_the_turn_and_the_queue_runs_next(chat: Chat) -> None:
    key = busy(chat)
    chat.web.send(key, "/say next", f"{key}-next")
    chat.web.abort(key)
    chat.hears(key, "next")
    assert "Session aborted" in [row["message"] for row in chat.rows(key, "message")]


def test_a_queued_message_is_taken_back_and_a_sent_one_is_not(chat: Chat) -> None:
    key = busy(chat)
    chat.web.send(key, "/say never", f"{key}-never")
    waiting = chat.message_id(key, f"{key}-never")
    assert chat.web.delete(f"/api/sessions/{key}/messages/{waiting}")["status"] == "cancelled"
    sent = chat.message_id(key, f"{key}-busy")
    assert chat.web.delete(f"/api/sessions/{key}/messages/{sent}")["status"] == "invoked"
    assert chat.web.post(f"/api/sessions/{key}/messages/{sent}/retry")["status"] == "invoked"
    chat.web.abort(key)
    chat.web.send(key, "/say after")
    chat.hears(key, "after")
    assert "never" not in chat.said(key)


def test_a_message_of_unknown_fate_can_be_retried(chat: Chat) -> None:
    """A session that is held up cannot say whether the message was taken back; the web then offers to retry it."""
    key = busy(chat)
    chat.web.send(key, "/say retried", f"{key}-r")
    message = chat.message_id(key, f"{key}-r")
    info = chat.runner.info(key)
    assert info is not None and info.supervisor is not None
    with stopped(info.supervisor):
        assert chat.web.delete(f"/api/sessions/{key}/messages/{message}")["status"] == "busy"
        assert chat.queued(key, f"{key}-r") == "indeterminate"
    assert chat.web.post(f"/api/sessions/{key}/messages/{message}/retry")["status"] == "retried"
    assert chat.web.post(f"/api/sessions/{key}/messages/{message}/retry")["status"] == "already-queued"
    chat.web.abort(key)
    chat.hears(key, "retried")
    assert chat.said(key).count("retried") == 1


@pytest.mark.parametrize("agent", ["claude", "codex"])
def test_steering_is_refused_and_the_message_stays_queued(chat: Chat, agent: str) -> None:
    """The hub refuses it for claude by itself; for codex it asks us."""
    key = busy(chat, agent=agent)
    chat.web.send(key, "/say later", f"{key}-later")
    message = chat.message_id(key, f"{key}-later")
    answer = chat.web.post(f"/api/sessions/{key}/messages/{message}/steer")
    assert answer["status"] != "steered" and answer["error"]
    assert chat.queued(key, f"{key}-later") == "queued"
    assert not chat.state(key).get("steeringActive")
    chat.web.abort(key)
    chat.hears(key, "later")


def test_calls_left_open_are_closed_when_the_turn_is_aborted(chat: Chat) -> None:
    key = chat.spawn()
    chat.web.send(key, f"/open-tool Dig ; {BUSY}")
    (call,) = until(lambda: chat.rows(key, "tool-call"), SHOWN_S, "the call")
    chat.web.abort(key)
    (result,) = until(lambda: chat.rows(key, "tool-call-result"), SHOWN_S, "its end")
    assert (result["callId"], result["output"], result["is_error"]) == (call["callId"], "cancelled", True)


def test_words_behind_the_end_of_a_turn_are_shown(chat: Chat) -> None:
    key = chat.spawn()
    chat.web.send(key, "/say done ; /late one more thing")
    until(lambda: "one more thing" in "".join(chat.said(key)), SHOWN_S, "it is shown though nothing follows")
    chat.web.send(key, "/say again")
    chat.hears(key, "again")


def test_odd_updates_change_nothing(chat: Chat) -> None:
    key = chat.spawn()
    chat.web.send(key, "/say before ; /odd ; /garbage ; /say behind")
    chat.turns(key)
    shown = "".join(chat.said(key))
    assert "before" in shown and "behind" in shown and "echo" not in shown
    assert not chat.rows(key, "error")


# ------------------------------------------------------------------------------------------------- long texts


def test_nothing_of_a_long_answer_is_lost(chat: Chat) -> None:
    """Each row stays below the hub's cut, also in characters that JavaScript counts twice."""
    key = chat.spawn()
    text = "😀😀😀😀\n" * 16_000
    chat.web.send(key, text)
    chat.turns(key)
    said = chat.said(key)
    assert len(said) > 1 and all(len(part.encode("utf-16-le")) // 2 <= 65_536 for part in said)
    assert "".join(said).removeprefix("You said: ").strip() == text.strip()


def test_markdown_passes_unchanged(chat: Chat) -> None:
    key = chat.spawn()
    text = "# A title\n\n| a | b |\n|---|---|\n| 1 | `x` |\n\n```py\nprint('<b>&amp;')\n```\n\n$x^2$ <script>"
    chat.web.send(key, text)
    chat.hears(key, f"You said: {text}")


def test_a_message_that_is_too_long_is_refused_in_words(chat: Chat) -> None:
    """It was dropped with a word in the log only, and the web showed it as queued for ever."""
    key = chat.spawn()
    chat.web.send(key, "x" * 9_000_000, f"{key}-huge")
    (note,) = until(lambda: chat.rows(key, "error"), SHOWN_S, "it is said")
    assert "was not given to the agent" in note["message"]
    chat.settles(lambda: chat.queued(key, f"{key}-huge") == "consumed")
    chat.web.send(key, "/say fine")
    chat.hears(key, "fine")


# ------------------------------------------------------------------------------------------------- files and images


def test_attachments_reach_the_agent_in_the_best_form_it_takes(chat: Chat) -> None:
    key = chat.spawn()
    place = chat.runner.project
    (place / "a.png").write_bytes(PNG)
    (place / "b.txt").write_text("some words")
    (place / "c.bin").write_bytes(b"\0\1")
    files = [("a.png", "image/png"), ("b.txt", "text/plain"), ("c.bin", "application/octet-stream")]
    attach(chat, key, "Look.", *({"filename": n, "mimeType": m, "path": str(place / n)} for n, m in files))
    chat.turns(key)
    (said,) = chat.said(key)
    expected = [
        "You said: Look.",
        f"[image image/png, {len(PNG)} bytes]",
        f"{(place / 'b.txt').as_uri()} says some words",
        (place / "c.bin").as_uri(),
    ]
    assert [line for line in said.splitlines() if line] == expected


@pytest.mark.parametrize("bad", ["missing", "outside", "link", "pipe"])
def test_a_file_that_cannot_be_given_is_said_and_the_words_still_go(chat: Chat, bad: str, tmp_path: Path) -> None:
    key = chat.spawn()
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    path = chat.runner.project / f"{bad}-{key[:8]}"
    if bad == "link":
        path.symlink_to(secret)
    elif bad == "pipe":
        os.mkfifo(path)
    elif bad == "outside":
        path = secret
    attach(chat, key, "And?", {"filename": "f.txt", "mimeType": "text/plain", "path": str(path)})
    chat.hears(key, "You said: And?")
    (note,) = chat.rows(key, "error")
    assert note["message"].startswith("The agent did not get the file f.txt")


@pytest.mark.parametrize("how", ["", "tool"])
def test_images_of_the_agent_are_shown_and_stay(chat: Chat, how: str) -> None:
    """Served by the hub; the connector that served it dies, and the next one serves it too."""
    key = chat.spawn()
    chat.web.send(key, f"/say look ; /image {how} ; /say nice")
    (row,) = until(lambda: chat.rows(key, "generated-image"), SHOWN_S, "the image")
    assert row["mimeType"] == "image/png"
    assert fetch(chat, key, row["imageId"]) == PNG
    connector = chat.runner.status()["workers"]["hub"]["pid"]
    who = identity(connector)
    os.kill(connector, signal.SIGKILL)
    until(lambda: chat.runner.status()["workers"]["hub"]["pid"] not in {0, who.pid}, SHOWN_S, "another connector")
    until(lambda: fetch(chat, key, row["imageId"]) == PNG, SHOWN_S, "it serves the image")


@pytest.mark.parametrize("image_id", ["nothing-there", "..%2F..%2Fstate", "%2e%2e%2fstate.json", "a" * 300])
def test_an_image_that_is_none(chat: Chat, image_id: str) -> None:
    key = chat.spawn()
    assert fetch(chat, key, image_id) is None


def fetch(chat: Chat, key: str, image_id: str) -> bytes | None:
    """The bytes of an image as the web gets them; None for a refusal."""
    try:
        return chat.web.raw(f"/api/sessions/{key}/generated-images/{image_id}")
    except WebError:
        return None


def test_an_image_that_cannot_be_shown_is_said(chat: Chat) -> None:
    key = chat.spawn()
    chat.web.send(key, "/image not-base64!")
    chat.turns(key)
    assert any("image is left out" in words for words in chat.said(key))


# ------------------------------------------------------------------------------------------------- lists and gauges


def test_the_plan_is_the_sessions_todo_list(chat: Chat) -> None:
    key = chat.spawn()
    chat.web.send(key, "/plan dig | fill")
    chat.turns(key)
    todos = chat.web.session(key)["todos"]
    assert [(todo["content"], todo["status"]) for todo in todos] == [("dig", "completed"), ("fill", "completed")]


def test_usage_tells_tokens_and_context(chat: Chat) -> None:
    key = chat.spawn()
    chat.web.send(key, "/usage 70000 ; /usage 70000")
    chat.turns(key)
    infos = [row["info"] for row in chat.rows(key, "token_count")]
    gauges = [info["contextTokens"] for info in infos if "contextTokens" in info]
    assert gauges[0] == 70_000 and infos[0]["modelContextWindow"] == 100_000
    assert infos[-1]["total"]["inputTokens"] > 0 and "contextTokens" in infos[-1]
    assert gauges.count(70_000) == 1


def test_a_title_is_the_summary_and_never_a_persons_name_for_it(chat: Chat) -> None:
    key = chat.spawn()
    chat.web.send(key, "/title Mend the  fence ; /title Untitled ; /title New session - today")
    chat.turns(key)
    chat.settles(lambda: (chat.web.session(key)["metadata"].get("summary") or {}).get("text") == "Mend the fence")
    chat.web.patch(f"/api/sessions/{key}", name="Mine")
    chat.web.send(key, "/title Another")
    chat.settles(lambda: chat.web.session(key)["metadata"]["summary"]["text"] == "Another")
    assert chat.web.session(key)["metadata"]["name"] == "Mine"


def test_slash_commands_are_the_agents(chat: Chat) -> None:
    key = chat.spawn()
    found = chat.settles(lambda: chat.web.get(f"/api/sessions/{key}/slash-commands")["commands"])
    assert {"name": "ask", "source": "builtin"}.items() <= next(c for c in found if c["name"] == "ask").items()
    assert "plan" in chat.settles(lambda: chat.web.session(key)["metadata"].get("slashCommands"))


def test_skills_of_the_project_and_the_home(chat: Chat) -> None:
    project = chat.runner.project
    skill(project / ".claude/skills/dig", 'name: "dig"\ndescription: Digs a hole.')
    (project / ".claude/skills/broken").mkdir()
    (project / ".claude/skills/broken/SKILL.md").write_bytes(b"\xff\xfe no front matter")
    answer = chat.web.get(f"/api/sessions/{chat.spawn()}/skills")
    assert answer["skills"] == [
        {"name": "dig", "description": "Digs a hole."},
        {"name": "tidy", "description": "Cleans up."},
    ]


# --------------------------------------------------------------------------------------------- what "active" means


@pytest.mark.parametrize("agent", ["idle", "works", "silent", "stopped", "dead"])
def test_trap_29_active_is_the_truth_about_the_process(chat: Chat, agent: str) -> None:
    """Alive is shown alive, at work or not, whether or not it makes progress; dead is shown dead, at once.

    Seen to fail: with keepalives that never say that it works, and without a look at the agent's end.
    """
    key = chat.spawn()
    info = chat.runner.info(key)
    assert info is not None and info.agent_process is not None
    if agent in {
        "works",
        "silent",
    }:  # said on this machine: a message from the web would make the hub believe it anyway
        chat.runner.ask(wire.SendText(key, BUSY if agent == "works" else "/hang"), wire.Accepted)
    elif agent != "idle":
        os.kill(info.agent_process.pid, signal.SIGSTOP if agent == "stopped" else signal.SIGKILL)
    expected = (agent != "dead", agent in {"works", "silent"})

    def shown() -> bool:
        row = chat.web.session(key)
        return (row["active"], row["thinking"]) == expected

    chat.settles(shown)
    if agent == "stopped":
        os.kill(info.agent_process.pid, signal.SIGCONT)
    now = chat.runner.info(key)
    assert now is not None and (now.phase != "ended") == expected[0]
