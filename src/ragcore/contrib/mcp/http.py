"""MCP over streamable HTTP, as an ASGI application. Each request is authenticated by itself, and no session is kept between requests."""

from __future__ import annotations

import logging
from typing import Any

import anyio
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from ragcore.client.rag import RAG
from ragcore.contrib.asgi.authentication import Authentication
from ragcore.contrib.asgi.body import MAX_BODY
from ragcore.contrib.asgi.disconnect import until_disconnect
from ragcore.contrib.asgi.exchange import ASGIApp, ClientGone, Exchange, Message, Receive, Send
from ragcore.contrib.asgi.heads import check_head
from ragcore.contrib.asgi.identity import Authenticate, Identity
from ragcore.contrib.asgi.lifespan import lifespan
from ragcore.contrib.asgi.problem import Refused
from ragcore.contrib.mcp.server import MAX_CALLS, Context, make_server

__all__ = ["app"]

logger: logging.Logger = logging.getLogger("ragcore.mcp")
access: logging.Logger = logging.getLogger("ragcore.access")

# The key of an ASGI scope under which a request carries its authenticated caller to the tools.
IDENTITY = "ragcore.identity"


def app(
    rag: RAG,
    /,
    *,
    authenticate: Authenticate | None = None,
    path: str = "/mcp",
    max_body: int = MAX_BODY,
    max_calls: int = MAX_CALLS,
) -> ASGIApp:
    """Make an ASGI application that serves MCP at one path. `ragcore mcp --http` runs it.

    A request is a POST. A call is cancelled when its HTTP client disconnects. Its deadline is `Settings.timeout`, and the limits of its tenant are those of
    the client.

    Args:
        rag: the client. The application's lifespan starts and closes it.
        authenticate: gets the ASGI scope, and returns the identity of the caller, or None to refuse the request, as in `asgi.app`. Without it, every request
            gets status 401.
        path: the path of the endpoint. `/livez` answers probes.
        max_body: largest size of a request's body in bytes.
        max_calls: largest number of tools that run at once. A tenant that holds its share of them gets an error; other tenants wait.
    """
    return _App(rag, authenticate, path=path, max_body=max_body, max_calls=max_calls)


class _App:
    def __init__(
        self, rag: RAG, authenticate: Authenticate | None, *, path: str, max_body: int, max_calls: int
    ) -> None:
        self._authentication = Authentication(authenticate)
        self._path = f"/{path.strip('/')}".rstrip("/")
        self._max_body = max_body
        self._server = make_server(rag, _identity, max_calls=max_calls)
        self._manager: StreamableHTTPSessionManager | None = None
        self._live = lifespan(self._serve, rag)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live_with_manager(scope, receive, send)
        elif scope["type"] == "http":
            await until_disconnect(self._serve, scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _live_with_manager(self, scope: Message, receive: Receive, send: Send) -> None:
        self._manager = StreamableHTTPSessionManager(
            self._server,
            json_response=True,
            stateless=True,
            max_request_body_size=self._max_body,
            # A page of the browser can't send the token that each request needs, so the check of the host against DNS rebinding is not needed.
            security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        async with self._manager.run():
            await self._live(scope, receive, send)

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        status: int | None = None

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        exchange = Exchange(scope, receive, noting)
        began = anyio.current_time()
        try:
            try:
                await self._handle(exchange, scope, receive, noting)
            except Refused as refused:
                await exchange.respond(refused.problem.status, refused.problem.body, refused.problem.headers)
        except ClientGone:
            logger.debug("%s: the client has disconnected", exchange.where, exc_info=True)
        finally:
            milliseconds = 1000 * (anyio.current_time() - began)
            access.info("%s %s %.0f ms", exchange.where, status or "gone", milliseconds)

    async def _handle(self, exchange: Exchange, scope: Message, receive: Receive, send: Send) -> None:
        check_head(scope["headers"])
        if exchange.path == "/livez" and exchange.method in ("GET", "HEAD"):
            await exchange.respond(200, {"status": "alive"})
            return
        identity = await self._authentication.identify(exchange)
        if identity is None:
            raise Refused(401, "Unauthorized", "not authenticated", {"WWW-Authenticate": "Bearer"})
        if exchange.path.rstrip("/") != self._path:
            raise Refused(404, "NotFound", "no such route")
        if exchange.method != "POST":
            # GET would open a stream for messages of the server, and DELETE would end a session. This server has neither.
            raise Refused(405, "MethodNotAllowed", "this route takes POST", {"Allow": "POST"})
        if self._manager is None:
            raise Refused(503, "NotOpen", "the service is starting or closing; try again later")
        await self._manager.handle_request({**scope, IDENTITY: identity}, receive, send)


def _identity(context: Context) -> Identity:
    """Return the caller of a request, whom `_App` has authenticated."""
    request: Any = context.request
    identity: Identity = request.scope[IDENTITY]
    return identity
