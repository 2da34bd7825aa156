"""Checks by rule whether the figures and names of an answer stand in the passages that it cites, and whether it contains the right answer.

The rules need no model, so they cost nothing and always give the same result. They find invented numbers and names, which are the most harmful errors. They
don't find a wrong relation between right words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import regex

from ragcore.text.words import UNSPACED, sentences

__all__ = ["Grounding", "contains", "ground", "token_f1"]

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "january jan januar enero janvier",
            "february feb februar febrero février",
            "march mar märz marzo mars",
            "april apr abril avril",
            "may mai mayo",
            "june jun juni junio juin",
            "july jul juli julio juillet",
            "august aug agosto août",
            "september sep sept septiembre septembre",
            "october oct oktober octubre octobre",
            "november nov noviembre novembre",
            "december dec dezember diciembre décembre",
        ),
        start=1,
    )
    for name in names.split()
}
WORDS = {
    **{
        word: number
        for number, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty".split()
        )
    },
    **dict(zip("thirty forty fifty sixty seventy eighty ninety hundred".split(), range(30, 101, 10), strict=True)),
}
MULTIPLES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mio": 1e6, "mrd": 1e9}
# Each unit with its spellings. Two figures with different units are different; a figure without a unit equals any.
UNITS = {
    spelling: unit
    for unit, spellings in {
        "%": "% percent prozent percentage",
        "$": "$ usd dollar dollars us$",
        "€": "€ eur euro euros",
        "£": "£ gbp pound pounds",
        "¥": "¥ jpy yen",
        "CHF": "chf franken francs",
        "s": "s sec second seconds sekunden",
        "min": "min mins minute minutes minuten",
        "h": "h hr hrs hour hours stunden",
        "d": "day days tag tage tagen",
        "week": "week weeks woche wochen",
        "month": "month months monat monate monaten",
        "year": "year years jahr jahre jahren",
        "km": "km kilometre kilometres kilometer kilometers",
        "m": "m metre metres meter meters",
        "cm": "cm centimetre centimetres centimeter centimeters",
        "mm": "mm millimetre millimetres millimeter millimeters",
        "mile": "mile miles mi",
        "kg": "kg kilogram kilograms kilogramm",
        "g": "g gram grams gramm",
        "mg": "mg milligram milligrams",
        "l": "l litre litres liter liters",
        "ml": "ml millilitre millilitres milliliter milliliters",
        "GB": "gb gigabyte gigabytes",
        "MB": "mb megabyte megabytes",
        "°C": "°c celsius",
        "kWh": "kwh",
        "V": "v volt volts",
        "W": "w watt watts",
    }.items()
    for spelling in spellings.split()
}
CURRENCIES = "$€£¥"
_DIGITS = r"\d+(?:[.,'’\u00a0\u202f]\d{3})+(?:[.,]\d+)?(?!\d)|\d+(?:[.,]\d+)?"
_WORDS = "|".join(sorted(WORDS, key=len, reverse=True))
_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
NUMBER = re.compile(
    rf"(?P<before>US\$|[{CURRENCIES}]|\b(?:USD|EUR|GBP|CHF|JPY)\b)?\s?(?<![\w.,])(?P<number>{_DIGITS}|\b(?:{_WORDS})\b)"
    r"(?P<ordinal>st|nd|rd|th)?(?:[\s\u00a0-]?(?P<multiple>thousand|million|billion|trillion|mio|mrd)\b\.?)?"
    r"(?:[\s\u00a0\u202f-]?(?P<after>%|°C|[€£¥$]|[a-zA-Z]+))?",
    re.IGNORECASE,
)
DATE = re.compile(
    r"(?P<iso>\b\d{4}-\d{1,2}-\d{1,2}\b)"
    r"|(?P<dots>\b\d{1,2}[./]\d{1,2}[./]\d{4}\b)"
    rf"|(?P<month_first>\b(?:{_MONTH})\b\.?\s+(?:\d{{1,2}}(?:st|nd|rd|th)?,?(?:\s+\d{{4}})?|\d{{4}})\b)"
    rf"|(?P<day_first>\b\d{{1,2}}(?:st|nd|rd|th|\.)?\s+(?:of\s+)?(?:{_MONTH})\b\.?(?:,?\s+\d{{4}}\b)?)",
    re.IGNORECASE,
)
CITATION = re.compile(r"\[\d+\]")
ITEM = re.compile(r"^\s*(?:\d{1,3}[.)]|[-*+•#]+)\s+", re.MULTILINE)
MARKUP = re.compile(r"[*_`]{1,3}")
QUOTED = re.compile(r"“([^“”\n]{2,120})”|„([^„“\n]{2,120})“|«([^«»\n]{2,120})»|(?<!\w)\"([^\"\n]{2,120})\"(?!\w)")
CAPITALISED = r"\p{Lu}[\w’'&-]*"
# Words in lower case that may be part of a name.
WITHIN = r"(?:of|the|de|la|del|der|von|van|for)"
NAME = regex.compile(rf"\b{CAPITALISED}(?:\.?[ \u00a0]+(?:{WITHIN}[ \u00a0]+){{0,2}}{CAPITALISED})*")
# These words are not names, although some texts capitalise them in the middle of a sentence.
NO_NAMES = frozenset({"i", "i'm", "i’m", "i'll", "i’ll", "ok", "yes", "no"})
# Words that often begin a sentence. If a name follows one of them, it is not part of the name.
OPENERS = frozenset(
    """
    a according after all although an and any are as ask at because before both but by call can check contact do does during each every find for from
    go have her his how however if in is it its let my no not note of on or our pay please read see send she show since that the their then there these
    they this those though to under until use visit we what when where which while who with yes you your
    """.split()
)
TOKEN = re.compile(rf"\d+(?:[.,]\d+)*|[{UNSPACED}]|[^\W_{UNSPACED}]+|%")
TITLES = frozenset("dr mr mrs ms prof sir herr frau".split())
ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True, slots=True)
class Grounding:
    """The figures and names of an answer, as written, and those that no cited passage contains."""

    figures: tuple[str, ...]
    names: tuple[str, ...]
    missing_figures: tuple[str, ...]
    missing_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure: its possible values, or the (year, month, day) of a date, and its unit."""

    written: str
    values: frozenset[float] = frozenset()
    unit: str = ""
    dates: frozenset[tuple[int | None, int, int | None]] = frozenset()

    def matches(self, other: _Figure) -> bool:
        if self.dates and other.dates:
            return any(_same_date(one, two) for one in self.dates for two in other.dates)
        if self.dates or other.dates:  # a year alone equals a date in that year
            years = {float(year) for year, _, _ in self.dates | other.dates if year is not None}
            return not self.dates and not self.unit and bool(years & self.values)
        return bool(self.values & other.values) and (not self.unit or not other.unit or self.unit == other.unit)


