"""A hub on https: its certificate is checked by the system's authorities, although aiohttp is imported without them."""

import asyncio
import os
import ssl
import subprocess
import sys

import pytest

from hapi.workers.hub import online

# Of nobody, for localhost; made for this test (openssl req -x509 -newkey ec -nodes -days 36500).
KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgYsWjml5SLM7+NmVf
KOVaVQBKVucr6ohQWnle8RtpDB6hRANCAASuH0+8g/hbmOAdPKpqAU+tn0XlPjcr
YxdPLhJILyiN273YJmpWpoNXzIg1emnCmh8gBFR0qhVEGrWqtP1BginQ
-----END PRIVATE KEY-----
"""
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmjCCAUGgAwIBAgIUMgdA2pTUOpBIvimK0SO8ejhhhbIwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMzA4MjAwMloYDzIxMjYxMDMw
MDgyMDAyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASuH0+8g/hbmOAdPKpqAU+tn0XlPjcrYxdPLhJILyiN273YJmpWpoNX
zIg1emnCmh8gBFR0qhVEGrWqtP1BginQo28wbTAdBgNVHQ4EFgQUwg3WPucnKA9k
Fhnkp2PncR2p0aswHwYDVR0jBBgwFoAUwg3WPucnKA9kFhnkp2PncR2p0aswDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDRwAwRAIgfI9u8j+EMapN8T34Frw+1KE3DJAMs/uTDrhqmz+nzl0CIHgP
nAQ7HjmsqxmbUq7TMG4ovUt4cMphj5kVT3hN7k1d
-----END CERTIFICATE-----
"""
ASK = """
import asyncio, sys
from hapi import lean

lean.import_aiohttp()
import aiohttp
from hapi.workers.hub.online import tls

async def ask(**options):
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(**options)) as http:
        try:
            async with http.get(sys.argv[1]) as answer:
                return await answer.text()
        except aiohttp.ClientConnectorCertificateError:
            return "refused"

print(asyncio.run(ask(ssl=tls(sys.argv[1]))), asyncio.run(ask()))
"""


async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()
    writer.close()


@pytest.mark.parametrize(("trusted", "said"), [(True, "hello refused"), (False, "refused refused")])
async def test_only_whom_the_system_trusts(tmp_path, trusted, said):
    """And nobody, should a connection ever be made without our context.

    Seen to fail: without `ssl=tls(…)` for the trusted one.
    """
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    certificate.write_text(CERTIFICATE)
    key.write_text(KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    if trusted:
        environment["SSL_CERT_FILE"] = str(certificate)
    command = [sys.executable, "-c", ASK, url]
    async with server:
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, check=True, timeout=50
        )
    assert done.stdout.decode().strip() == said


def test_without_https_no_certificate_is_read():
    assert online.tls("http://localhost:3006") is True


def test_without_a_token_none_of_it_is_loaded():
    """A connector that only says that it has no token does without 10 MB."""
    heavy = "print({'aiohttp', 'socketio', 'engineio'} & set(__import__('sys').modules))"
    command = [sys.executable, "-c", f"import hapi.workers.hub.main\n{heavy}"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=50)
    assert done.stdout.decode().strip() == "set()"
