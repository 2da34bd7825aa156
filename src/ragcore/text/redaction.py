"""Removes private data from texts before they go to a model or an embedder.

A `Redaction` uses patterns. Any function that takes a text and returns a text can be used instead. Patterns find data with a fixed form, such as a number or
an address. They don't find a name or a diagnosis; to remove those, pass your own function that calls a recognizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Self, TypeAlias

from ragcore.errors import ConfigurationError

__all__ = ["KINDS", "Redact", "Redacted", "Redaction", "key_of", "redacted"]

Redact: TypeAlias = Callable[[str], str]
Finder: TypeAlias = Callable[[str], Iterable[tuple[int, int]]]

KINDS = ("email", "ssn", "card", "phone")
# If a redaction removes the whole text, this replaces it, because embedders and models refuse empty texts.
NOTHING_LEFT = "[REDACTED]"

# The characters that may stand between groups of digits: spaces, no-break spaces, hyphens and dashes, as people and PDFs write them.
GAP = "[ \u00a0\u2007\u2009\u202f.\u00ad\u2010-\u2015\u2212-]"
# The lengths are limited, so that a run of n letters costs at most 64 × n steps. RFC 5321 allows at most 64 characters before the "@".
EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.)+[\w-]{2,63}")
# Matches only numbers that the Social Security Administration issues: the first group is never 000, 666 or 9xx, the second never 00, the third never 0000.
# A number without gaps counts only after "SSN" or "social security number".
SSN = re.compile(
    rf"(?<![\w-])(?P<value>(?!000|666|9)\d{{3}}(?P<gap>{GAP})(?!00)\d{{2}}(?P=gap)(?!0000)\d{{4}})(?![\w-])"
)
NAMED_SSN = re.compile(
    r"\b(?:ssn|social security(?: number| no\.?)?)(?:\W{1,3}is)?\W{1,3}(?P<value>(?!000|666|9)\d{9})\b", re.IGNORECASE
)
# A card number may contain a line break.
DIGITS = re.compile(rf"(?<!\w)\d(?:(?:{GAP}|\n)?\d){{12,}}")
# International numbers, and those of North America (area code and exchange begin with 2 to 9). Ten digits without gaps count as a number as well.
PHONE = re.compile(
    rf"(?<![\w+])(?:\+|00{GAP}?)[1-9]\d{{0,2}}(?:{GAP}|[()/]){{0,3}}(?:\d(?:{GAP}|[()/]){{0,3}}){{6,13}}\d(?!\w)"
    rf"|(?<![\w+])(?:1{GAP}?)?(?:\([2-9]\d\d\)|[2-9]\d\d){GAP}?[2-9]\d\d{GAP}?\d{{4}}(?!\w)"
)


@dataclass(frozen=True, slots=True)
class Redaction:
    """Replaces private data by the name of its kind in brackets: "call [PHONE]".

    Args:
        kinds: any of "email", "ssn" (US social security numbers), "card" (13 to 19 digits with a valid check digit) and "phone". Default: all.
        patterns: your own regular expressions, by the name that replaces their matches, such as {"order": r"ORD-\\d{8}"}.
        reversible: whether the answer gets the original values back. The model sees "[PHONE 1]", and the same placeholder for the same value in the whole
            prompt. The mapping is deleted when the call ends.

    Raises:
        ConfigurationError: a kind is unknown, or a pattern is invalid or matches the empty string.

    Examples:
        >>> Redaction()("Write to ann@example.com or call (415) 555-0134.")
        'Write to [EMAIL] or call [PHONE].'
    """

    kinds: tuple[str, ...] = KINDS
    _: KW_ONLY
    patterns: Mapping[str, str] = field(default_factory=dict)
    reversible: bool = False

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if isinstance(self.kinds, str) or unknown:
            raise ConfigurationError(f"redact: {self.kinds!r} must be a tuple of {', '.join(KINDS)}")
        for name, pattern in self.patterns.items():
            if not re.fullmatch(r"\w[\w -]{0,30}", name):
                raise ConfigurationError(f"redact: {name!r} is not a valid name: use letters, digits and hyphens")
            try:
                found = re.compile(pattern).match("")
            except re.error as error:
                raise ConfigurationError(f"redact: the pattern {name!r} is not a regular expression: {error}") from None
            if found is not None:
                raise ConfigurationError(f"redact: the pattern {name!r} matches the empty string")

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Make a `Redaction` from the value of RAGCORE_REDACT: kinds separated by commas, or "all", optionally with "reversible".

        Raises:
            ConfigurationError: a kind is unknown.
        """
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        kinds = tuple(word for word in words if word not in ("reversible", "all"))
        return cls(kinds if kinds and "all" not in words else KINDS, reversible="reversible" in words)

    def __call__(self, text: str, /) -> str:
        """Return the text with all matches replaced."""
        return _replaced(text, self.places(text), lambda name, _: f"[{name}]")

    def places(self, text: str, /) -> list[tuple[int, int, str]]:
        """Return (start, end, name) of each match, in the order of the text.

        Text that one kind has matched is not searched for the next kinds. Otherwise a social security number and the card number after it would count as one
        run of digits.
        """
        found: list[tuple[int, int, str]] = []
        for name, find in self._finders():
            spans = sorted(find(text))
            found += [(start, end, name) for start, end in spans]
            text = _replaced(text, [(start, end, name) for start, end in spans], lambda _, value: "\0" * len(value))
        return sorted(found)

    def _finders(self) -> Iterator[tuple[str, Finder]]:
        for name, pattern in self.patterns.items():
            yield name.upper(), partial(_own, pattern)
        for kind in (kind for kind in KINDS if kind in self.kinds):
            yield kind.upper(), FINDERS[kind]


