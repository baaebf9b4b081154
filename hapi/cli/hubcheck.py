"""One question to the hub over HTTP: are you there, and do you take this token?"""

from __future__ import annotations

from typing import Literal

import msgspec

TIMEOUT_S = 5.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Verdict(msgspec.Struct):
    """What the hub said; `detail` is for people."""

    state: Literal["accepted", "refused", "unreachable", "strange"]
    detail: str


def check(url: str, token: str | None, headers: dict[str, str]) -> Verdict:
    """Ask the hub at `url` for a machine that does not exist, with `token`. Never raises; at most TIMEOUT_S."""
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(f"{url}/cli/machines/x", headers=headers)  # noqa: S310 - http(s), see config
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    proxies = urllib.request.ProxyHandler({} if is_loopback(url) else None)
    try:
        with urllib.request.build_opener(proxies).open(request, timeout=TIMEOUT_S):
            return Verdict("accepted", "the hub accepts the token")
    except urllib.error.HTTPError as error:
        error.close()
        return _judge(error.code)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Verdict("unreachable", f"the hub cannot be reached: {reason}")


def _judge(status: int) -> Verdict:
    if status in {401, 403}:
        return Verdict("refused", f"the hub refuses the token (HTTP {status})")
    if status == 404:
        return Verdict("accepted", "the hub accepts the token")
    return Verdict("strange", f"the hub answers with HTTP {status}")


def is_loopback(url: str) -> bool:
    """Whether the hub runs on this machine."""
    from urllib.parse import urlsplit

    return urlsplit(url).hostname in _LOOPBACK
