"""The tables of docs/web-parity.md."""

from __future__ import annotations

import re
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs/web-parity.md"
STATES = ("works", "not applicable", "not yet")


def rows(title: str = "") -> dict[str, tuple[str, str]]:
    """Name → (state, remark): the names in backquotes in the first cells of the tables below `title` (of all tables)."""
    found: dict[str, tuple[str, str]] = {}
    for name, text in sections().items():
        if name.startswith(title):
            for cell, state, remark in cells(text):
                found |= dict.fromkeys(re.findall(r"`([^`]+)`", cell), (state, remark))
    return found


def sections() -> dict[str, str]:
    """Heading → what stands below it."""
    parts = re.split(r"^## (.+)$", _PAGE.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def cells(text: str) -> list[tuple[str, str, str]]:
    """The rows of the table in `text`, without its head."""
    table = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [_three(line) for line in table]


def _three(line: str) -> tuple[str, str, str]:
    first, state, remark = (cell.strip() for cell in line.strip("|").split("|"))
    return first, state, remark
