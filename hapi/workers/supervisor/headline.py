"""A session's title from the one that its program gives its terminal's window. Pure."""

from __future__ import annotations

import unicodedata

LONGEST = 200
_READ = 1_000


def headline(title: str | None) -> str | None:
    """The title in one line, without the marks and turning wheels before it; None if nothing is left."""
    words = " ".join("".join(c if c.isprintable() else " " for c in (title or "")[:_READ]).split())
    start = next((at for at, c in enumerate(words) if not _is_ornament(c)), len(words))
    return words[start:][:LONGEST] or None


def _is_ornament(character: str) -> bool:
    return character.isspace() or (
        unicodedata.category(character) in {"So", "Sk", "Mn", "Po"} and character not in "/@#"
    )
