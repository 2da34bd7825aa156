"""The state of an answer while its stream arrives.

Only NOT_FOUND means that the passages don't answer the question. An answer without text is a failure. An answer that was cut off or filtered is
marked. The response shapes come from the table of providers in the tests, which names a source for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ragcore.generation.ending import is_complete
from ragcore.generation.not_found import NotFound
from ragcore.generation.thinking import Thinking
from ragcore.types import Generation, Usage
from ragcore.wire.events import DONE
from ragcore.wire.refusal import NoAnswer, ServerError, Undecodable, read_refusal
from ragcore.wire.unsaid import NOTHING, Unsaid

__all__ = ["Received"]

# Limits an answer that never ends.
MOST_CHARACTERS = 200_000
# Some servers send one of these strings instead of null.
NO_REASON = frozenset({"null", "none", "undefined"})
# Finish reasons that report a failure of the server.
BROKEN = frozenset({"error", "network_error", "failed", "internal_error"})
THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")


class Received:
    """One answer, built from the events of its stream.

    Args:
        model: the requested name of the model, until the server sends a name.
        omits_opening_tag: whether the model sends only a closing tag after its thinking.
        unsaid: hides secrets and quotations in error messages.

    Attributes:
        begun: whether any part of the answer or its thinking has arrived.
        done: whether "[DONE]" has arrived.
        finished: whether the server has ended the answer; later errors don't matter.
        finished_at_once: whether the finish reason came with the first text; some servers send it with every piece.
        handed_on: the text that was returned so far.
    """

    done: bool
    finished_at_once: bool
    begun: bool

    def __init__(self, model: str, *, omits_opening_tag: bool = False, unsaid: Unsaid = NOTHING) -> None:
        self._unsaid = unsaid
        self.begun = False
        self.done = False
        self.finished_at_once = False
        self._model = model
        self._pieces: list[str] = []
        self._size = 0
        self._half = ""
        self._texts = 0
        self._restarted = False
        self._thinking = Thinking(begun=omits_opening_tag)
        self._not_found = NotFound()
        self._finish_reason = ""
        self._early = False
        self._refusal = ""
        self._tool = ""
        self._usage = Usage()
        self._thought_tokens = 0

    @property
    def finished(self) -> bool:
        """Whether the server has ended the answer."""
        return self.done or (bool(self._finish_reason) and not self._early)

    @property
    def has_text(self) -> bool:
        """Whether any text of the answer has arrived."""
        return bool(self._size)

    @property
    def handed_on(self) -> str:
        """The text that was returned so far."""
        return "".join(self._pieces)

    @property
    def omits_opening_tag(self) -> bool:
        """Whether the model sends only a closing tag after its thinking."""
        return self._thinking.omits_opening_tag

    @property
    def thinking_used_all_tokens(self) -> bool:
        """Whether thinking used all tokens."""
        spent = self._thinking.seen or self._thought_tokens > 0
        return spent and not self._pieces and self._finish_reason.lower() in ("length", "max_tokens")

    def take(self, event: Mapping[str, Any]) -> str:
        """Process an event and return the text that can be shown now.

        Raises:
            Undecodable: the event is not part of an answer.
            ServerError: the event reports an error.
        """
        if event is DONE:
            self.done = self.begun = True
            return ""
        usage = event.get("usage")
        if usage is None and isinstance(event.get("x_groq"), dict):
            usage = event["x_groq"].get("usage")
        if usage is not None:
            self._take_usage(usage)
        if model := event.get("model"):
            self._model = str(model)
        choices = event.get("choices")
        if not choices:
            self._check(event, choices)
            return ""
        if not isinstance(choices, list):
            raise Undecodable("an event of its stream has no choices")
        if len(choices) > 1:  # one choice was requested; ignore others
            choices = [choice for choice in choices if isinstance(choice, dict) and not choice.get("index")]
        return "".join([self._choice(choice) for choice in choices if isinstance(choice, dict)])

    def finish(self, request_id: str | None) -> tuple[str, Generation]:
        """Return the text that was held back, and the whole answer.

        Raises:
            Undecodable: the stream was cut off.
            NoAnswer: the model gave no answer.
        """
        if not self.finished:
            raise Undecodable("its stream ended without a finish reason: the answer is cut off")
        reason = self._finish_reason or "stop"
        if reason.lower() in BROKEN:
            raise ServerError(f"finish_reason {reason}", status=None, in_answer=True)
        rest = self._answer(self._thinking.take(_joined(self._half)) + self._thinking.end())
        rest += self._hand_on(self._not_found.end())
        text = self.handed_on
        if self._not_found.said:
            text = ""
        elif not text.strip():
            used = self._usage
            spent = None if used.prompt_tokens is None else (used.prompt_tokens, used.completion_tokens or 0)
            raise NoAnswer(self._why_empty(reason), used_tokens=spent)
        if self._refusal and text:
            reason = "refusal"
        whole = Generation(
            text,
            finish_reason=reason,
            complete=is_complete(reason) and not self._thinking.open,
            model=self._model,
            usage=self._usage,
            request_id=request_id,
            reasoning=self._thinking.thought,
        )
        return ("" if self._not_found.said else rest), whole

    def _choice(self, choice: Mapping[str, Any]) -> str:
        if choice.get("error"):
            refusal = read_refusal(choice, status=None, unsaid=self._unsaid, in_answer=True)
            raise refusal or ServerError("", status=None, in_answer=True)
        if "usage" in choice:
            self._take_usage(choice["usage"])
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = {"content": choice.get("text")}
        out = ""
        content = delta.get("content")
        if content or len(delta) > 1 or "content" not in delta:
            out = self._content(content, delta)
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str) and reason.lower() not in NO_REASON:
            if not self._finish_reason:
                self.finished_at_once = bool(content) and self._texts <= 1
            self._finish_reason = reason
            self.begun = True
        return out

    def _content(self, content: object, delta: Mapping[str, Any]) -> str:
        for name in THINKING_FIELDS:
            thought = delta.get(name)
            if isinstance(thought, str) and thought:
                self.begun = True
                self._thinking.add(thought)
                break
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            self.begun = True
            self._refusal = (self._refusal + delta["refusal"])[:2_000]
        if delta.get("tool_calls") or delta.get("function_call"):
            self.begun = True
            self._tool = self._tool or _tool(delta)
        if isinstance(content, list):
            content = "".join([self._part(part) for part in content])
        if content is None or content == "":
            return ""
        if not isinstance(content, str):
            raise Undecodable("an event of its stream has content that is not text")
        if self._finish_reason:
            self._early = True  # this server sends the finish reason with each piece; only "[DONE]" ends this answer
        self.begun = True
        self._texts += 1
        self._size += len(content)
        if self._size > MOST_CHARACTERS:
            raise Undecodable(f"its answer is longer than {MOST_CHARACTERS:,} characters")
        # Some servers send the two UTF-16 surrogates of an emoji separately: keep the first until the second arrives.
        if self._half:
            content, self._half = self._half + content, ""
        if "\ud800" <= content[-1] <= "\udbff":
            content, self._half = content[:-1], content[-1]
        return self._answer(self._thinking.take(_joined(content)))

    def _part(self, part: object) -> str:
        """Return the text of one part of a content list; thinking is stored."""
        if not isinstance(part, dict):
            return part if isinstance(part, str) else ""
        thought = part.get("thinking")
        if part.get("type") in ("thinking", "reasoning") or thought or part.get("thought") is True:
            inner = thought if thought is not None else part.get("text")
            self._thinking.add(
                "".join(self._part(one) for one in inner) if isinstance(inner, list) else str(inner or "")
            )
            self.begun = True
            return ""
        text = part.get("text")
        return text if isinstance(text, str) else ""

    def _answer(self, text: str) -> str:
        """Process text of the answer and return what can be shown."""
        if self._thinking.omits_opening_tag and not self._restarted:  # the text so far was thinking
            self._restarted = True
            self._pieces.clear()
            self._not_found = NotFound()
        return self._hand_on(self._not_found.take(text))

    def _hand_on(self, text: str) -> str:
        if text:
            self._pieces.append(text)
        return text

    def _check(self, event: Mapping[str, Any], choices: object) -> None:
        """Check an event without choices: usage, filter results, a ping, or an error."""
        if choices is None and "usage" not in event and not str(event.get("object", "")).startswith("chat.completion"):
            refusal = read_refusal(event, status=None, unsaid=self._unsaid, in_answer=True)
            if refusal is not None and refusal.said:
                raise refusal
            if "id" not in event and event.get("type") != "ping":
                raise Undecodable("an event of its stream has no choices")
        if choices is not None and not isinstance(choices, list):
            raise Undecodable("an event of its stream has no choices")

    def _take_usage(self, usage: object) -> None:
        if not isinstance(usage, dict):
            return
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        self._usage = Usage(
            prompt_tokens=prompt if isinstance(prompt, int) else self._usage.prompt_tokens,
            completion_tokens=completion if isinstance(completion, int) else self._usage.completion_tokens,
        )
        details = usage.get("completion_tokens_details")
        thought = details.get("reasoning_tokens") if isinstance(details, dict) else None
        if isinstance(thought, int):
            self._thought_tokens = thought

    def _why_empty(self, reason: str) -> str:
        if self._refusal:
            return "refused to answer"  # the model's own words are part of an answer, so errors don't show them
        if self._tool:
            return f"asked for the tool {self._unsaid.hide(self._tool)[:80]!r} instead of answering"
        lower = reason.lower()
        if lower in ("length", "max_tokens", "model_length"):
            spent = (
                "thinking used all of its tokens" if self._thinking.seen or self._thought_tokens else "it was cut off"
            )
            return f"gave no text: {spent} (finish_reason {reason}); raise max_tokens"
        if lower == "content_filter":
            return "gave no text: its answer was withheld by a filter (finish_reason content_filter)"
        if lower in ("tool_calls", "function_call"):
            return f"asked for a tool instead of answering (finish_reason {reason})"
        if self._thinking.seen:
            return f"gave no text: it ended without an answer after its thinking (finish_reason {reason})"
        return f"gave no text: its answer is empty (finish_reason {reason})"


def _tool(delta: Mapping[str, Any]) -> str:
    calls = delta.get("tool_calls")
    first = calls[0] if isinstance(calls, list) and calls else {"function": delta.get("function_call")}
    function = first.get("function") if isinstance(first, dict) else None
    return str(function.get("name") or "?") if isinstance(function, dict) else "?"


def _joined(text: str) -> str:
    """Replace surrogate pairs with their characters, and lone surrogates, which can't be encoded, with U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
