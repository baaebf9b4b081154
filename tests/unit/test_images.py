"""Images that an agent showed: kept within bounds, found by their id only."""

import os

import pytest

from hapi import images
from hapi.errors import HapiError
from hapi.images import ImageStore


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path)


@pytest.mark.parametrize("mime", sorted(images.TYPES))
def test_what_is_kept_is_read(store, mime):
    store.keep("a" * 32, b"data", mime)
    data, kind = store.read("a" * 32)
    assert data == b"data" and images.TYPES[kind] == images.TYPES[mime]


@pytest.mark.parametrize(
    ("data", "mime"), [(b"", "image/png"), (b"x", "image/svg+xml"), (b"x", "text/html"), (b"x" * 2, "../../x")]
)
def test_what_cannot_be_shown(store, data, mime):
    with pytest.raises(HapiError):
        store.keep("a" * 32, data, mime)


def test_too_large(store, monkeypatch):
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 3)
    with pytest.raises(HapiError):
        store.keep("a" * 32, b"four", "image/png")


@pytest.mark.parametrize("image_id", ["", "nothing-there", "../state", "a/b", "a\0b", "A" * 32, "a" * 300, "%2e%2e"])
def test_ids_that_are_none(store, tmp_path, image_id):
    (tmp_path / "state.png").write_bytes(b"secret")
    store.keep("a" * 32, b"data", "image/png")
    with pytest.raises(HapiError):
        store.read(image_id)


def test_the_oldest_make_room(store, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_IMAGES", 3)
    for number in range(5):
        store.keep(f"image-{number}-", b"data", "image/png")
        os.utime(tmp_path / "images" / f"image-{number}-.png", (number, number))
    assert sorted(os.listdir(tmp_path / "images")) == ["image-2-.png", "image-3-.png", "image-4-.png"]
    monkeypatch.setattr(images, "MAX_TOTAL_BYTES", 9)
    store.keep("image-5-", b"data", "image/png")
    assert sorted(os.listdir(tmp_path / "images")) == ["image-4-.png", "image-5-.png"]
