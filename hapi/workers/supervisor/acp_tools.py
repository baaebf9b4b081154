"""What an ACP tool call is called in the hub's chat, what its input and its output are, and which images it shows. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

PLAN_TOOL = "ExitPlanMode"
NAME_LIMIT = 4_000
LOOSE_IMAGE = "image"
_TEXT, _LINK, _RESOURCE = "text", "resource_link", "resource"


class Picture(msgspec.Struct):
    """An image that the agent showed: `data` is base64. The supervisor stores it before the chat may point to it."""

    data: str
    mime_type: str
    name: str = ""
    call_id: str | None = None


def name(call: dict[str, Any]) -> str:
    """The tool's name: one that the web draws a card for, where the call tells. A cut one is longer than NAME_LIMIT."""
    found = _name(call)
    return found if len(found) <= NAME_LIMIT else f"{found[:NAME_LIMIT]}…"


def _name(call: dict[str, Any]) -> str:
    given = _claude_name(call)
    if given:
        return given
    if plan(call) is not None:
        return PLAN_TOOL
    diffs = _diffs(call)
    if diffs:
        return _diff_name(diffs)
    raw = call.get("rawInput")
    named = (raw.get("name") or raw.get("tool")) if isinstance(raw, dict) else None
    for candidate in (call.get("title"), named, call.get("kind")):
        if isinstance(candidate, str) and candidate:
            return candidate
    return "Tool"


def arguments(call: dict[str, Any]) -> Any:
    """The input of the call as that card wants it; {} when nothing is known of it."""
    raw = call.get("rawInput")
    if _claude_name(call) and isinstance(raw, dict) and raw:
        return raw
    proposed = plan(call)
    if proposed is not None:
        return {**(raw if isinstance(raw, dict) else {}), "plan": proposed}
    diffs = _diffs(call)
    if diffs:
        return _diff_input(diffs)
    if raw is not None and raw != {}:
        return raw
    place = next((item.get("path") for item in _dicts(call.get("locations")) if item.get("path")), None)
    return {"file_path": place} if isinstance(place, str) else {}


def plan(call: dict[str, Any]) -> str | None:
    """The plan with which the agent asks to leave its planning mode; None for any other call."""
    raw = call.get("rawInput")
    said = raw.get("plan") if isinstance(raw, dict) else None
    if call.get("kind") != "switch_mode" and _claude_name(call) != PLAN_TOOL:
        return None
    return said if isinstance(said, str) and said else _words(call) or None


def output(call: dict[str, Any]) -> Any:
    """What the call brought; "done" when it does not say."""
    if call.get("rawOutput") is not None:
        return call["rawOutput"]
    return _words(call) or "done"


def pictures(call_id: str, update: dict[str, Any]) -> list[Picture]:
    """The images in a call's content, in order."""
    found = (picture(item.get("content")) for item in _dicts(update.get("content")) if item.get("type") == "content")
    return [msgspec.structs.replace(image, call_id=call_id) for image in found if image is not None]


def without_images(update: dict[str, Any]) -> dict[str, Any]:
    """The update with the bytes of its images left out: they are shown by then, and would only be carried along."""
    content = update.get("content")
    if not isinstance(content, list):
        return update
    return {**update, "content": [_named(item) if isinstance(item, dict) else item for item in content]}


def text(content: Any) -> str:
    """A content block in words: text as it is, links as Markdown, an embedded text as a block of code."""
    if not isinstance(content, dict):
        return ""
    words = {
        _TEXT: str(content.get("text") or ""),
        _LINK: f"[{content.get('name')}]({content.get('uri')})",
        _RESOURCE: _embedded(content.get("resource")),
        "audio": f"[sound, {content.get('mimeType')}]",
        LOOSE_IMAGE: f"[image]({content['uri']})" if isinstance(content.get("uri"), str) else "",
    }
    kind = content.get("type")
    return words.get(kind, "") if isinstance(kind, str) else ""


def _embedded(resource: Any) -> str:
    if not isinstance(resource, dict):
        return ""
    if isinstance(resource.get("text"), str):
        return f"\n`{resource.get('uri')}`\n\n```\n{resource['text']}\n```\n"
    return f"[{resource.get('uri')}]"


def picture(content: Any) -> Picture | None:
    """The image that a content block holds; None for any other block."""
    if not isinstance(content, dict):
        return None
    kind, data, mime, uri = content.get("type"), content.get("data"), content.get("mimeType"), content.get("uri")
    if kind == _RESOURCE and isinstance(content.get("resource"), dict):
        resource = content["resource"]
        data, mime, uri = resource.get("blob"), resource.get("mimeType"), resource.get("uri")
        if not str(mime).startswith("image/"):
            return None
    elif kind != LOOSE_IMAGE:
        return None
    if not isinstance(data, str) or not data or not isinstance(mime, str):
        return None
    return Picture(data, mime, str(uri or "").rpartition("/")[2])


def _claude_name(call: dict[str, Any]) -> str | None:
    """Claude's adapter says the tool's true name beside a title made for people."""
    meta = call.get("_meta")
    claude = meta.get("claudeCode") if isinstance(meta, dict) else None
    found = claude.get("toolName") if isinstance(claude, dict) else None
    return found if isinstance(found, str) and found else None


def _diffs(call: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in _dicts(call.get("content")) if item.get("type") == "diff"]


def _diff_name(diffs: list[dict[str, Any]]) -> str:
    if len(diffs) == 1:
        return "Edit" if diffs[0].get("oldText") else "Write"
    return "MultiEdit" if len({str(diff.get("path")) for diff in diffs}) == 1 else "CodexPatch"


def _diff_input(diffs: list[dict[str, Any]]) -> dict[str, Any]:
    kind, first = _diff_name(diffs), diffs[0]
    if kind == "Edit":
        return {"file_path": first.get("path"), "old_string": first["oldText"], "new_string": first.get("newText")}
    if kind == "Write":
        return {"file_path": first.get("path"), "content": first.get("newText")}
    if kind == "MultiEdit":
        edits = [{"old_string": diff.get("oldText") or "", "new_string": diff.get("newText")} for diff in diffs]
        return {"file_path": first.get("path"), "edits": edits}
    return {"changes": {str(diff.get("path")): _change(diff) for diff in diffs}}


def _change(diff: dict[str, Any]) -> dict[str, Any]:
    if diff.get("oldText"):
        return {"modify": {"old_content": diff["oldText"], "new_content": diff.get("newText")}}
    return {"add": {"content": diff.get("newText")}}


def _words(call: dict[str, Any]) -> str:
    parts = [_item_words(item) for item in _dicts(call.get("content"))]
    return "\n".join(part for part in parts if part)


def _item_words(item: dict[str, Any]) -> str:
    if item.get("type") == "terminal":
        return f"[terminal {item.get('terminalId')}]"
    return text(item.get("content"))


def _named(item: dict[str, Any]) -> dict[str, Any]:
    image = picture(item.get("content"))
    if image is None:
        return item
    words = f"[image {image.name}]" if image.name else "[image]"
    return {"type": "content", "content": {"type": _TEXT, "text": words}}


def _dicts(found: Any) -> list[dict[str, Any]]:
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []
