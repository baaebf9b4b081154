"""Files and git in the web app: changes, a diff, the tree, a file, an image, a binary, the search."""

from __future__ import annotations

import base64

import pytest
from playwright.sync_api import expect

from tests.support.browser import App

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def session_id(app: App) -> str:
    """A session in a project with a changed, a new, an image and a binary file."""
    project = app.runner.project
    with (project / "src/a.py").open("a") as file:
        file.write("print('two')\n")
    (project / "new file.txt").write_text("fresh\n")
    (project / "pixel.png").write_bytes(_PIXEL)
    (project / "blob.bin").write_bytes(bytes(range(256)) * 20)
    return app.start()


def test_changes_and_a_diff(app: App, session_id: str) -> None:
    """The changed file with its numbers; its page shows the line that came."""
    app.open(session_id, "/files")
    app.sees("Unstaged Changes")
    app.sees("a.py")
    app.sees("new file.txt")
    app.sees("+1")
    app.shot("files-changes")
    app.page.get_by_role("button", name="a.py").first.click()
    app.sees("print('two')")
    app.shot("files-diff")
    app.button("File").click()
    app.sees("print('one')")
    app.shot("files-file")


def test_the_tree_and_a_file(app: App, session_id: str) -> None:
    """A directory opens, a file of it is read."""
    app.open(session_id, "/files?tab=directories")
    app.sees("README.md")
    app.page.get_by_role("button", name="src").first.click()
    app.page.get_by_role("button", name="a.py").first.click()
    app.sees("print('one')")
    app.shot("files-tree-file")


def test_an_image_and_a_binary(app: App, session_id: str) -> None:
    """The image is drawn; the binary is not, and the page says so."""
    app.open(session_id, "/files?tab=directories")
    app.page.get_by_role("button", name="pixel.png").first.click()
    expect(app.page.get_by_alt_text("Image preview for pixel.png")).to_be_visible()
    app.shot("files-image")
    app.open(session_id, "/files?tab=directories")
    app.page.get_by_role("button", name="blob.bin").first.click()
    app.sees("This looks like a binary file")
    app.shot("files-binary")


def test_search(app: App, session_id: str) -> None:
    """Part of a name finds the file, wherever it lies; nonsense finds none."""
    app.open(session_id, "/files")
    field = app.page.get_by_placeholder("Search files")
    field.fill("a.p")
    app.sees("src/a.py")
    app.shot("files-search")
    field.fill("no such thing")
    app.sees("No files match your search")


def test_a_download_is_the_file(app: App, session_id: str) -> None:
    """Byte for byte."""
    app.open(session_id, "/files?tab=directories")
    with app.page.expect_download() as download:
        app.page.get_by_role("button", name="Download blob.bin").click()
    assert download.value.path().read_bytes() == bytes(range(256)) * 20
