"""Chat models of OpenAI and of servers with a compatible API."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
from openai import AsyncOpenAI

from ragcore.errors import GenerationError
from ragcore.events import emit
from ragcore.generation.prompt import render
from ragcore.generation.received import Received
from ragcore.generation.streams import collect
from ragcore.generation.structure import reply_schema, strict_schema
from ragcore.lifecycle.owner import Owner
from ragcore.lifecycle.part import Part
from ragcore.resilience import Bulkhead, Policy, RetryPolicy
from ragcore.resilience.policy import Hold
from ragcore.text.tokens import TokenCounter
from ragcore.types import Generation, Prompt
from ragcore.types.secret import Secret
from ragcore.wire.bodies import Response
from ragcore.wire.client import OpenAIClient
from ragcore.wire.dialect import MOST_CHANGES, REFUSES, Dialect, check_parameters, with_role
from ragcore.wire.events import DRAIN_SECONDS, read_events
from ragcore.wire.failure import judge, translate
from ragcore.wire.refusal import NoAnswer, ServerError, Undecodable, request_id_of

__all__ = ["OpenAIGenerator"]

# Models whose token limit includes their thinking. They accept no temperature.
REASONING = ("o1", "o3", "o4", "gpt-5")
# Tokens for thinking, in addition to the answer's tokens.
THINKING_TOKENS = 4_000
# Seconds to wait for the usage after the answer's end.
USAGE_SECONDS = 2.0
# How a server is asked for JSON, best first. If it refuses one, the next is used; the prompt describes the schema in any case.
FORMATS = ("strict json_schema", "json_schema", "json_object")
# Messages about one schema, which don't show whether the server supports `response_format`. Such a request is repeated without it.
ABOUT_THE_SCHEMA = re.compile(
    r"invalid schema|in context=|schema (is|has|exceeds|contains|conversion)|(compile|convert|parse)[^.]{0,40}(schema|grammar)|grammar error"
    r"|(schema|grammar) (error|failed)",
    re.IGNORECASE,
)
ABOUT_THE_FORMAT = re.compile(r"response_format|json_schema|structured.output|json mode", re.IGNORECASE)
# Parameters that ragcore sets itself.
OWN = frozenset({"model", "messages", "stream"})


class OpenAIGenerator(Part):
    """Generates through an OpenAI-compatible `/chat/completions`. It always streams, so that a silent model is detected early.

    The first token must arrive within the policy's `first_timeout`, counted over all attempts. Between two tokens at most `idle_timeout` may pass. Time
    in the bulkhead's queue does not count. The call's deadline bounds everything. `RAG` puts the generator into a `FallbackGenerator`, in which the
    first token must also arrive within 40 % of the remaining time. A stream that ends without a finish reason is an error.

    An answer without text raises a `GenerationError` with the reason: the answer was filtered, the model refused, it called a tool, or thinking used all
    tokens. Thinking between tags, as in `<think>…</think>`, is moved from the text to `Generation.reasoning`. For a structured answer, the request has a
    `response_format`, in strict mode if the schema allows it. If a server refuses a parameter by name, later requests omit or rename it, and the event
    `model.parameter_refused` is emitted.

    Args:
        model: the model's name on the server.
        base_url: the server's address. None: the SDK's default (OPENAI_BASE_URL).
        api_key: None: the SDK's default (OPENAI_API_KEY).
        client: your own `AsyncOpenAI`, with its headers, proxy and certificates. ragcore never closes it.
        policy: None: 3 attempts before the first token, 10 s to the first token and between tokens, 64 requests at once, one breaker for each model.
        parameters: parameters of each request, such as {"top_p": 0.9, "reasoning_effort": "low"}. They replace ragcore's own parameters (temperature 0,
            `stream_options`, the settings' `max_tokens`). The value None omits a parameter.
        extra_body: like `parameters`, but sent unchanged even if the server refuses them.
        extra_headers: headers of each request.

    Raises:
        ConfigurationError: the API key is missing, or a parameter is one that ragcore sets itself.
        GenerationError: the server failed, its stream broke, or the model gave no answer.
    """

    in_any_task = True

    policy: Policy

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | Secret | None = None,
        client: AsyncOpenAI | None = None,
        policy: Policy | None = None,
        parameters: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
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
        self._client = OpenAIClient(api_key=api_key, base_url=base_url, client=client, headers=extra_headers)
        self._model_state = _ModelState(
            model,
            check_parameters(parameters, "parameters", own=OWN),
            check_parameters(extra_body, "extra_body", own={"messages"}),
        )

    def count_tokens(self, text: str, /) -> int:
        """Count the tokens of `text`. The count is an estimate until tiktoken's ranks are loaded, and exact afterwards."""
        return self._tokens.count(text)

    @property
    def server(self) -> tuple[str, int] | None:
        """The host and the port of the server; None if they aren't known yet."""
        return self._client.server

    async def generate(self, prompt: Prompt, /) -> Generation:
        """Return the whole answer."""
        return await collect(self.stream(prompt))

    @asynccontextmanager
    async def stream(self, prompt: Prompt, /) -> AsyncIterator[AsyncIterator[str | Generation]]:
        """Stream the answer's pieces as they arrive, then the `Generation`. Entering waits for the first token; leaving closes the request."""
        owner = self._check_open()
        async with self.policy.hold(key=self._key, on=judge) as held:
            request = _Request(owner, self._client, self._model_state, prompt, idle=self.policy.idle_timeout)
            try:
                await self._guarded(held, request)
                async with aclosing(self._pieces(held, request)) as pieces:
                    yield pieces
            finally:
                await request.close()

    async def _open(self) -> None:
        await self._client.open()

    async def _close(self) -> None:
        await self._client.close()

    async def _guarded(self, held: Hold, request: _Request) -> None:
        try:
            await held.call(request.open, timeout=self.policy.first_timeout)
        except Exception as error:
            self._raise(error, held, "")

    async def _pieces(self, held: Hold, request: _Request) -> AsyncGenerator[str | Generation, None]:
        try:
            async with aclosing(held.items(request.texts())) as texts:
                async for text in texts:
                    if text:
                        yield text
            rest, whole = request.finish()
        except Exception as error:
            self._raise(error, held, request.handed_on)
        if rest:
            yield rest
        yield whole

    def _raise(self, error: Exception, held: Hold, partial_text: str) -> None:
        ours = translate(
            error, GenerationError, dependency=f"the model {self.model}", stage="generate", attempts=held.attempts
        )
        ours.partial_text = partial_text
        if isinstance(ours, GenerationError) and isinstance(error, NoAnswer):
            ours.model, ours.used_tokens = self.model, error.used_tokens
        if ours is error:
            raise error
        raise ours from error


