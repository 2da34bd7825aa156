"""Chat models of OpenAI, or of any server that speaks its protocol."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from ragcore.errors import GenerationError
from ragcore.generation.prompt import NOT_FOUND, render
from ragcore.generation.streams import collect
from ragcore.openai_api import OpenAIClient, Undecodable, judge, read_events, translate
from ragcore.resilience import Bulkhead, Policy, RetryPolicy
from ragcore.resilience.owner import Owner
from ragcore.resilience.part import Part
from ragcore.resilience.policy import Hold
from ragcore.secret import Secret
from ragcore.tokens import TokenCounter
from ragcore.types import Generation, Prompt, Usage

__all__ = ["OpenAIGenerator"]

# An answer is bounded by its tokens; this bounds a stream that never ends.
MOST_CHARACTERS = 200_000
# What models put around the word NOT_FOUND.
WRAPPING = ".\"'*`"
REASONING = ("o1", "o3", "o4", "gpt-5")


class OpenAIGenerator(Part):
    """Generates through an OpenAI-compatible `/chat/completions`, always as a stream, so that a model that is silent is found out early.

    The first token must come within the policy's `first_timeout`, all attempts together, and between tokens at most `idle_timeout` may pass; the time in
    the bulkhead's queue does not count. The deadline around the call bounds it all. In a `FallbackGenerator`, which `RAG` makes of it, the first
    token must come within 40 % of what is left, too. A stream that ends without a finish reason broke.

    Args:
        model: its name on the server.
        base_url: None: as the SDK finds it (OPENAI_BASE_URL).
        api_key: None: as the SDK finds it (OPENAI_API_KEY).
        client: the user's own `AsyncOpenAI`, with its headers, proxy and certificates; never closed.
        policy: None: 3 attempts before the first token, 10 s to the first and between tokens, 64 at once, a breaker for each model.

    Raises:
        ConfigurationError: no key.
        GenerationError: the server failed, or its stream broke.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        client: AsyncOpenAI | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.model = model
        self.policy = policy or Policy(
            "generation",
            attempt_timeout=30.0,
            bulkhead=Bulkhead(64, queue=256),
            retry=RetryPolicy(attempts=3, backoff=0.25),
        )
        self._key = model if self.policy.has_default_breaker else None
        self._tokens = TokenCounter(model)
        self._client = OpenAIClient(api_key=api_key, base_url=base_url, client=client)

    def count_tokens(self, text: str, /) -> int:
        """Tokens of `text`, exact once tiktoken's ranks are loaded, estimated until then."""
        return self._tokens.count(text)

    async def generate(self, prompt: Prompt, /) -> Generation:
        """The whole answer."""
        return await collect(self.stream(prompt))

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """The answer in pieces as they come, then the `Generation`. Opening waits for the first token; leaving closes the request."""
        owner = self._check_open()
        async with self.policy.hold(key=self._key, on=judge) as held:
            request = _Request(owner, self._client, self.model, prompt)
            try:
                await self._guarded(held, request)
                async with aclosing(self._pieces(held, request)) as pieces:
                    yield pieces
            finally:
                await request.close()

    async def _open(self) -> None:
        self._client.open()

    async def _close(self) -> None:
        await self._client.close()

    async def _guarded(self, held: Hold, request: _Request) -> None:
        try:
            await held.call(request.open, timeout=self.policy.first_timeout)
        except Exception as error:
            self._raise(error, held, "")

    async def _pieces(self, held: Hold, request: _Request) -> AsyncGenerator[str | Generation, None]:
        answer = _Answer(self.model)
        try:
            async with aclosing(held.items(request.events())) as events:
                async for event in events:
                    text = answer.take(event)
                    if text:
                        yield text
            rest, whole = answer.finish(request.request_id)
        except Exception as error:
            self._raise(error, held, answer.handed_on)
        if rest:
            yield rest
        yield whole

    def _raise(self, error: Exception, held: Hold, partial_text: str) -> None:
        ours = translate(
            error, GenerationError, dependency=f"the model {self.model}", stage="generate", attempts=held.attempts
        )
        ours.partial_text = partial_text
        if ours is error:
            raise error
        raise ours from error


