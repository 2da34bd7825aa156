"""A small application around a client. `ragcore serve` runs it. It can also be the start of your own application."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio

from ragcore.audit import acting
from ragcore.client.rag import RAG
from ragcore.contrib.asgi import openai_chat
from ragcore.contrib.asgi.authentication import Authentication
from ragcore.contrib.asgi.body import MAX_BODY, body_of
from ragcore.contrib.asgi.chats import Chats
from ragcore.contrib.asgi.console import show_console
from ragcore.contrib.asgi.debug import SIMILARITY, DebugRoutes
from ragcore.contrib.asgi.disconnect import until_disconnect
from ragcore.contrib.asgi.exchange import ASGIApp, ClientGone, Exchange, Message, Receive, Send
from ragcore.contrib.asgi.heads import check_head
from ragcore.contrib.asgi.identity import Authenticate, Identity
from ragcore.contrib.asgi.intake import Intake, rate_limits
from ragcore.contrib.asgi.lifespan import lifespan
from ragcore.contrib.asgi.metrics import MetricsRoute
from ragcore.contrib.asgi.openapi import document
from ragcore.contrib.asgi.origins import allow_origins
from ragcore.contrib.asgi.problem import Problem, Refused, problem
from ragcore.contrib.asgi.rollouts import ACTIONS, ROLLOUT, RolloutRoutes
from ragcore.contrib.asgi.sse import PING_SECONDS
from ragcore.contrib.prometheus.metrics import Metrics
from ragcore.errors import RagcoreError
from ragcore.lifecycle.part import Part
from ragcore.types.validation import check_tenant

if TYPE_CHECKING:
    from ragcore.rollout import Rollout
    from ragcore.types import Answer

__all__ = ["app"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")
access: logging.Logger = logging.getLogger("ragcore.access")

MAX_QUESTION = 16_000
MAX_CALLS = 256
MODEL = {"id": openai_chat.MODEL, "object": "model", "created": 0, "owned_by": "ragcore"}

Handler: TypeAlias = Callable[[Exchange, Identity], Awaitable[None]]


def app(
    rag: RAG,
    /,
    *,
    authenticate: Authenticate | None = None,
    max_body: int = MAX_BODY,
    max_question: int = MAX_QUESTION,
    max_calls: int = MAX_CALLS,
    ping: float = PING_SECONDS,
    client_instructions: Literal["append", "ignore"] = "append",
    trust_history: bool = False,
    similarity_by_get: bool = True,
    origins: Sequence[str] = (),
    metrics: Metrics | None = None,
    parts: Sequence[Part] = (),
    rollout: Rollout[Answer] | None = None,
    console: bool = True,
) -> ASGIApp:
    """Make a small ASGI application around a client.

    Its routes are `POST /chat` (JSON, or server-sent events if the client accepts them), `POST /v1/chat/completions` and `GET /v1/models` (OpenAI's protocol),
    `GET /health`, `/livez`, `/readyz`, `/openapi.json`, and for debugging `POST` or `GET /debug/rag-similarity/{user_id}`, `/debug/inflight` and, for
    administrators, `/debug/console`, `/debug/status`, `/debug/ask` and `/debug-env`. A call is cancelled when its HTTP client disconnects.

    Args:
        rag: the client. The application's lifespan starts and closes it.
        authenticate: gets the ASGI scope, and returns the identity of the caller, or None to refuse the request. Without it, every route except /livez,
            /readyz and /health returns 401: the application is never open by default.
        max_body: largest size of a request's body in bytes.
        max_question: largest number of characters of a question.
        max_calls: largest number of chats at once. If all places are taken, a tenant that already holds its share gets status 429. Other tenants wait for
            the next free place, at most for `Settings.timeout`.
        ping: seconds of silence after which a stream sends a comment, so that proxies keep the connection open.
        client_instructions: how to treat a client's system messages in OpenAI's protocol. "append" adds them to the operator's instructions, marked as the
            tenant's; "ignore" leaves them out.
        trust_history: whether answers in a client's history count as answers of the model. Default False: any client can invent such answers, so the model gets
            them as reports of the tenant. Set it to True if all requests come from your own program and that program stores the conversations.
        similarity_by_get: whether administrators may request a similarity report by GET. Its address contains the question, and proxies and logs store
            addresses.
        origins: origins of web pages whose scripts may send requests (CORS), such as "https://app.example.org"; (): none.
        metrics: the client's metrics for Prometheus, which administrators get at `GET /metrics`. The application's lifespan starts and closes them. None:
            there is no such route.
        parts: further components that the application's lifespan starts after the client and closes before it.
        rollout: answers the questions of `/chat` and `/v1/chat/completions` in place of `rag`, which should be its stable side. It also has the routes
            `GET /debug/rollout` and `POST /debug/rollout/promote`, `pause`, `resume` and `abort` for administrators. The lifespan starts and closes it.
        console: whether to serve the page `/debug/console`, and the route `/debug/ask`, with which the page asks questions.
    """
    served = _App(
        rag,
        authenticate,
        max_body=max_body,
        max_question=max_question,
        max_calls=max_calls,
        ping=ping,
        client_instructions=client_instructions,
        trust_history=trust_history,
        similarity_by_get=similarity_by_get,
        metrics=metrics,
        rollout=rollout,
        console=console,
    )
    own = [one for one in (metrics, rollout) if one is not None and one not in parts]
    started = (*parts, *own)
    return lifespan(allow_origins(served, origins) if origins else served, rag, *started)


class _App:
    def __init__(
        self,
        rag: RAG,
        authenticate: Authenticate | None,
        *,
        max_body: int,
        max_question: int,
        max_calls: int,
        ping: float,
        client_instructions: Literal["append", "ignore"],
        trust_history: bool,
        similarity_by_get: bool,
        metrics: Metrics | None,
        rollout: Rollout[Answer] | None,
        console: bool,
    ) -> None:
        self._rag = rag
        self._authentication = Authentication(authenticate)
        self._intake = Intake()
        self._max_body = max_body
        self._max_question = max_question
        self._console = console
        self._similarity_by_get = similarity_by_get
        chats = Chats(
            rag,
            max_question=max_question,
            max_calls=max_calls,
            ping=ping,
            client_instructions=client_instructions,
            trust_history=trust_history,
            rollout=rollout,
        )
        self._debug = DebugRoutes(rag, max_question=max_question, places=chats.places, rollout=rollout)
        self._routes: dict[str, dict[str, Handler]] = {
            "/chat": {"POST": chats.chat},
            "/v1/chat/completions": {"POST": chats.completions},
            "/v1/models": {"GET": self._models},
            f"/v1/models/{openai_chat.MODEL}": {"GET": self._model},
            "/openapi.json": {"GET": self._openapi},
            "/debug/inflight": {"GET": self._debug.inflight},
            "/debug/status": {"GET": self._debug.status},
            "/debug-env": {"GET": self._debug.environment},
        }
        if metrics is not None:
            self._routes["/metrics"] = {"GET": MetricsRoute(metrics)}
        if rollout is not None:
            routes = RolloutRoutes(rollout)
            self._routes[ROLLOUT] = {"GET": routes.status}
            self._routes |= {f"{ROLLOUT}/{action}": {"POST": routes.change} for action in ACTIONS}

        # Routes without authentication, for probes and load balancers. Only /health calls the hook, because probes must succeed while authentication is down.
        self._open: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/health": self._health,
        }
        if console:
            self._routes["/debug/ask"] = {"POST": chats.ask_for}
        # The page has no data, so it is open too. Without a hook, the application refuses the requests of the page, and the page as well.
        if console and authenticate is not None:
            self._open["/debug/console"] = show_console

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await until_disconnect(self._serve, scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        began = anyio.current_time()
        try:
            await self._answer(exchange)
        except ClientGone:
            logger.debug("%s: the client has disconnected", exchange.where, exc_info=True)
        finally:
            # The log leaves out the query string, which may contain a question.
            access.info(
                "%s %s %.0f ms %s",
                exchange.where,
                exchange.status or "gone",
                1000 * (anyio.current_time() - began),
                exchange.id,
            )

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._route(exchange)
        except Refused as refused:
            await _refuse(exchange, refused.problem)
        except ClientGone:
            raise
        except RagcoreError as error:
            exchange.id = error.call_id or exchange.id
            exchange.parameter = error.parameter if isinstance(error, openai_chat.BadRequest) else None
            await _refuse(exchange, problem(error, whole=exchange.whole))
        except Exception:
            logger.exception("unhandled exception in %s", exchange.where)
            await _refuse(exchange, Refused(500, "InternalError", "internal error; see the server's log").problem)

    async def _route(self, exchange: Exchange) -> None:
        check_head(exchange.scope["headers"])
        # HEAD is handled like GET; its response has no body.
        method = "GET" if exchange.method == "HEAD" else exchange.method
        route = exchange.path if exchange.path in self._routes else exchange.path.rstrip("/")
        if route in self._open:
            if method != "GET":
                raise Refused(405, "MethodNotAllowed", "this route takes GET", {"Allow": "GET"})
            await self._open[route](exchange)
            return
        identity = await self._authentication.identify(exchange)
        if identity is None:
            raise Refused(401, "Unauthorized", "not authenticated", {"WWW-Authenticate": "Bearer"})
        exchange.whole = identity.admin
        handlers = self._routes.get(route)
        if handlers is None and exchange.path.startswith(SIMILARITY):
            by_get = identity.admin and self._similarity_by_get
            handler = self._debug.similarity
            handlers = {"POST": handler, **({"GET": handler} if by_get else {})}
        if handlers is None:
            raise Refused(404, "NotFound", "no such route")
        if method not in handlers:
            allowed = ", ".join(handlers)
            raise Refused(405, "MethodNotAllowed", f"this route takes {allowed}", {"Allow": allowed})
        tenant = check_tenant(identity.tenant)
        shown = SIMILARITY if exchange.path.startswith(SIMILARITY) else route
        with acting(identity.name or tenant, admin=identity.admin, route=f"{method} {shown}"):
            await self._handle(handlers[method], exchange, identity, tenant, reads=method != "GET")

    async def _handle(
        self, handler: Handler, exchange: Exchange, identity: Identity, tenant: str, *, reads: bool
    ) -> None:
        if not reads:
            await handler(exchange, identity)
            return
        with self._intake.request(tenant) as body:
            with body.reading():
                exchange.body = await body_of(exchange, self._max_body, hold=body.hold)
            # Here the limits don't count this request yet, so `rate_limits` subtracts it.
            exchange.headers |= rate_limits(self._rag.limits(tenant=tenant))
            try:
                await handler(exchange, identity)
            except RagcoreError:
                exchange.headers |= rate_limits(self._rag.limits(tenant=tenant), counted=True)
                raise

    async def _models(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, {"object": "list", "data": [MODEL]})

    async def _model(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, MODEL)

    async def _livez(self, exchange: Exchange) -> None:
        await exchange.respond(200, {"status": "alive"})

    async def _health(self, exchange: Exchange) -> None:
        """Show the status to everyone, some details to identified callers, and all details to administrators."""
        identity = await self._authentication.recognize(exchange)
        health = await self._rag.health()
        status = 503 if health.status == "unhealthy" else 200
        if identity is None:
            whole = health.to_dict()
            await exchange.respond(status, {name: whole[name] for name in ("status", "timestamp", "services")})
            return
        await exchange.show(health, status)

    async def _readyz(self, exchange: Exchange) -> None:
        health = await self._rag.health()
        await exchange.respond(200 if health.ready else 503, {"ready": health.ready})

    async def _openapi(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, document(max_question=self._max_question, console=self._console))


async def _refuse(exchange: Exchange, refused: Problem) -> None:
    """Send an error in the format of the route's protocol. Does nothing after the first byte of a response."""
    if exchange.started:
        return
    body = refused.body
    if exchange.path.startswith("/v1/"):
        body = openai_chat.as_error(refused, call_id=exchange.id, parameter=exchange.parameter)
    await exchange.respond(refused.status, body, refused.headers)
