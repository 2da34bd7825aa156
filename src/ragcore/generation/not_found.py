"""Recognises the word NOT_FOUND in an answer.

The prompt asks for this word alone. Models also add reasons before or after it, change its case, and put markup around it. Only the start and the end of
the text are examined, so the cost of a token does not grow with the answer.
"""

from __future__ import annotations

import re

from ragcore.generation.prompt import NOT_FOUND

__all__ = ["NotFound"]

# WRAPPING has the characters that models put around the word NOT_FOUND. BEFORE has those that they put directly before the word.
WRAPPING = " \t\r\n.\"'*`_#>()[]{}|~-:!?…。：！？,;“”„‘’«»$\ufeff\u200b"
BEFORE = " \t\r\n\"'*`_(#>“„‘$\ufeff\u200b"
TAG = r"</?[A-Za-z_]{1,24}>|<\|[a-z_]{1,24}\|>|\\boxed\{"
LEAD = re.compile(rf"(?:[{re.escape(WRAPPING)}]|{TAG})*(?:</?[A-Za-z_|]{{0,24}}\Z|\\[a-z]{{0,5}}\Z)?")
# Markup and citations may follow the word when it stands alone.
BEHIND = rf"(?:[{re.escape(WRAPPING)}]|{TAG}|\[\d[\d, ]*\])*"
WORD = NOT_FOUND.lower()
# The word, also with an escaped underscore as in Markdown.
AT_START = re.compile(r"not\\?_found(?![\w])", re.IGNORECASE)
REASONS = re.compile(
    rf"(?:[\s\"'*`_)\]}}>“”’$]|{TAG}|\[\d[\d, ]*\])*(?:[:.,;!?…。：；，！？(–—\n-]|(?<=\s)(?:because|since|as)\b)",
    re.IGNORECASE,
)
# At the end it follows a sentence, a line, or words such as "Answer:".
AT_END = re.compile(
    rf"(?:\A|[.!?…。！？][\"')\]”’*`]*\s|\n|\b(?:answer|response|result|reply|conclusion)(?: is)?\s*:)(?:[{re.escape(BEFORE)}]|{TAG})*"
    rf"not\\?_found{BEHIND}\Z",
    re.IGNORECASE,
)
ALONE = re.compile(r"not(?:\\?_|[ -]?)found", re.IGNORECASE)
UNDECIDED = re.compile(rf"{BEHIND}(?:</?[A-Za-z_|]{{0,24}}|\[[\d, ]*)?")
MARKUP_BEFORE = re.compile(rf"(?:[{re.escape(BEFORE)}]|{TAG}|\\boxed\{{)*\Z")
# Characters at the start and the end that are examined.
NEAR = 96


class NotFound:
    """Takes an answer's text in pieces and holds back text that may be the word.

    Attributes:
        said: whether the text so far means NOT_FOUND.
    """

    said: bool

    def __init__(self) -> None:
        self.said = False
        self._begun = False
        self._held = ""
        self._before = ""

    def take(self, text: str) -> str:
        """Return the text that can be shown now."""
        if self.said:
            return ""
        self._held += text
        if not self._begun:
            return self._beginning()
        return self._rest()

    def end(self) -> str:
        """Return the held text at the end of the stream; "" if it was the word."""
        held, self._held = self._held, ""
        if self.said:
            return ""
        if not self._begun and ALONE.fullmatch(
            re.sub(rf"{TAG}|\[[\d, ]+\]", "", held).strip(WRAPPING + "}").replace("\\", "")
        ):
            self.said = True
            return ""
        if AT_END.search((self._before + held)[-2 * NEAR :]):
            self.said = True
            return ""
        return held

    def _beginning(self) -> str:
        lead = LEAD.match(self._held)
        begun = self._held[lead.end() :] if lead else self._held
        if not begun and len(self._held) < NEAR:
            return ""
        match = AT_START.match(begun)
        if match is not None:
            behind = begun[match.end() :]
            if len(behind) < NEAR and (UNDECIDED.fullmatch(behind) or "because".startswith(behind.strip().lower())):
                return ""
            if REASONS.match(behind):
                self.said = True
                self._held = ""
                return ""
        elif _is_beginning(begun):
            return ""
        self._begun = True
        return self._rest()

    def _rest(self) -> str:
        """Return the held text, except an end that may be the word with its markup."""
        at = _word_at_end(self._held)
        out, self._held = self._held[:at], self._held[at:]
        self._before = (self._before + out)[-NEAR:]
        return out


def _is_beginning(text: str) -> bool:
    """Whether the text is a beginning of the word NOT_FOUND, so that the rest of the word may follow."""
    if len(text) > NEAR:
        return False
    lower = text.lower().replace("\\", "").rstrip(WRAPPING.replace("_", ""))
    return any(form.startswith(lower) for form in (WORD, "not found", "notfound", "not-found"))


def _word_at_end(text: str) -> int:
    """Return the position in the last characters at which the word may start; the text's length if there is none."""
    tail = text[-NEAR:]
    begin = len(text) - len(tail)
    lower = tail.lower()
    at = lower.rfind("n")
    while at >= 0:
        word = lower[at:].replace("\\", "")
        is_word = WORD.startswith(word) or (
            word.startswith(WORD) and UNDECIDED.fullmatch(word[len(WORD) :]) is not None
        )
        if is_word and (at == 0 or not lower[at - 1].isalnum()):
            # Include the markup before the word.
            markup = MARKUP_BEFORE.search(tail[:at])
            at = markup.start() if markup else at
            return begin + at
        at = lower.rfind("n", 0, at)
    return len(text)
