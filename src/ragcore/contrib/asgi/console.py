"""The console: a page for administrators, in one file, without a build step and without requests to other hosts.

The page contains no data. It asks the user for a token, keeps it in memory, and sends it to the debug routes, which authenticate each request.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from ragcore.contrib.asgi.exchange import Exchange

__all__ = ["show_console"]

# Read at import, because reading a file would block the event loop. `read_text` turns CRLF into LF, as an HTML parser does before it computes a hash.
PAGE = files("ragcore.contrib.asgi").joinpath("console.html").read_text(encoding="utf-8")


def _hashes(page: str, element: str) -> str:
    """Return the sources of a content security policy that allow the page's own elements, and no others."""
    contents = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", page, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


# The script and the style are allowed by their hashes. Trusted types make the browser refuse to parse a text as HTML, whatever the script does.
POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src {_hashes(PAGE, 'script')}",
        f"style-src {_hashes(PAGE, 'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


async def show_console(exchange: Exchange) -> None:
    """Send the page. It is the same for every caller, and needs no authentication, because a browser can't send a token when it opens an address."""
    await exchange.send(200, PAGE.encode(), content_type="text/html; charset=utf-8", headers=HEADERS)
