"""The routes that answer questions: `POST /chat` and `POST /v1/chat/completions`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ragcore.client.rag import RAG
from ragcore.contrib.asgi import openai_chat
from ragcore.contrib.asgi.chat import ChatBody, as_reported, check_question, decoded
from ragcore.contrib.asgi.exchange import Exchange
from ragcore.contrib.asgi.identity import Identity
from ragcore.contrib.asgi.places import Places
from ragcore.contrib.asgi.sse import sse, steps
from ragcore.types.validation import check_tenant

if TYPE_CHECKING:
    from ragcore.rollout import Rollout
    from ragcore.types import Answer

__all__ = ["Chats"]


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

    async def chat(self, exchange: Exchange, identity: Identity) -> None:
        """Answer `POST /chat` with JSON, or with server-sent events if the client accepts them."""
        chat = ChatBody.read(exchange.body)
        check_question(chat.message, longest=self._max_question)
        history = chat.history if self._trust_history else as_reported(chat.history)
        async with self._places.place(check_tenant(identity.tenant)):
            if "text/event-stream" not in exchange.header("accept"):
                answer = await self._answers.ask(chat.message, tenant=identity.tenant, history=history)
                exchange.id = answer.call_id
                await exchange.show(answer)
                return
            async with self._answers.stream(chat.message, tenant=identity.tenant, history=history) as stream:
                exchange.id = stream.call_id
                await exchange.stream(sse(stream, ping=self._ping, whole=exchange.whole))

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