PLACEHOLDER = re.compile(r"\[[\w -]{1,40} \d{1,9}\]")


class Redacted:
    """Redacts the texts of one prompt, and puts the original values back into the answer.

    Args:
        redact: a reversible `Redaction` gives each value its own number. With any other redaction, the answer stays as it is.
        texts: all texts of the prompt, so that a new placeholder never equals one that is already in a text.
    """

    def __init__(self, redact: Redact, texts: Iterable[str]) -> None:
        self._redact = redact
        self._reversible = isinstance(redact, Redaction) and redact.reversible
        # Strings in the texts that look like placeholders.
        self._taken = {found for text in texts for found in PLACEHOLDER.findall(text)} if self._reversible else set()
        self._placeholders: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}
        self.originals: dict[str, str] = {}
        """The original values by placeholder."""

    def redact(self, text: str) -> str:
        """Return the text as it may leave the process. Raises the same errors as `redacted`."""
        if not self._reversible or not text:
            return redacted(self._redact, text)
        assert isinstance(self._redact, Redaction)
        return _replaced(text, self._redact.places(text), self._placeholder)

    def restore(self, text: str, *, in_json: bool = False) -> str:
        """Return the text with the original values instead of their placeholders.

        Args:
            in_json: whether the placeholders stand in strings of JSON, where a line end or a quotation mark must be escaped.
        """

        def original(match: re.Match[str]) -> str:
            found = self.originals.get(match[0], match[0])
            return json.dumps(found, ensure_ascii=False)[1:-1] if in_json else found

        return PLACEHOLDER.sub(original, text) if self.originals else text

    def held_back(self, text: str) -> int:
        """Return the position of an incomplete placeholder at the end of a text; the text's length if there is none."""
        start = text.rfind("[")
        if start >= 0 and any(placeholder.startswith(text[start:]) for placeholder in self.originals):
            return start
        return len(text)

    def _placeholder(self, name: str, value: str) -> str:
        known = self._placeholders.get((name, value))
        if known is not None:
            return known
        number = self._last.get(name, 0) + 1
        while (placeholder := f"[{name} {number}]") in self._taken:
            number += 1
        self._last[name] = number
        self._placeholders[name, value] = placeholder
        self.originals[placeholder] = value
        return placeholder


def redacted(redact: Redact | None, text: str) -> str:
    """Return the text as it may leave the process.

    Raises:
        ConfigurationError: the function raised, or returned something other than a str. Then nothing is sent. The error contains neither the text nor the
            function's own message, which may quote the text.
    """
    if redact is None or not text:
        return text
    try:
        made = redact(text)
    except Exception as error:
        raise ConfigurationError(f"redact raised {type(error).__name__}{_where(error)}: nothing was sent") from None
    if not isinstance(made, str):
        raise ConfigurationError(f"redact returned {type(made).__name__}: it must return a str; nothing was sent")
    return made if made.strip() else NOTHING_LEFT


def key_of(redact: Redact | None) -> str:
    """Return a key of the redaction for the content hash of a document; "" for no redaction. All of the user's functions have the same key."""
    if redact is None:
        return ""
    if isinstance(redact, Redaction):
        return f"redaction {sorted(redact.kinds)} {sorted(redact.patterns.items())}"
    return "function"


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" in line {trace.tb_lineno} of {trace.tb_frame.f_code.co_name}"


def _replaced(text: str, places: Iterable[tuple[int, int, str]], placeholder: Callable[[str, str], str]) -> str:
    parts, end = [], 0
    for start, stop, name in places:
        if stop <= end:  # within the place before: a user's pattern may match around text that another kind has matched
            continue
        begin = max(start, end)
        parts += [text[end:begin], placeholder(name, text[begin:stop])]
        end = stop
    return "".join([*parts, text[end:]])


def _own(pattern: str, text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in re.finditer(pattern, text) if match[0])


def _emails(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in EMAIL.finditer(text))


def _ssns(text: str) -> Iterator[tuple[int, int]]:
    return (match.span("value") for pattern in (SSN, NAMED_SSN) for match in pattern.finditer(text))


def _phones(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in PHONE.finditer(text))


def _cards(text: str) -> Iterator[tuple[int, int]]:
    """Yield the card numbers in runs of digits. A run may contain other digits, such as an amount before the card number and a security code after it."""
    for run in DIGITS.finditer(text):
        groups = [(run.start() + one.start(), run.start() + one.end()) for one in re.finditer(r"\d+", run[0])]
        start, end = -1, -1
        for first in range(len(groups)):
            last = _last_of_card(text, groups, first)
            if last is None:
                continue
            # One number in ten has a valid check digit by chance. Overlapping matches are replaced together, so that no part of a card number stays.
            if groups[first][0] < end:
                end = max(end, groups[last][1])
                continue
            if end >= 0:
                yield start, end
            start, end = groups[first][0], groups[last][1]
        if end >= 0:
            yield start, end


def _last_of_card(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    digits, found = "", None
    for number in range(first, len(groups)):
        start, end = groups[number]
        digits += text[start:end]
        if len(digits) > 19:
            break
        if len(digits) >= 13 and 2 <= int(digits[0]) <= 6 and _checks(digits):
            found = number
    return found


def _checks(digits: str) -> bool:
    """Return whether the check digit is valid by Luhn's algorithm, ISO/IEC 7812-1."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


FINDERS: dict[str, Finder] = {
    "email": _emails,
    "ssn": _ssns,
    "card": _cards,
    "phone": _phones,
}
