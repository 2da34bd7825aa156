"""Requests that two programs on their way could read differently.

A proxy may forward a request by one header and the server behind it read another: what one takes for the body is the next request to the other. Such
requests are refused, whatever the server beneath makes of them.

Source: RFC 9112, 6.1 and 6.3 (message body length); RFC 9110, 5.3 (field order) and 11.6.2 (Authorization).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ragcore.contrib.asgi.problem import Refused

__all__ = ["check_head"]

# These have one value; two of them are two requests.
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
        Refused: a header that may be there once is there twice, or two headers give the body's length.
    """
    counts = Counter(name.lower() for name, _ in headers)
    twice = [name.decode("latin-1") for name in SINGLE if counts[name] > 1]
    if twice:
        raise _ambiguous(f"the header {twice[0]} is there more than once")
    values = {name.lower(): value for name, value in headers}
    if b"content-length" in values and b"transfer-encoding" in values:
        raise _ambiguous("content-length and transfer-encoding say the body's length in two ways")
    bearer = values.get(b"authorization", b"").partition(b" ")[2].strip()
    if bearer and values.get(b"api-key", bearer).strip() != bearer:
        raise _ambiguous("authorization and api-key name two tokens")


def _ambiguous(message: str) -> Refused:
    return Refused(400, "AmbiguousRequest", message, {"Connection": "close"})
