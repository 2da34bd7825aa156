"""Separation of a model's thinking from its answer in one stream of text.

DeepSeek, Qwen and others put their thinking between tags, unless the server removes it. The tags may be cut anywhere, and the closing tag may be missing.
A tag counts only at the start of a line; elsewhere it is part of the text.
"""

from __future__ import annotations

import re

__all__ = ["Thinking"]

TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<reasoning>": "</reasoning>",
    "<seed:think>": "</seed:think>",
    "[think]": "[/think]",
    "<|start_thinking|>": "<|end_thinking|>",
    "<|channel|>analysis<|message|>": "<|end|>",
}
OPENING = re.compile("|".join(re.escape(tag) for tag in sorted(TAGS, key=len, reverse=True)), re.IGNORECASE)
LONGEST = max(map(len, TAGS))
# If the chat template contains the opening tag, the model sends only the closing tag.
CLOSING_ALONE = "</think>"


class Thinking:
    """Takes text in pieces and returns the text of the answer.

    Args:
        most: characters of thinking that are kept.
        begun: whether the model is known to send only the closing tag. Text is then held back until that tag.

    Attributes:
        unopened: whether only a closing tag came; the text before it was thinking.

    Example:
        >>> thinking = Thinking()
        >>> thinking.take("<thi"), thinking.take("nk>Is it $40?</think>It is"), thinking.take(" $40.")
        ('', 'It is', ' $40.')
        >>> thinking.thought
        'Is it $40?'
    """

    def __init__(self, *, most: int = 1_000_000, begun: bool = False) -> None:
        self.unopened = False
        self._held = ""
        self._waits = begun
        self._shown: list[str] = []
        self._closing = ""
        self._parts: list[str] = []
        self._size = 0
        self._most = most
        self._at_line_start = True
        self._answer_begun = False

    @property
    def open(self) -> bool:
        """Whether the text is inside thinking."""
        return bool(self._closing)

    @property
    def seen(self) -> bool:
        """Whether there was thinking, even if empty."""
        return bool(self._closing or self._parts)

    @property
    def thought(self) -> str:
        """The thinking so far."""
        return "".join(self._parts).strip()

    def add(self, text: str) -> None:
        """Add thinking from a separate field."""
        self._keep(text)

    def take(self, text: str) -> str:
        """Return the text that can be shown now."""
        if self._waits:
            return self._wait(text)
        # The common case: no tag is near.
        if not self._closing and not self._held and "<" not in text and "[" not in text:
            return self._follow(text)
        self._held += text
        out = ""
        while self._held:
            before = self._held
            out += self._inside() if self._closing else self._outside()
            if self._held == before or (not self._closing and not self._may_go_on()):
                break
        return out

    def end(self) -> str:
        """Return the rest of the text at the end of the stream."""
        held, self._held = self._held, ""
        if self._closing:
            self._keep(held)
            return ""
        return self._follow(held)

    def _wait(self, text: str) -> str:
        self._held += text
        begun = self._held.lstrip()
        if OPENING.match(begun):
            self._waits = False
            return self.take("")
        if CLOSING_ALONE in self._held:
            thought, _, self._held = self._held.partition(CLOSING_ALONE)
            self._keep(thought)
            self.unopened, self._waits = True, False
            return self.take("")
        return ""

    def _inside(self) -> str:
        at = self._held.lower().find(self._closing)
        if at >= 0:
            self._keep(self._held[:at])
            self._held = self._held[at + len(self._closing) :]
            self._closing = ""
            self._at_line_start = True
            return ""
        keep = _beginning_of(self._held, (self._closing,))
        self._keep(self._held[: len(self._held) - keep])
        self._held = self._held[len(self._held) - keep :]
        return ""

    def _outside(self) -> str:
        for match in OPENING.finditer(self._held):
            before = self._held[: match.start()]
            if self._starts_line(before):
                self._closing = TAGS[match.group().lower()]
                self._parts.append("")
                self._held = self._held[match.end() :]
                return self._follow(before)
        if not self.seen and CLOSING_ALONE in self._held:
            before, _, self._held = self._held.partition(CLOSING_ALONE)
            self._keep("".join(self._shown) + before)
            self.unopened, self._answer_begun, self._at_line_start = True, False, True
            self._shown.clear()
            return ""
        keep = _beginning_of(self._held, (*TAGS, *(() if self.seen else (CLOSING_ALONE,))))
        if (
            keep
            and self._held[-keep : 2 - keep or None] != "</"
            and len(self._held[-keep:]) > 1
            and not self._starts_line(self._held[:-keep])
        ):
            keep = 0
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return self._follow(out)

    def _may_go_on(self) -> bool:
        return OPENING.search(self._held) is not None

    def _starts_line(self, before: str) -> bool:
        line = before[before.rfind("\n") + 1 :]
        return not line.strip() and (self._at_line_start or "\n" in before)

    def _follow(self, text: str) -> str:
        """Return text of the answer, without white space before its first word if there was thinking."""
        if not self._answer_begun and self.seen:
            text = text.lstrip()
        last = text[text.rfind("\n") + 1 :]
        if "\n" in text:
            self._at_line_start = not last.strip()
        elif last.strip():
            self._at_line_start = False
        if text and not text.isspace():
            self._answer_begun = True
        if not self.seen and text:
            self._shown.append(text)
        return text

    def _keep(self, text: str) -> None:
        room = self._most - self._size
        if room > 0:
            self._parts.append(text[:room])
            self._size += len(text)


def _beginning_of(text: str, tags: object) -> int:
    """Return how many characters at the end of `text` may start a tag."""
    tail = text[-LONGEST:].lower()
    for start in range(len(tail)):
        if tail[start] in "<[" and any(tag.startswith(tail[start:]) for tag in tags):  # type: ignore[attr-defined]
            return len(tail) - start
    return 0
