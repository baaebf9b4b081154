"""Skills on disk: what is whole is listed, what is broken is passed over, and nothing hangs or grows without bound."""

import os

import pytest

from hapi.workers.hub import skills


def write(place, name, text):
    (place / name).mkdir(parents=True)
    (place / name / "SKILL.md").write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nname: a\ndescription: b\n---\nbody", {"name": "a", "description": "b"}),
        ("---\r\nname: a\r\ndescription: b\r\n---\r\n", {"name": "a", "description": "b"}),
        ("---\nname: \"a: b\"\ndescription: 'c'\n---", {"name": "a: b", "description": "c"}),
        ("---\nother: x\n---\n", {"name": "dir"}),
        ("---\nname: a\ndescription: |\n  long\n---\n", {"name": "a"}),
        ("name: a", None),
        ("---\nname: a", None),
        (b"\xff\xfe\0", None),
        (b"", None),
    ],
)
def test_one(tmp_path, text, expected):
    write(tmp_path, "dir", text)
    assert skills.read(tmp_path / "dir" / "SKILL.md") == expected


def test_places_and_their_order(tmp_path):
    project, home = tmp_path / "p", tmp_path / "h"
    write(project / ".claude/skills", "x", "---\nname: same\ndescription: of the project\n---\n")
    write(home / ".claude/skills", "y", "---\nname: same\ndescription: of the home\n---\n")
    write(home / ".agents/skills", "z", "---\nname: shared\n---\n")
    write(home / ".codex/skills", "w", "---\nname: codex\n---\n")
    (home / ".claude/skills/file").write_text("no directory")
    os.mkfifo(home / ".agents/skills/pipe")
    (home / ".agents/skills/loop").symlink_to(home / ".agents/skills")
    found = skills.found(skills.directories("claude", project, {"HOME": str(home)}))
    assert found == [{"name": "same", "description": "of the project"}, {"name": "shared"}]


def test_a_pipe_for_a_skill_does_not_hang(tmp_path):
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "dir" / "SKILL.md")
    assert skills.found([tmp_path]) == []


def test_a_pipe_that_somebody_holds_open_and_a_directory_are_no_skills(tmp_path):
    """The one has nothing to read yet; the other kept its descriptor open for ever."""
    for name in ("directory", "pipe"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "SKILL.md")
    (tmp_path / "directory" / "SKILL.md").mkdir()
    holder = os.open(tmp_path / "pipe" / "SKILL.md", os.O_RDWR)
    before = len(os.listdir("/proc/self/fd"))
    try:
        assert skills.found([tmp_path]) == []
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        os.close(holder)


def test_they_are_bounded(tmp_path):
    for number in range(skills.MAX_SKILLS + 5):
        write(tmp_path, f"s{number:04}", f"---\nname: s{number}\ndescription: {'x' * 5000}\n---\n")
    found = skills.found([tmp_path])
    assert len(found) == skills.MAX_SKILLS
    assert max(len(skill["description"]) for skill in found) <= 500