class _Request:
    """One request and its stream. `open` reads up to the first event, so that what fails before it can be tried again."""

    def __init__(self, owner: Owner, client: OpenAIClient, model: str, prompt: Prompt) -> None:
        self._owner = owner
        self._client = client
        self._model = model
        self._prompt = prompt
        self._stack = AsyncExitStack()
        self._first: dict[str, Any] | None = None
        self._events: AsyncGenerator[dict[str, Any], None] | None = None
        self._opened = False
        self.request_id: str | None = None

    async def open(self) -> None:
        await self.close()
        create: Any = (
            self._client.sdk.chat.completions.with_streaming_response.create
        )  # its overloads want its own TypedDicts
        opening = create(
            model=self._model,
            messages=render(self._prompt),
            stream=True,
            stream_options={"include_usage": True},
            **self._options(),
        )
        self._opened = True
        response = await self._stack.enter_async_context(opening)
        self.request_id = response.headers.get("x-request-id")
        self._events = read_events(response)
        try:
            self._first = await anext(self._events)
        except StopAsyncIteration:
            raise Undecodable("its stream ended before it began") from None

    def _options(self) -> dict[str, Any]:
        limit = self._prompt.max_tokens
        if self._model.startswith(REASONING):  # these refuse temperature, and max_tokens by that name
            return {} if limit is None else {"max_completion_tokens": limit}
        return {"temperature": 0.0} if limit is None else {"temperature": 0.0, "max_tokens": limit}

    async def events(self) -> AsyncGenerator[dict[str, Any], None]:
        if self._first is not None:
            yield self._first
        assert self._events is not None
        async for event in self._events:
            yield event

    async def close(self) -> None:
        """Close the response: the server sees that nobody reads, and frees its slot."""
        stack, self._stack = self._stack, AsyncExitStack()
        events, self._events = self._events, None
        opened, self._opened = self._opened, False

        async def close() -> None:
            if events is not None:
                await events.aclose()
            await stack.aclose()

        if opened:
            await self._owner.clean_up(close, name="closing a response")


class _Answer:
    """What has come of an answer so far. Text is held back while it may still turn out to be NOT_FOUND."""

    def __init__(self, model: str) -> None:
        self._text = ""
        self._taken = 0
        self._model = model
        self._finish_reason = ""
        self._usage = Usage()
        self.handed_on = ""

    def take(self, event: Mapping[str, Any]) -> str:
        """Take an event; the text that may be handed on now."""
        self._model = str(event.get("model") or self._model)
        self._usage = _usage(event.get("usage")) or self._usage
        choices = event.get("choices")
        if choices is None or not isinstance(choices, list):
            raise Undecodable("an event of its stream has no choices")
        for choice in choices:
            delta = choice.get("delta") if isinstance(choice, dict) else None
            content = delta.get("content") if isinstance(delta, dict) else None
            if content is not None and not isinstance(content, str):
                raise Undecodable("an event of its stream has content that is not text")
            self._text += content or ""
            self._finish_reason = str(choice.get("finish_reason") or self._finish_reason)
        if len(self._text) > MOST_CHARACTERS:
            raise Undecodable(f"its answer is longer than {MOST_CHARACTERS:,} characters")
        return "" if self._may_be_not_found() else self._hand_on()

    def finish(self, request_id: str | None) -> tuple[str, Generation]:
        """The text that was still held back, and the whole.

        Raises:
            Undecodable: there was no finish reason: the stream was cut.
        """
        if not self._finish_reason:
            raise Undecodable("its stream ended without a finish reason: the answer is cut")
        not_found = self._text.strip().strip(WRAPPING).upper() == NOT_FOUND
        if not_found:
            self._text, self._taken, self.handed_on = "", 0, ""
        rest = self._hand_on(whole=True)
        whole = Generation(
            self.handed_on,
            finish_reason=self._finish_reason,
            model=self._model,
            usage=self._usage,
            request_id=request_id,
        )
        return rest, whole

    def _may_be_not_found(self) -> bool:
        begun = self._text.strip().lstrip(WRAPPING).upper()
        return NOT_FOUND.startswith(begun) or (begun.startswith(NOT_FOUND) and len(begun) <= len(NOT_FOUND) + 4)

    def _hand_on(self, *, whole: bool = False) -> str:
        """What is new. Some servers send an emoji's two halves (UTF-16 surrogates) one by one: the first waits for the second."""
        end = len(self._text)
        if not whole and self._text and "\ud800" <= self._text[-1] <= "\udbff":
            end -= 1
        fresh, self._taken = _joined(self._text[self._taken : end]), end
        self.handed_on += fresh
        return fresh


def _joined(text: str) -> str:
    """Surrogate pairs as the characters that they stand for, and halves without the other as U+FFFD: no encoder takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Usage(
        prompt_tokens=prompt if isinstance(prompt, int) else None,
        completion_tokens=completion if isinstance(completion, int) else None,
    )
