"""Imports that leave something out leave nothing out that is needed, whatever interpreter it is."""

import subprocess
import sys

import pytest

HASHED = "e3b0c44298fc1c14"  # the SHA-256 of nothing


def said(code):
    """What a fresh interpreter prints, and writes to stderr."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize("absent", [[], ["_md5", "_sha1", "_sha2", "_sha3", "_sha256", "_sha512"]])
def test_digests_come_from_python_where_it_has_them(absent):
    """Some systems build it with OpenSSL's alone, but for blake2.

    Seen to fail: without `_is_there`.
    """
    out, err = said(
        f"import sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        "from hapi import lean; lean.import_hashlib()\n"
        "import hashlib; print(hashlib.sha256().hexdigest()[:16], '_hashlib' in sys.modules)"
    )
    assert (out, err) == ([HASHED, str(bool(absent))], "")


def test_openssls_digests_are_there_for_others():
    out, _ = said(
        "from hapi import lean; lean.import_hashlib()\n"
        "import hmac, hashlib; print(len(hmac.new(b'k', b'm', hashlib.sha256).hexdigest()))\n"
        "print(len(hmac.new(b'k', b'm', 'sha256').hexdigest()))"
    )
    assert out == ["64", "64"]


def test_what_is_loaded_already_stays():
    out, _ = said(
        "import hashlib, typing_extensions, aiohttp; before = [hashlib, typing_extensions, aiohttp]\n"
        "from hapi import lean; lean.import_msgspec(); lean.import_hashlib(); lean.import_aiohttp()\n"
        "import hashlib, typing_extensions, aiohttp, msgspec; print(before == [hashlib, typing_extensions, aiohttp])"
    )
    assert out == ["True"]