def ground(answer: str, passages: Iterable[str], *, question: str = "") -> Grounding:
    """Look for each figure and each name of an answer in the passages.

    A figure is a number with its unit, an amount of money, a percentage or a date. "$1,500" equals "1500 dollars", and "March 5, 2026" equals
    "2026-03-05", but nothing is converted: "one year" does not equal "12 months". A name is a sequence of capitalised words, a word in capitals, or a text in
    quotation marks. A single capitalised word at the beginning of a sentence is not a name. All words of a name must occur in one passage. The rule suits
    languages that write only names with a capital letter. In German, each noun counts as a name.

    Figures and names of the question are not counted, because the answer only repeats them.

    Examples:
        >>> found = ground("Dr. Okafor says it is $1,500 [1].", ["The deductible is 1500 dollars."])
        >>> found.figures, found.missing_figures, found.missing_names
        (('$1,500',), (), ('Dr. Okafor',))
    """
    texts = list(passages)
    plain = MARKUP.sub("", ITEM.sub("", CITATION.sub(" ", answer)))
    asked, known = _figures(question), [figure for text in texts for figure in _figures(text)]
    figures = [figure for figure in _figures(plain) if not any(figure.matches(one) for one in asked)]
    words_asked, words = set(_words(question)), [set(_words(text)) for text in texts]
    names = [name for name in _names(plain) if not set(_words(name)) <= words_asked]
    return Grounding(
        figures=tuple(figure.written for figure in figures),
        names=tuple(names),
        missing_figures=tuple(f.written for f in figures if not any(f.matches(one) for one in known)),
        missing_names=tuple(name for name in names if not any(set(_words(name)) <= found for found in words)),
    )


def contains(answer: str, gold: str, /) -> bool:
    """Whether an answer contains the right answer: the same words in the same order, without articles, case and punctuation.

    Examples:
        >>> contains("You pay $1,500 per year [1].", "1500")
        True
    """
    inside, wanted = _tokens(answer), _tokens(gold)
    if not wanted:
        return False
    return any(inside[at : at + len(wanted)] == wanted for at in range(len(inside) - len(wanted) + 1))


def token_f1(answer: str, gold: str, /) -> float:
    """Return the F1 of the words that an answer shares with the right answer. A long answer has a low F1 even if it contains the right one.

    Source: P. Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of text", EMNLP 2016.
    """
    ours, theirs = Counter(_tokens(answer)), Counter(_tokens(gold))
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0


