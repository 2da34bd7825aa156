"""Refuses ambiguous requests. A proxy and the server behind it could read such a request differently (request smuggling).

For example, if the proxy uses Content-Length and the server uses Transfer-Encoding, the server may read a part of the body as the next request.
Such requests are refused here, even if the server would accept them.

Source: RFC 9112, 6.1 and 6.3 (message body length); RFC 9110, 5.3 (field order) and 11.6.2 (Authorization).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ragcore.contrib.asgi.problem import Refused

__all__ = ["check_head"]

# Headers that must occur at most once.
SINGLE = (
    b"authorization",
    b"api-key",
    b"content-length",
    b"content-type",
    b"content-encoding",
    b"host",
    b"transfer-encoding",
)


def check_head(headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Check a request's headers.

    Raises:
        Refused: a header occurs twice that may occur only once, two headers give the body's length, or two headers contain different tokens.
    """
    counts = Counter(name.lower() for name, _ in headers)
    twice = [name.decode("latin-1") for name in SINGLE if counts[name] > 1]
    if twice:
        raise _ambiguous(f"the header {twice[0]} occurs more than once")
    values = {name.lower(): value for name, value in headers}
    if b"content-length" in values and b"transfer-encoding" in values:
        raise _ambiguous("content-length and transfer-encoding both give the body's length: send only one of them")
    bearer = values.get(b"authorization", b"").partition(b" ")[2].strip()
    if bearer and values.get(b"api-key", bearer).strip() != bearer:
        raise _ambiguous("authorization and api-key contain different tokens")


def _ambiguous(message: str) -> Refused:
    return Refused(400, "AmbiguousRequest", message, {"Connection": "close"})
