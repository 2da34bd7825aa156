"""Separates a model's thinking from its answer in one stream of text.

DeepSeek, Qwen and others put their thinking between tags, unless the server removes it. The tags may be cut anywhere, and the closing tag may be missing.
The first tag counts only at the start of a line; elsewhere it is part of the text. After the first tag, the model is known to think, and tags count anywhere.

Sources: the chat templates of DeepSeek-R1 and Qwen3 (`<think>`), Magistral (`[THINK]`), Kimi (`◁think▷`), MiniMax-M3 (`<mm:think>`), Command A
(`<|START_THINKING|>`), and OpenAI's harmony format (`<|channel|>analysis<|message|>`).
"""

from __future__ import annotations

import re

__all__ = ["Thinking"]

WORDS = "think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
OPENING = re.compile(
    rf"<(?P<name>(?:\w{{1,10}}:)?(?:{WORDS}))\s*>|(?P<mistral>\[think\])|(?P<kimi>◁think▷)"
    r"|<\|(?P<begin>begin_of_thought|start_thinking)\|>|(?P<header><\|(?:start|channel)\|>)",
    re.IGNORECASE,
)
# If the chat template contains the opening tag, the model sends only the closing tag.
CLOSING_ALONE = re.compile(
    rf"</(?:\w{{1,10}}:)?(?:{WORDS})\s*>|\[/think\]|◁/think▷|<\|end_(?:of_thought|thinking)\|>", re.IGNORECASE
)
# Some servers leave these tokens of the chat template in the text.
TOKENS = re.compile(r"<\|(?:end|return|im_end|eot_id|endoftext|end_of_text)\|>")
# A possible beginning of any of these tags.
PARTIAL = re.compile(r"(?:<[\w:|/ ]{0,40}|\[/?[A-Za-z]{0,5}|◁/?[a-z]{0,5})\Z")
BLANKS = re.compile(r"\s*")
# Largest number of characters of an incomplete tag.
LONGEST_TAG = 64


