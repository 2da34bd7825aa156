"""The routes that answer questions: `POST /chat`, `POST /v1/chat/completions` and, for administrators, `POST /debug/ask`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack

from ragcore.client.options import AskOptions
from ragcore.client.rag import RAG
from ragcore.contrib.asgi import openai_chat
from ragcore.contrib.asgi.chat import ChatBody, as_reported, check_fields, check_question, decoded, threshold_of
from ragcore.contrib.asgi.debug import check_admin
from ragcore.contrib.asgi.exchange import Exchange
from ragcore.contrib.asgi.identity import Identity
from ragcore.contrib.asgi.places import Places
from ragcore.contrib.asgi.problem import Refused
from ragcore.contrib.asgi.sse import sse, steps
from ragcore.errors import InvalidInput
from ragcore.resilience import BulkheadSnapshot
from ragcore.types.validation import check_tenant

if TYPE_CHECKING:
    from ragcore.rollout import Rollout
    from ragcore.types import Answer

__all__ = ["Chats"]

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
        rollout: Rollout[Answer] | None = None,
    ) -> None:
        self._rag = rag
        self._answers: RAG | Rollout[Answer] = rollout or rag
        self._max_question = max_question
        self._places = Places(max_calls, seconds=rag.settings.timeout)
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
        await self._answer(
            exchange, identity, self._answers, chat.message, tenant=check_tenant(identity.tenant), history=history
        )

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
        await self._answer(
            exchange, identity, self._rag, asked["message"], tenant=check_tenant(asked["tenant"]), **options
        )

    async def completions(self, exchange: Exchange, identity: Identity) -> None:
        """Answer `POST /v1/chat/completions`."""
        request = openai_chat.ChatRequest.read(decoded(exchange.body))
        check_question(request.question, longest=self._max_question)
        options: dict[str, Any] = {
            "history": request.history if self._trust_history else as_reported(request.history),
            "instructions": request.instructions(self._rag.settings.instructions, append=self._append),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "stop": request.stop,
        }
        async with self._places.place(check_tenant(identity.tenant)):
            if not request.stream:
                answer = await self._answers.ask(request.question, tenant=identity.tenant, **options)
                exchange.id = answer.call_id
                await exchange.respond(200, openai_chat.completion(answer))
                return
            async with self._answers.stream(request.question, tenant=identity.tenant, **options) as stream:
                exchange.id = stream.call_id
                pieces = steps(stream, ping=self._ping)
                await exchange.stream(openai_chat.chunks(pieces, call_id=stream.call_id, usage=request.usage))

    async def _answer(
        self,
        exchange: Exchange,
        identity: Identity,
        answers: RAG | Rollout[Answer],
        question: str,
        *,
        tenant: str,
        **options: Unpack[AskOptions],
    ) -> None:
        """Send the answer as JSON, or as server-sent events if the client accepts them."""
        async with self._places.place(check_tenant(identity.tenant)):
            if "text/event-stream" not in exchange.header("accept"):
                answer = await answers.ask(question, tenant=tenant, **options)
                exchange.id = answer.call_id
                await exchange.show(answer)
                return
            async with answers.stream(question, tenant=tenant, **options) as stream:
                exchange.id = stream.call_id
                await exchange.stream(sse(stream, ping=self._ping, whole=exchange.whole))
