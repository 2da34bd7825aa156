"""What is taken out of texts before they go to a model or an embedder.

A `Redaction` knows patterns; any function from text to text does too. Patterns find what has a form: a number, an address. They don't find a name or a
diagnosis; for those, give a function of your own that asks a recognizer.
"""

from __future__ import annotations

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
# In place of a text of which a function leaves nothing: embedders and models refuse empty ones.
NOTHING_LEFT = "[REDACTED]"

# Between groups of digits: spaces, no-break spaces, hyphens and dashes, as people and PDFs write them.
GAP = "[ \u00a0\u2007\u2009\u202f.\u00ad\u2010-\u2015\u2212-]"
# Bounded, so that a long run of letters costs no more than its length times 64. RFC 5321: at most 64 before the "@".
EMAIL = re.compile(r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@(?:[\w-]{1,63}\.)+[\w-]{2,63}")
# Of the numbers that the Social Security Administration gives out: never 000, 666 or 9xx, 00, 0000. Without dashes only after its name.
SSN = re.compile(
    rf"(?<![\w-])(?P<value>(?!000|666|9)\d{{3}}(?P<gap>{GAP})(?!00)\d{{2}}(?P=gap)(?!0000)\d{{4}})(?![\w-])"
)
NAMED_SSN = re.compile(
    r"\b(?:ssn|social security(?: number| no\.?)?)(?:\W{1,3}is)?\W{1,3}(?P<value>(?!000|666|9)\d{9})\b", re.IGNORECASE
)
# A card number may be broken at the end of a line.
DIGITS = re.compile(rf"(?<!\w)\d(?:(?:{GAP}|\n)?\d){{12,}}")
# International, or of North America (area code and exchange begin with 2 to 9). Ten digits without gaps are taken for one as well.
PHONE = re.compile(
    rf"(?<![\w+])(?:\+|00{GAP}?)[1-9]\d{{0,2}}(?:{GAP}|[()/]){{0,3}}(?:\d(?:{GAP}|[()/]){{0,3}}){{6,13}}\d(?!\w)"
    rf"|(?<![\w+])(?:1{GAP}?)?(?:\([2-9]\d\d\)|[2-9]\d\d){GAP}?[2-9]\d\d{GAP}?\d{{4}}(?!\w)"
)


@dataclass(frozen=True, slots=True)
class Redaction:
    """Patterns whose finds are replaced by their name in brackets: "call [PHONE]".

    Args:
        kinds: of "email", "ssn" (US social security numbers), "card" (13 to 19 digits with a right check digit) and "phone"; the default is all.
        patterns: more of your own: a regular expression by the name that stands in its place, such as {"order": r"ORD-\\d{8}"}.
        reversible: whether the generator's answer gets the originals back. The model sees "[PHONE 1]", the same for the same number throughout a prompt; the
            mapping lives as long as the call.

    Raises:
        ConfigurationError: an unknown kind, a pattern that isn't one or that finds empty texts.

    Example:
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
                raise ConfigurationError(f"redact: {name!r} can't stand in brackets: use letters, digits and hyphens")
            try:
                found = re.compile(pattern).match("")
            except re.error as error:
                raise ConfigurationError(f"redact: the pattern {name!r} is no regular expression: {error}") from None
            if found is not None:
                raise ConfigurationError(f"redact: the pattern {name!r} finds empty texts")

    @classmethod
    def parse(cls, text: str, /) -> Self:
        """Of kinds with commas between, or "all", and "reversible": what RAGCORE_REDACT holds.

        Raises:
            ConfigurationError: an unknown kind.
        """
        words = [word.strip().lower() for word in text.split(",") if word.strip()]
        kinds = tuple(word for word in words if word not in ("reversible", "all"))
        return cls(kinds if kinds and "all" not in words else KINDS, reversible="reversible" in words)

    def __call__(self, text: str, /) -> str:
        """The text without what the patterns find."""
        return _replaced(text, self.places(text), lambda name, _: f"[{name}]")

    def places(self, text: str, /) -> list[tuple[int, int, str]]:
        """(start, end, name) of what is found, in the text's order.

        Each kind looks at what those before it have left: a card number behind a social security number is one run of digits with it.
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
    """The texts of one prompt: what is taken out of them, and put back into what comes of it.

    Args:
        redact: a `Redaction` that is reversible gives each value a number of its own; with any other there is nothing to put back.
        texts: all of them, so that no placeholder is one that stands in a text already.
    """

    def __init__(self, redact: Redact, texts: Iterable[str]) -> None:
        self._redact = redact
        self._reversible = isinstance(redact, Redaction) and redact.reversible
        # What looks like a placeholder in a text already.
        self._taken = {found for text in texts for found in PLACEHOLDER.findall(text)} if self._reversible else set()
        self._placeholders: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}
        self.originals: dict[str, str] = {}
        """By placeholder."""

    def redact(self, text: str) -> str:
        """The text as it may leave the process. Raises as `redacted`."""
        if not self._reversible or not text:
            return redacted(self._redact, text)
        assert isinstance(self._redact, Redaction)
        return _replaced(text, self._redact.places(text), self._placeholder)

    def restore(self, text: str) -> str:
        """The text with the originals in their places."""
        return PLACEHOLDER.sub(lambda match: self.originals.get(match[0], match[0]), text) if self.originals else text

    def held_back(self, text: str) -> int:
        """Where the beginning of a placeholder stands at the end of a text; its length if there is none."""
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
    """The text as it may leave the process.

    Raises:
        ConfigurationError: the function raised, or made something else than a text. Nothing is sent then. The error names neither the text nor what the
            function said, which may quote it.
    """
    if redact is None or not text:
        return text
    try:
        made = redact(text)
    except Exception as error:
        raise ConfigurationError(f"redact raised {type(error).__name__}{_where(error)}: nothing was sent") from None
    if not isinstance(made, str):
        raise ConfigurationError(f"redact made {type(made).__name__} of a text: it must make a str; nothing was sent")
    return made if made.strip() else NOTHING_LEFT


def key_of(redact: Redact | None) -> str:
    """What tells one redaction from another in the content hash of a document; "" for none. One function can't be told from another."""
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
        parts += [text[end:start], placeholder(name, text[start:stop])]
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
    """The card numbers in runs of digits. A run may hold more than the number: an amount before it, the month and the security code after it."""
    for run in DIGITS.finditer(text):
        groups = [(run.start() + one.start(), run.start() + one.end()) for one in re.finditer(r"\d+", run[0])]
        start, end = -1, -1
        for first in range(len(groups)):
            last = _last_of_card(text, groups, first)
            if last is None:
                continue
            # By chance, one run in ten has a right check digit: what overlaps is taken out together, so that no part of a number stays.
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
    """Luhn's check digit, ISO/IEC 7812-1."""
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
