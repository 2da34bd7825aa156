"""Serves a client to agents by the Model Context Protocol (MCP). Needs the extra `mcp`.

The tools are `search`, `ask`, `documents` and `similarity`. The tenant is the authenticated caller's. No argument of a tool chooses it, so no prompt can make
a model read another tenant's documents.
"""

from ragcore.contrib.mcp.http import app
from ragcore.contrib.mcp.server import serve_stdio

__all__ = ["app", "serve_stdio"]