def _tokens(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", CITATION.sub(" ", text)).casefold()
    found = []
    for word in TOKEN.findall(folded):
        if word[0].isdigit():
            value = min(_values(word))
            found.append(f"{value:.15g}")
        elif word not in ARTICLES:
            found.append("percent" if word == "%" else word)
    return found


def _figures(text: str) -> list[_Figure]:
    found, rest = [], text
    for match in DATE.finditer(text):
        dates = _dates(match)
        if dates:
            found.append(_Figure(match[0], dates=dates))
            rest = rest[: match.start()] + " " * len(match[0]) + rest[match.end() :]
    for match in NUMBER.finditer(rest):
        multiple = MULTIPLES[match["multiple"].lower()] if match["multiple"] else 1.0
        before, after = (UNITS.get((match[part] or "").lower(), "") for part in ("before", "after"))
        # The word after a number belongs to the figure only if it is a unit.
        written = match[0] if after or not match["after"] else match[0][: match.start("after") - match.start()]
        if match["number"].lower() == "one" and not after and multiple == 1:
            continue  # "one" is mostly a pronoun
        found.append(
            _Figure(
                written.strip(" -\u00a0"),
                frozenset(value * multiple for value in _values(match["number"])),
                before or after,
            )
        )
    return found


def _values(written: str) -> set[float]:
    """Return the values that a number may have. "1.500" is 1.5 in English and 1500 in German, so it has both values. "1,500" has only the value 1500."""
    if written.lower() in WORDS:
        return {float(WORDS[written.lower()])}
    digits = re.sub(r"['’\u00a0\u202f]", "", written)
    marks = re.findall(r"[.,]", digits)
    if not marks:
        return {float(digits)}
    last = marks[-1]
    whole, _, part = digits.rpartition(last)
    if len(set(marks)) == 2:  # the last one is the decimal mark
        return {float(f"{re.sub('[.,]', '', whole)}.{part}")}
    joined = float(re.sub("[.,]", "", digits))
    if len(marks) > 1:
        return {joined}
    decimal = float(f"{whole}.{part}")
    if len(part) == 3:
        return {joined} if last == "," else {decimal, joined}
    return {decimal}


def _dates(match: re.Match[str]) -> frozenset[tuple[int | None, int, int | None]]:
    numbers = [int(number) for number in re.findall(r"\d+", match[0])]
    if match["iso"]:
        return _valid([(numbers[0], numbers[1], numbers[2])])
    if match["dots"]:  # day and month, or month and day
        return _valid([(numbers[2], numbers[1], numbers[0]), (numbers[2], numbers[0], numbers[1])])
    month = next(MONTHS[word] for word in re.findall(r"[^\W\d_]+", match[0].lower()) if word in MONTHS)
    year = next((number for number in numbers if number > 31), None)
    day = next((number for number in numbers if number <= 31), None)
    return _valid([(year, month, day)])


def _valid(dates: Sequence[tuple[int | None, int, int | None]]) -> frozenset[tuple[int | None, int, int | None]]:
    return frozenset(date for date in dates if 1 <= date[1] <= 12 and (date[2] is None or 1 <= date[2] <= 31))


def _same_date(one: tuple[int | None, int, int | None], other: tuple[int | None, int, int | None]) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _names(text: str) -> Iterator[str]:
    seen = set()
    for match in QUOTED.finditer(text):
        name = next(filter(None, match.groups())).strip(" .,;:!?")
        if name and name.casefold() not in seen:
            seen.add(name.casefold())
            yield name
    rest = QUOTED.sub(" ; ", text)
    # A line may be a heading or an item of a list, so its first word counts as the first one of a sentence.
    for sentence in (line[start:end] for line in rest.splitlines() for start, end in sentences(line)):
        for named in NAME.finditer(sentence):
            name = re.sub(r"['’]s$", "", named[0]).rstrip("-'’&")
            if not re.search(r"\w", sentence[: named.start()]):
                # The first word has a capital letter anyway, unless it is written in capitals.
                head, _, tail = name.partition(" ")
                if head.lower() in OPENERS or (not tail and not (len(head) > 1 and head.isupper())):
                    name = tail.strip()
            if len(name) > 1 and name.casefold() not in seen | NO_NAMES:
                seen.add(name.casefold())
                yield name


def _words(text: str) -> list[str]:
    found = (re.sub(r"['’]s$", "", word).strip("'’-") for word in re.findall(r"[\w’'-]+", text.casefold()))
    return [word for word in found if word not in TITLES]
