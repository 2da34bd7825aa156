"""Cross-origin requests (CORS); disabled unless origins are named.

Source: WHATWG Fetch, "CORS protocol". No cookies are used, so credentials are never allowed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ragcore.contrib.asgi.exchange import ASGIApp, Message, Receive, Send
from ragcore.errors import ConfigurationError

__all__ = ["allow_origins"]

METHODS = "GET, HEAD, POST, OPTIONS"
# These headers are allowed if the browser names none. If it names headers, such as those of the SDK, they are allowed.
HEADERS = "authorization, api-key, content-type, content-encoding, accept"
NAMES = re.compile(r"[A-Za-z0-9_\-, ]{1,2000}")
SHOWN = "x-request-id, retry-after, ratelimit, ratelimit-policy"
SECONDS = "600"


def allow_origins(app: ASGIApp, origins: Sequence[str], /) -> ASGIApp:
    """Middleware that allows these origins and answers preflight requests.

    Args:
        origins: the allowed origins, such as "https://app.example.org"; "*": all origins.

    Raises:
        ConfigurationError: an entry is not an origin.
    """
    for origin in origins:
        scheme, _, host = origin.partition("://")
        if origin != "*" and not (scheme in ("http", "https") and host and "/" not in host):
            raise ConfigurationError(
                f"{origin!r} is not an origin: it must be like https://app.example.org, without a path"
            )
    allowed = frozenset(origins)

    async def wrapped(scope: Message, receive: Receive, send: Send) -> None:
        given = {} if scope["type"] != "http" else dict(scope["headers"])
        origin: str = given.get(b"origin", b"").decode("latin-1")
        if not origin or not ({origin, "*"} & allowed):
            await app(scope, receive, send)
            return
        headers = [
            (b"access-control-allow-origin", b"*" if "*" in allowed else origin.encode("latin-1")),
            (b"access-control-expose-headers", SHOWN.encode()),
            (b"vary", b"origin"),
        ]
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in given:
            asked = given.get(b"access-control-request-headers", b"").decode("latin-1")
            preflight = {"methods": METHODS, "headers": asked if NAMES.fullmatch(asked) else HEADERS}
            headers += [(f"access-control-allow-{name}".encode(), value.encode()) for name, value in preflight.items()]
            headers += [(b"access-control-max-age", SECONDS.encode()), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await app(scope, receive, with_headers)

    return wrapped