class _ModelState:
    """Knowledge about a model: the parameters that it accepts, and whether it thinks."""

    def __init__(self, model: str, parameters: Mapping[str, Any], extra_body: Mapping[str, Any]) -> None:
        self.model = model
        self.thinks = model.startswith(REASONING)
        self.omits_opening_tag = False
        self._parameters = parameters
        self._extra_body = extra_body
        self._dialect = Dialect(model, renames={"max_tokens": "max_completion_tokens"})
        self._dialect.try_values("response_format", FORMATS)
        if self.thinks:  # these models refuse temperature, and max_tokens under that name
            self._dialect.call("max_tokens", "max_completion_tokens")
            if "temperature" not in parameters:
                self._dialect.leave_out("temperature")

    def ask(
        self, prompt: Prompt, *, formatted: bool = True
    ) -> tuple[bytes, dict[str, Any], str | None, frozenset[str]]:
        """Return the request's body and, for `learn`, its parameters, the role of the system message, and the parameters that the caller set.

        Args:
            formatted: whether to ask for JSON with `response_format`, if the prompt has a schema.
        """
        role = self._dialect.system_role
        own = {"temperature": 0.0, "stream": True, "stream_options": {"include_usage": True}, **self._parameters}
        if prompt.temperature is not None:
            own["temperature"] = prompt.temperature
        if prompt.stop:
            own["stop"] = list(prompt.stop)
        limits = {"max_tokens", "max_completion_tokens"} & self._parameters.keys()
        if prompt.max_tokens is not None and not (limits and prompt.max_tokens_from == "settings"):
            for name in limits:
                del own[name]
            thinking = THINKING_TOKENS if self.thinks and prompt.max_tokens_from == "settings" else 0
            own["max_tokens"] = prompt.max_tokens + thinking
        given = own.pop("response_format", None)
        if prompt.schema is not None and formatted:
            own["response_format"] = FORMATS
        adapted = self._dialect.adapt({name: value for name, value in own.items() if value is not None})
        if prompt.schema is None and given is not None:  # the operator's own `response_format`
            adapted["response_format"] = given
        if not adapted.get("stream"):
            adapted.pop("stream_options", None)
        sent = adapted
        if prompt.schema is not None and "response_format" in adapted:
            sent = {**adapted, "response_format": _format(adapted["response_format"], prompt.schema)}
        body = {"model": self.model, "messages": with_role(render(prompt), role), **sent, **self._extra_body}
        callers = {"stop"} if prompt.stop else set()
        if prompt.temperature is not None:
            callers.add("temperature")
        if prompt.max_tokens is not None and prompt.max_tokens_from == "call":
            callers |= {"max_tokens", "max_completion_tokens"}
        # A document may contain half of a surrogate pair, which can't be encoded as UTF-8.
        return json.dumps(body, ensure_ascii=False).encode(errors="replace"), adapted, role, frozenset(callers)

    def learn(self, error: ServerError, sent: Mapping[str, Any], role: str | None, callers: frozenset[str]) -> bool:
        """Learn from a refusal. Returns whether the next request will differ."""
        if self._dialect.learn(error, sent, role=role, callers=callers):
            return True
        asked = sent.get("response_format")
        if asked in FORMATS and error.status in REFUSES and ABOUT_THE_FORMAT.search(error.whole):
            self._dialect.refuse("response_format", asked)
            return True
        return False

    @staticmethod
    def blames_the_schema(error: ServerError, sent: Mapping[str, Any]) -> bool:
        """Whether a server refused the schema of this request. Other requests are not affected."""
        return (
            sent.get("response_format") in FORMATS
            and error.status in REFUSES
            and ABOUT_THE_SCHEMA.search(error.whole) is not None
        )

    def remember(self, received: Received) -> None:
        """Remember what an answer shows about the model."""
        if received.thinking_used_all_tokens and not self.thinks:
            self.thinks = True
            emit("model.thinks", self.model, tokens=THINKING_TOKENS)
        if received.has_text:
            self.omits_opening_tag = received.omits_opening_tag


