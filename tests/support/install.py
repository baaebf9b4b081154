"""An installation of hapi of its own: a copy of the package on disk that a test may upgrade, touch and break."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Self

import hapi
from tests.support.runner import Runner


class Install:
    """`environment` runs commands from it. Files are replaced atomically, as installers do."""

    def __init__(self, place: Path, version: str = hapi.__version__) -> None:
        self.place = place
        self.package = place / "hapi"
        source = Path(hapi.__file__).parent
        shutil.copytree(source, self.package, ignore=shutil.ignore_patterns("__pycache__"))
        self.upgrade(version)

    def environment(self) -> dict[str, str]:
        """For a command to run from here; no byte code is kept, since two writes may fall into one second."""
        return {"PYTHONPATH": str(self.place), "PYTHONDONTWRITEBYTECODE": "1"}

    def used_by(self, runner: Runner) -> Self:
        """From now on `runner` runs its commands from here."""
        runner.environment |= self.environment()
        return self

    def upgrade(self, version: str) -> None:
        """Another version is installed."""
        self.write("__init__.py", f'"""A test\'s installation."""\n\n__version__ = "{version}"\n')

    def replace(self, module: str, pattern: str, by: str) -> None:
        """Change one place of a module; fails when it is not there."""
        text = (self.package / module).read_text()
        changed, count = re.subn(pattern, by, text, count=1)
        assert count == 1, f"{pattern} is not in {module}"
        self.write(module, changed)

    def write(self, module: str, text: str) -> None:
        temporary = self.package / f".{os.path.basename(module)}.new"
        temporary.write_text(text)
        temporary.replace(self.package / module)

    def touch(self) -> None:
        """New time stamps, the same content."""
        for path in self.package.rglob("*.py"):
            path.touch()

    def speaks_level_1(self) -> Self:
        """As first released: no word of levels in what it sends, and no answer to theirs."""
        self.replace("wire.py", r"(?m)^PROTOCOL_LEVEL = \d+\b", "PROTOCOL_LEVEL = 1")
        return self
