"""Git for tests, with an author of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def git(directory: Path, *arguments: str) -> str:
    environment = os.environ | {
        f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        ["git", "-C", str(directory), *arguments], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
