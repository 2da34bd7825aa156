"""The routes that answer questions: `POST /chat`, `POST /v1/chat/completions` and, for administrators, `POST /debug/ask`."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, Unpack

import anyio

from ragcore.client.options import AskOptions
from ragcore.client.rag import RAG
from ragcore.contrib.asgi import openai_chat
from ragcore.contrib.asgi.chat import ChatBody, as_reported, check_fields, check_question, decoded, threshold_of
from ragcore.contrib.asgi.debug import check_admin
from ragcore.contrib.asgi.exchange import Exchange
from ragcore.contrib.asgi.identity import Identity
from ragcore.contrib.asgi.problem import Refused
from ragcore.contrib.asgi.public import FULL
from ragcore.contrib.asgi.sse import sse, steps
from ragcore.errors import InvalidInput
from ragcore.resilience import Bulkhead, BulkheadSnapshot
from ragcore.types.validation import check_tenant

__all__ = ["Chats"]

logger: logging.Logger = logging.getLogger("ragcore.asgi")

SHAPE = '{"message": "…", "tenant": "…", "threshold": 0.4}'


class Chats:
    """Answers a limited number of questions at once, with fair shares for all tenants. The arguments are those of `app`."""

    def __init__(
        self,
        rag: RAG,
        *,
        max_question: int,
        max_calls: int,
        ping: float,
        client_instructions: Literal["append", "ignore"],
        trust_history: bool,
    ) -> None:
        self._rag = rag
        self._max_question = max_question
        self._places = Bulkhead(max_calls, queue=max_calls, name="the application")
        self._ping = ping
        self._append = client_instructions == "append"
        self._trust_history = trust_history

    def places(self) -> BulkheadSnapshot:
        """Return the state of the limit of chats."""
        return self._places.snapshot()

    async def chat(self, exchange: Exchange, identity: Identity) -> None:
        """Answer `POST /chat` with JSON, or with server-sent events if the client accepts them."""
        chat = ChatBody.read(exchange.body)
        check_question(chat.message, longest=self._max_question)
        history = chat.history if self._trust_history else as_reported(chat.history)
        await self._answer(exchange, identity, chat.message, tenant=check_tenant(identity.tenant), history=history)

    async def ask_for(self, exchange: Exchange, identity: Identity) -> None:
        """Answer `POST /debug/ask`: an administrator asks a question about a tenant's documents. The call counts against the limits of that tenant.

        A web page of another origin can send a text without the browser's preflight, but not JSON. So the content type must be JSON, also because a hook may
        authenticate by a cookie.
        """
        check_admin(identity)
        if exchange.header("content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "UnsupportedMediaType", "the content type must be application/json")
        asked = decoded(exchange.body)
        if not isinstance(asked, dict) or not {"message", "tenant"} <= asked.keys():
            raise InvalidInput(f"the body must be JSON like {SHAPE}")
        check_fields(asked, {"message", "tenant", "threshold"}, like=SHAPE)
        check_question(asked["message"], longest=self._max_question)
        threshold = threshold_of(asked)
        options: AskOptions = {} if threshold is None else {"score_threshold": threshold}
        await self._answer(exchange, identity, asked["message"], tenant=check_tenant(asked["tenant"]), **options)

    async def completions(self, exchange: Exchange, identity: Identity) -> None:
        """Answer `POST /v1/chat/completions`."""
        request = openai_chat.ChatRequest.read(decoded(exchange.body))
        check_question(request.question, longest=self._max_question)
        view = self._rag.for_tenant(identity.tenant)
        options: dict[str, Any] = {
            "history": request.history if self._trust_history else as_reported(request.history),
            "instructions": request.instructions(self._rag.settings.instructions, append=self._append),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop": request.stop,
        }
        async with self._place(identity):
            if not request.stream:
                answer = await view.ask(request.question, **options)
                exchange.id = answer.call_id
                await exchange.respond(200, openai_chat.completion(answer))
                return
            async with view.stream(request.question, **options) as stream:
                exchange.id = stream.call_id
                pieces = steps(stream, ping=self._ping)
                await exchange.stream(openai_chat.chunks(pieces, call_id=stream.call_id, usage=request.usage))

    async def _answer(
        self, exchange: Exchange, identity: Identity, question: str, *, tenant: str, **options: Unpack[AskOptions]
    ) -> None:
        """Send the answer as JSON, or as server-sent events if the client accepts them."""
        view = self._rag.for_tenant(tenant)
        async with self._place(identity):
            if "text/event-stream" not in exchange.header("accept"):
                answer = await view.ask(question, **options)
                exchange.id = answer.call_id
                await exchange.show(answer)
                return
            async with view.stream(question, **options) as stream:
                exchange.id = stream.call_id
                await exchange.stream(sse(stream, ping=self._ping, whole=exchange.whole))

    @asynccontextmanager
    async def _place(self, identity: Identity) -> AsyncIterator[None]:
        """Hold a place for a block. A tenant that already has its share of places is refused instead of queued, to leave room for other tenants."""
        places, tenant = self._places, check_tenant(identity.tenant)
        if not places.try_acquire(tenant):
            if places.holds(tenant) >= places.share(tenant):
                logger.debug("concurrency limit max_calls reached (%d running)", places.inside)
                raise Refused(429, "Overloaded", FULL, {"Retry-After": "1"})
            await places.acquire(anyio.current_time() + self._rag.settings.timeout, flow=tenant)
        try:
            yield
        finally:
            # Report no service time. A bulkhead would use it to refuse calls that can't end in time, but a chat's timeout starts only after the wait.
            places.release(flow=tenant)
