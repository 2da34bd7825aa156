"""A small application around a client: what `ragcore serve` starts, and what a team may begin with."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias

import anyio

from ragcore.audit import acting, record
from ragcore.client.rag import RAG
from ragcore.contrib.asgi import openai_chat
from ragcore.contrib.asgi.body import MAX_BODY, body_of
from ragcore.contrib.asgi.chat import ChatBody, as_reported, check_fields, decoded
from ragcore.contrib.asgi.disconnect import until_disconnect
from ragcore.contrib.asgi.exchange import ASGIApp, ClientGone, Exchange, Message, Receive, Send
from ragcore.contrib.asgi.heads import check_head
from ragcore.contrib.asgi.identity import Authenticate, Identity, Unauthorized
from ragcore.contrib.asgi.intake import Intake, Room, rate_limits
from ragcore.contrib.asgi.lifespan import lifespan
from ragcore.contrib.asgi.openapi import document
from ragcore.contrib.asgi.origins import allow_origins
from ragcore.contrib.asgi.problem import Problem, Refused, problem
from ragcore.contrib.asgi.public import FULL, public
from ragcore.contrib.asgi.sse import PING_SECONDS, sse, steps
from ragcore.errors import InvalidInput, RagcoreError
from ragcore.resilience import Bulkhead
from ragcore.types.validation import check_tenant

__all__ = ["app"]

logger = logging.getLogger("ragcore.asgi")
access = logging.getLogger("ragcore.access")

MAX_QUESTION = 16_000
MAX_CALLS = 256
MAX_LOOKS = 8
AUTHENTICATE_SECONDS = 5.0
MODEL = {"id": openai_chat.MODEL, "object": "model", "created": 0, "owned_by": "ragcore"}
SIMILARITY = "/debug/rag-similarity/"
# Whose data a look at the whole service concerns.
EVERYBODY = "*"
LOOK = '{"query": "…", "threshold": 0.4}'

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
) -> ASGIApp:
    """A small application.

    `POST /chat` (JSON, or server-sent events where the client accepts them), `POST /v1/chat/completions` and `GET /v1/models` (OpenAI's protocol), `GET
    /health`, `/livez`, `/readyz`, `/openapi.json`, and for looking inside `GET /debug/rag-similarity/{user_id}?query&threshold`, `/debug/inflight` and, for
    administrators, `/debug-env`. A call ends when its client is gone.

    Args:
        rag: started and closed with the application's lifespan.
        authenticate: gets the ASGI scope, returns who asks, or None to refuse. Without it everything but /livez refuses: never open by default.
        max_body: bytes of a request's body.
        max_question: characters of a question.
        max_calls: chats under way at once. Where all are taken, a tenant that holds its share of them is told to come back, with status 429; another one
            waits for the next that is free, for as long as a chat may take.
        ping: seconds of silence after which a stream sends a comment, so that proxies keep it open.
        client_instructions: what becomes of a client's system messages in OpenAI's protocol: "append" puts them behind the operator's instructions,
            marked as the member's; "ignore" leaves them out.
        trust_history: whether answers in the history that a client sends count as the model's own. Default False: anybody could have written them, so they are
            handed on as what the member reports. True for a program of your own in front, which keeps the conversation itself.
        similarity_by_get: whether administrators may ask for a similarity report with the question in the address, which proxies and logs keep.
        origins: of pages whose scripts may ask (CORS), such as "https://members.example.org"; () for none.
    """
    served = _App(
        rag,
        authenticate,
        max_body=max_body,
        max_question=max_question,
        max_calls=max_calls,
        ping=ping,
        append=client_instructions == "append",
        trust_history=trust_history,
        similarity_by_get=similarity_by_get,
    )
    return lifespan(allow_origins(served, origins) if origins else served, rag)


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
        append: bool,
        trust_history: bool,
        similarity_by_get: bool,
    ) -> None:
        self._append = append
        self._trust_history = trust_history
        self._similarity_by_get = similarity_by_get
        self._intake = Intake()
        # A report compares all of a tenant's chunks with a question: a few at once, and no more than two for one tenant.
        self._looks = Room(MAX_LOOKS, of_a_tenant=MAX_LOOKS // 4)
        self._rag = rag
        self._authenticate = authenticate
        self._max_body = max_body
        self._max_question = max_question
        self._places = Bulkhead(max_calls, queue=max_calls, name="the application")
        self._ping = ping
        self._routes: dict[str, dict[str, Handler]] = {
            "/chat": {"POST": self._chat},
            "/v1/chat/completions": {"POST": self._completions},
            "/v1/models": {"GET": self._models},
            f"/v1/models/{openai_chat.MODEL}": {"GET": self._model},
            "/openapi.json": {"GET": self._openapi},
            "/debug/inflight": {"GET": self._inflight},
            "/debug-env": {"GET": self._environment},
        }

        # Who asks these needs no token: probes, and load balancers. Only health looks who asks: probes must pass while nobody can be authenticated.
        self._open: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/health": self._health,
        }

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
            logger.debug("%s: the client is gone", exchange.where, exc_info=True)
        finally:
            # Without what stands behind a question mark in the address: it may be a question.
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
            exchange.parameter = getattr(error, "parameter", None)
            await _refuse(exchange, problem(error, whole=exchange.whole))
        except Exception:
            logger.exception("%s failed in a way that nobody thought of", exchange.where)
            await _refuse(exchange, Refused(500, "InternalError", "an error that the server's log describes").problem)

    async def _route(self, exchange: Exchange) -> None:
        check_head(exchange.scope["headers"])
        # A HEAD is a GET whose body stays behind.
        method = "GET" if exchange.method == "HEAD" else exchange.method
        route = exchange.path if exchange.path in self._routes else exchange.path.rstrip("/")
        if route in self._open:
            if method != "GET":
                raise Refused(405, "MethodNotAllowed", "this route takes GET", {"Allow": "GET"})
            await self._open[route](exchange)
            return
        identity = await self._identity(exchange)
        if identity is None:
            raise Refused(401, "Unauthorized", "not authenticated", {"WWW-Authenticate": "Bearer"})
        exchange.whole = identity.admin
        handlers = self._routes.get(route)
        if handlers is None and exchange.path.startswith(SIMILARITY):
            by_get = identity.admin and self._similarity_by_get
            handlers = {"POST": self._similarity, **({"GET": self._similarity} if by_get else {})}
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
            # As they are before this request is counted: less one.
            exchange.headers |= rate_limits(self._rag.limits(tenant=tenant))
            try:
                await handler(exchange, identity)
            except RagcoreError:
                exchange.headers |= rate_limits(self._rag.limits(tenant=tenant), counted=True)
                raise

    async def _known(self, exchange: Exchange) -> Identity | None:
        """Who asks an open route; None for anybody, whatever is wrong with their token."""
        try:
            identity = await self._identity(exchange)
        except Refused:
            return None
        exchange.whole = identity is not None and identity.admin
        return identity

    async def _identity(self, exchange: Exchange) -> Identity | None:
        """What the hook says, within its time. One that fails is the service's fault, and says so."""
        if self._authenticate is None:
            return None
        unavailable = Refused(
            503,
            "AuthenticationUnavailable",
            "who asks can't be told at the moment; try again later",
            {"Retry-After": "5"},
        )
        with anyio.move_on_after(AUTHENTICATE_SECONDS):
            try:
                identity = await self._authenticate(exchange.scope)
            except Unauthorized as error:
                raise Refused(
                    401, "Unauthorized", str(error) or "not authenticated", {"WWW-Authenticate": "Bearer"}
                ) from None
            except Exception:
                logger.exception("the hook `authenticate` raised")
                raise unavailable from None
            if identity is None:
                return None
            if not isinstance(identity, Identity):
                logger.error("authenticate returned %s: it must return an Identity or None", type(identity).__name__)
                raise unavailable
            try:
                check_tenant(identity.tenant)
            except InvalidInput as error:
                logger.warning("authenticate returned an identity without a tenant: %s", error)
                return None
            return identity
        logger.error("the hook `authenticate` did not answer within %g s", AUTHENTICATE_SECONDS)
        raise unavailable

    async def _chat(self, exchange: Exchange, identity: Identity) -> None:
        chat = ChatBody.read(exchange.body)
        self._check_question(chat.message)
        member = self._rag.for_tenant(identity.tenant)
        history = chat.history if self._trust_history else as_reported(chat.history)
        async with self._place(identity):
            if "text/event-stream" not in exchange.header("accept"):
                answer = await member.ask(chat.message, history=history)
                exchange.id = answer.call_id
                await exchange.show(answer)
                return
            async with member.stream(chat.message, history=history) as stream:
                exchange.id = stream.call_id
                await exchange.stream(sse(stream, ping=self._ping, whole=exchange.whole))

    async def _completions(self, exchange: Exchange, identity: Identity) -> None:
        request = openai_chat.ChatRequest.read(decoded(exchange.body))
        self._check_question(request.question)
        member = self._rag.for_tenant(identity.tenant)
        options: dict[str, Any] = {
            "history": request.history if self._trust_history else as_reported(request.history),
            "instructions": request.instructions(self._rag.settings.instructions, append=self._append),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop": request.stop,
        }
        async with self._place(identity):
            if not request.stream:
                answer = await member.ask(request.question, **options)
                exchange.id = answer.call_id
                await exchange.respond(200, openai_chat.completion(answer))
                return
            async with member.stream(request.question, **options) as stream:
                exchange.id = stream.call_id
                pieces = steps(stream, ping=self._ping)
                await exchange.stream(openai_chat.chunks(pieces, call_id=stream.call_id, usage=request.usage))

    async def _models(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, {"object": "list", "data": [MODEL]})

    async def _model(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, MODEL)

    async def _livez(self, exchange: Exchange) -> None:
        await exchange.respond(200, {"status": "alive"})

    async def _health(self, exchange: Exchange) -> None:
        """Everybody is told whether the service is healthy; who has a token, more; an administrator, all."""
        identity = await self._known(exchange)
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
        await exchange.respond(200, document(max_question=self._max_question))

    async def _inflight(self, exchange: Exchange, identity: Identity) -> None:
        calls = [call for call in self._rag.inflight() if identity.may_see(call.tenant)]
        record("inflight", EVERYBODY if identity.admin else check_tenant(identity.tenant), calls=len(calls))
        shown = [call.to_dict() if identity.admin else public(call) for call in calls]
        await exchange.respond(200, {"calls": shown})

    async def _environment(self, exchange: Exchange, identity: Identity) -> None:
        if not identity.admin:
            raise Refused(403, "Forbidden", "this route is for administrators")
        record("describe", EVERYBODY)
        with self._looks.place(check_tenant(identity.tenant)):
            described = await self._rag.describe()
        await exchange.respond(200, described)

    async def _similarity(self, exchange: Exchange, identity: Identity) -> None:
        tenant = exchange.path.removeprefix(SIMILARITY)
        if not identity.may_see(tenant):
            record("similarity", tenant, outcome="Forbidden")
            raise Refused(403, "Forbidden", "this route is for administrators, and for one's own")
        query, threshold = (
            _asked_by_get(exchange) if exchange.method in ("GET", "HEAD") else _asked_by_post(exchange.body)
        )
        self._check_question(query)
        with self._looks.place(check_tenant(identity.tenant)):
            report = await self._rag.similarity(query, tenant=tenant, score_threshold=threshold)
        await exchange.show(report)

    @asynccontextmanager
    async def _place(self, identity: Identity) -> AsyncIterator[None]:
        """Room for one more chat, for a block. A tenant that has its share doesn't queue for more, so that one that has not finds room."""
        places, tenant = self._places, check_tenant(identity.tenant)
        if not places.try_acquire(tenant):
            if places.holds(tenant) >= places.share(tenant):
                logger.debug("concurrency limit max_calls reached (%d running)", places.inside)
                raise Refused(429, "Overloaded", FULL, {"Retry-After": "1"})
            await places.acquire(anyio.current_time() + self._rag.settings.timeout, flow=tenant)
        try:
            yield
        finally:
            # Without the time that it took: a chat has its whole time from here, however long it waited for its place.
            places.release(flow=tenant)

    def _check_question(self, question: Any) -> None:
        if not isinstance(question, str):
            raise InvalidInput("the question must be a text")
        if len(question) > self._max_question:
            raise InvalidInput(
                f"the question has {len(question):,} characters; at most {self._max_question:,} are taken"
            )


def _asked_by_post(body: bytes) -> tuple[Any, float | None]:
    asked = decoded(body)
    if not isinstance(asked, dict) or "query" not in asked:
        raise InvalidInput(f"the body must be JSON like {LOOK}")
    check_fields(asked, {"query", "threshold"}, like=LOOK)
    threshold = asked.get("threshold")
    if isinstance(threshold, bool):
        raise InvalidInput(f"threshold is {threshold}: it must be a number from -1 to 1")
    return asked["query"], threshold


def _asked_by_get(exchange: Exchange) -> tuple[Any, float | None]:
    query = exchange.query("query")
    if query is None:
        raise InvalidInput("which question? add ?query=…")
    given = exchange.query("threshold")
    try:
        return query, None if given is None else float(given)
    except ValueError:
        raise InvalidInput(
            f"threshold is {given[:40] if given else given!r}: it must be a number from -1 to 1"
        ) from None


async def _refuse(exchange: Exchange, refused: Problem) -> None:
    """Say what is wrong, in the words of the route's protocol; after the first byte of an answer there is no way to."""
    if exchange.started:
        return
    body = refused.body
    if exchange.path.startswith("/v1/"):
        body = openai_chat.as_error(refused, call_id=exchange.id, parameter=exchange.parameter)
    await exchange.respond(refused.status, body, refused.headers)