class Thinking:
    """Takes text in pieces and returns the text of the answer.

    Args:
        most: the largest number of characters of thinking that are kept.
        begun: whether the model is known to send only the closing tag. Text is then held back until that tag.

    Attributes:
        omits_opening_tag: whether only a closing tag came; the text before it was thinking.

    Examples:
        >>> thinking = Thinking()
        >>> thinking.take("<thi"), thinking.take("nk>Is it $40?</think>It is"), thinking.take(" $40.")
        ('', '', 'It is $40.')
        >>> thinking.thought
        'Is it $40?'
    """

    omits_opening_tag: bool

    def __init__(self, *, most: int = 1_000_000, begun: bool = False) -> None:
        self.omits_opening_tag = False
        self._held = ""
        self._waits = begun
        self._shown: list[str] = []
        self._closing: re.Pattern[str] | None = None
        self._depth = 0
        self._header = False
        self._tagged = False
        self._parts: list[str] = []
        self._size = 0
        self._most = most
        self._at_line_start = True
        self._answer_begun = False

    @property
    def open(self) -> bool:
        """Whether the text so far ends inside thinking."""
        return self._closing is not None and not self._header

    @property
    def seen(self) -> bool:
        """Whether there was thinking, even if empty."""
        return self._closing is not None or bool(self._parts)

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
        if self._closing is None and not self._held and "<" not in text and "[" not in text and "◁" not in text:
            return self._follow(text)
        self._held += text
        out = ""
        while self._held:
            before = self._held
            out += self._outside(final=False) if self._closing is None else self._inside()
            if self._held == before or (self._closing is None and not self._has_tag()):
                break
        return out

    def end(self) -> str:
        """Return the rest of the text at the end of the stream."""
        self._waits = False
        if self._closing is not None:
            held, self._held = self._held, ""
            if not self._header:
                self._keep(held)
            return ""
        out = self._outside(final=True) if self._held else ""
        held, self._held = self._held, ""
        if self._closing is not None:
            if not self._header:
                self._keep(held)
            return out
        return out + self._follow(held)

    def _wait(self, text: str) -> str:
        searched = max(0, len(self._held) - LONGEST_TAG)  # searching from the start each time would take quadratic time
        self._held += text
        closing = CLOSING_ALONE.search(self._held, searched)
        if OPENING.match(self._held, BLANKS.match(self._held).end()):  # type: ignore[union-attr]  # it matches any text
            self._waits = False
            return self.take("")
        if closing is not None:
            self._keep(self._held[: closing.start()])
            self._held = self._held[closing.end() :]
            self.omits_opening_tag, self._tagged, self._waits = True, True, False
            return self.take("")
        return ""

    def _inside(self) -> str:
        assert self._closing is not None
        while True:
            found = self._closing.search(self._held)
            if found is None:
                break
            inner = found.group()
            opens = (
                not self._header
                and "/" not in inner
                and "end" not in inner.lower()
                and OPENING.fullmatch(inner) is not None
            )
            if opens:
                self._depth += 1
            else:
                self._depth -= 1
            if self._depth > 0:
                self._keep(self._held[: found.end()])
                self._held = self._held[found.end() :]
                continue
            inside = self._held[: found.start()]
            self._held = self._held[found.end() :]
            self._closing = None
            if self._header:
                self._header = False
                if "analysis" in inside or "commentary" in inside or "thought" in inside:
                    self._open(re.compile(r"<\|end\|>|<\|return\|>"))
                return ""
            self._keep(inside)
            self._at_line_start = True
            return ""
        partial = PARTIAL.search(self._held)
        keep = len(partial.group()) if partial else 0
        if not self._header:
            self._keep(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
        return ""

    def _outside(self, *, final: bool) -> str:
        for match in OPENING.finditer(self._held):
            before = self._held[: match.start()]
            if match["header"] or self._tagged or self._starts_line(before):
                self._begin(match)
                self._held = self._held[match.end() :]
                return self._follow(before)
        if not self._tagged and (closing := CLOSING_ALONE.search(self._held)) is not None:
            behind = self._held[closing.end() :]
            if not behind.strip(" \t") and not final:  # only the text after the tag shows whether it is a tag
                out, self._held = self._held[: closing.start()], self._held[closing.start() :]
                return self._follow(out)
            if self._starts_line(self._held[: closing.start()]) or behind.lstrip(" \t")[:1] == "\n":
                self._keep("".join(self._shown) + self._held[: closing.start()])
                self._held = behind
                self.omits_opening_tag, self._tagged, self._answer_begun, self._at_line_start = True, True, False, True
                self._shown.clear()
                return ""
            # The text only mentions the tag.
            out, self._held = self._held[: closing.end()], behind
            return self._follow(out)
        partial = None if final else PARTIAL.search(self._held)
        keep = len(partial.group()) if partial else 0
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return self._follow(out)

    def _has_tag(self) -> bool:
        held = self._held
        if OPENING.search(held) is not None:
            return True
        closing = None if self._tagged else CLOSING_ALONE.search(held)
        return closing is not None and bool(held[closing.end() :].strip(" \t"))

    def _begin(self, match: re.Match[str]) -> None:
        if match["header"]:
            self._header = True
            self._closing, self._depth = re.compile(r"<\|message\|>"), 1
            return
        if match["name"]:
            name = re.escape(match["name"])
            self._open(re.compile(rf"</{name}\s*>|<{name}\s*>", re.IGNORECASE))
        elif match["mistral"]:
            self._open(re.compile(r"\[/think\]|\[think\]", re.IGNORECASE))
        elif match["kimi"]:
            self._open(re.compile("◁/think▷|◁think▷"))
        else:
            end = "end_of_thought" if match["begin"].lower() == "begin_of_thought" else "end_thinking"
            self._open(re.compile(rf"<\|{end}\|>", re.IGNORECASE))

    def _open(self, closing: re.Pattern[str]) -> None:
        self._closing, self._depth, self._tagged = closing, 1, True
        self._parts.append("")

    def _starts_line(self, before: str) -> bool:
        line = before[before.rfind("\n") + 1 :]
        return not line.strip() and (self._at_line_start or "\n" in before)

    def _follow(self, text: str) -> str:
        """Return text of the answer, without white space before its first word if there was thinking."""
        if "<|" in text:
            text = TOKENS.sub("", text)
        if not self._answer_begun and self.seen:
            text = text.lstrip()
        last = text[text.rfind("\n") + 1 :]
        if "\n" in text:
            self._at_line_start = not last.strip()
        elif last.strip():
            self._at_line_start = False
        if text and not text.isspace():
            self._answer_begun = True
        if not self._tagged and text:
            self._shown.append(text)
        return text

    def _keep(self, text: str) -> None:
        room = self._most - self._size
        if room > 0:
            self._parts.append(text[:room])
            self._size += len(text)
