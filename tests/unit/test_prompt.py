"""A person's files on their way to the agent: the best form that it takes, and only what lies where it may."""

import os

import pytest

from hapi.wire import Attachment, UserMessage
from hapi.workers.supervisor import prompt

ALL = {"image": True, "audio": True, "embeddedContext": True}


def made(tmp_path, name, mime, takes, text="Hi", path=None):
    attachment = Attachment("a", name, mime, 1, str(path or tmp_path / "in" / name))
    message = UserMessage(id="m", text=text, created_at=1, attachments=[attachment])
    return prompt.blocks(message, takes, [tmp_path / "in"])


@pytest.fixture(autouse=True)
def files(tmp_path):
    (tmp_path / "in").mkdir()
    for name, data in {
        "a.png": b"png",
        "a.mp3": b"mp3",
        "a.txt": b"words",
        "a.bin": b"\0\xff",
        "é.txt": b"\xff",
    }.items():
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "out.txt").write_text("secret")


@pytest.mark.parametrize(
    ("name", "mime", "takes", "kind"),
    [
        ("a.png", "image/png", ALL, "image"),
        ("a.png", "image/png", {}, "resource_link"),
        ("a.png", "image/svg+xml", {"image": True}, "resource_link"),
        ("a.mp3", "audio/mpeg", ALL, "audio"),
        ("a.mp3", "audio/mpeg", {"image": True}, "resource_link"),
        ("a.txt", "text/plain", ALL, "resource"),
        ("a.txt", "", ALL, "resource"),
        ("a.txt", "text/plain", {"embeddedContext": False}, "resource_link"),
        ("a.bin", "application/octet-stream", ALL, "resource_link"),
        ("é.txt", "text/plain", ALL, "resource_link"),
    ],
)
def test_forms(tmp_path, name, mime, takes, kind):
    blocks, problems = made(tmp_path, name, mime, takes)
    assert problems == []
    assert [block["type"] for block in blocks] == ["text", kind]
    if kind == "resource_link":
        assert blocks[1]["uri"] == (tmp_path / "in" / name).as_uri()


def test_files_without_words(tmp_path):
    blocks, _ = made(tmp_path, "a.png", "image/png", ALL, text="")
    assert [block["type"] for block in blocks] == ["image"]
    blocks, problems = made(tmp_path, "gone", "image/png", ALL, text="")
    assert blocks == [{"type": "text", "text": ""}] and problems


def test_a_large_one_becomes_a_link(tmp_path):
    for name, size in {"big.png": prompt.INLINE_LIMIT + 1, "big.txt": prompt.EMBEDDED_LIMIT + 1}.items():
        with (tmp_path / "in" / name).open("wb") as file:
            file.truncate(size)
        blocks, _ = made(tmp_path, name, "image/png" if name.endswith("png") else "text/plain", ALL)
        assert blocks[1]["type"] == "resource_link"


def test_all_together_are_bounded(tmp_path):
    with (tmp_path / "in" / "big.png").open("wb") as file:
        file.truncate(prompt.INLINE_LIMIT)
    one = Attachment("a", "big.png", "image/png", 1, str(tmp_path / "in/big.png"))
    message = UserMessage(id="m", text="", created_at=1, attachments=[one] * 4)
    blocks, _ = prompt.blocks(message, ALL, [tmp_path / "in"])
    assert [block["type"] for block in blocks] == ["image", "image", "resource_link", "resource_link"]


@pytest.mark.parametrize("bad", ["missing", "directory", "pipe", "../out.txt", "link", "relative", "null", "etc"])
def test_what_is_not_given(tmp_path, bad):
    inside = tmp_path / "in"
    if bad == "directory":
        (inside / bad).mkdir()
    elif bad == "pipe":
        os.mkfifo(inside / bad)
    elif bad == "link":
        (inside / bad).symlink_to(tmp_path / "out.txt")
    path = {"relative": "in/a.txt", "null": f"{inside}/a\0b", "etc": "/etc/passwd"}.get(bad, inside / bad)
    blocks, problems = made(tmp_path, "f", "text/plain", ALL, path=path)
    assert blocks == [{"type": "text", "text": "Hi"}]
    assert len(problems) == 1 and problems[0].startswith("The agent did not get the file f: ")