def _format(how: object, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of `response_format` for one of `FORMATS`."""
    if how == "json_object":
        return {"type": "json_object"}
    whole = reply_schema(schema)
    strict = strict_schema(whole) if how == FORMATS[0] else None
    described = {"name": "answer", "schema": strict or whole, "strict": strict is not None}
    return {"type": "json_schema", "json_schema": described}


class _Request:
    """One request and its stream. `open` reads up to the answer's beginning, so that earlier failures can be retried."""

    def __init__(
        self, owner: Owner, client: OpenAIClient, model_state: _ModelState, prompt: Prompt, *, idle: float
    ) -> None:
        self._owner = owner
        self._idle = idle
        self._client = client
        self._model_state = model_state
        self._prompt = prompt
        self._response: Response | None = None
        self._events: AsyncGenerator[list[Mapping[str, Any]], None] | None = None
        self._received = Received(model_state.model)
        self._first = ""
        self._request_id: str | None = None
        self._failed = False

    @property
    def handed_on(self) -> str:
        """The text that was returned so far."""
        return self._received.handed_on

    async def open(self) -> None:
        formatted = True
        for _ in range(MOST_CHANGES):
            await self.close()
            body, sent, role, callers = self._model_state.ask(self._prompt, formatted=formatted)
            self._received = Received(
                self._model_state.model,
                omits_opening_tag=self._model_state.omits_opening_tag,
                unsaid=self._client.unsaid(body),
            )
            try:
                await self._begin(body)
                return
            except ServerError as error:
                if self._model_state.blames_the_schema(error, sent):
                    formatted = False
                elif not self._model_state.learn(error, sent, role, callers):
                    raise
        raise Undecodable("it refused another parameter after each change: check the option 'parameters'")

    async def _begin(self, body: bytes) -> None:
        self._response = response = await self._client.post("/chat/completions", body, model=self._model_state.model)
        self._request_id = request_id_of(response.headers)
        self._events = read_events(response, unsaid=self._client.unsaid(body))
        self._first = ""
        while not self._received.begun:
            try:
                batch = await anext(self._events)
            except StopAsyncIteration:
                raise Undecodable("its stream ended before the answer began") from None
            self._first += self._take(batch)

    async def texts(self) -> AsyncGenerator[str, None]:
        """Yield the text in pieces up to the answer's end, "" for events without text. Errors after the end are ignored."""
        yield self._first
        received, events = self._received, self._events
        assert events is not None
        while not received.done:
            if not received.finished:
                try:
                    batch = await anext(events)
                except StopAsyncIteration:
                    return
            else:
                batch = []
                # Some servers send a finish reason with every piece: allow them the usual time between two pieces.
                patience = 0.8 * self._idle if received.finished_at_once else min(USAGE_SECONDS, 0.5 * self._idle)
                with anyio.move_on_after(patience):
                    try:
                        batch = await anext(events)
                    except Exception:
                        return
                if not batch:
                    return
            text, failure = self._take_all(batch)
            yield text
            if failure is not None:
                raise failure

    def finish(self) -> tuple[str, Generation]:
        """Return the text that was held back, and the whole answer."""
        try:
            return self._received.finish(self._request_id)
        finally:
            self._model_state.remember(self._received)

    def _take(self, batch: list[Mapping[str, Any]]) -> str:
        text, failure = self._take_all(batch)
        if failure is not None:
            raise failure
        return text

    def _take_all(self, batch: list[Mapping[str, Any]]) -> tuple[str, Exception | None]:
        """Return the text of several events up to the first failure, and that failure."""
        text = ""
        for event in batch:
            try:
                text += self._received.take(event)
            except (ServerError, Undecodable) as failure:
                self._failed = True
                return text, None if self._received.finished else failure
        return text, None

    async def close(self) -> None:
        """Close the response, so that the server sees the disconnect and frees its slot."""
        response, self._response = self._response, None
        events, self._events = self._events, None
        done = self._received.done or self._failed

        async def close() -> None:
            try:
                if events is not None:
                    if done:  # read the body to its end, so that the connection can be reused
                        with anyio.move_on_after(DRAIN_SECONDS):
                            async for _ in events:
                                pass
                    await events.aclose()
            finally:
                if response is not None:
                    await response.aclose()

        if response is not None:
            await self._owner.clean_up(close, name="closing a response")
