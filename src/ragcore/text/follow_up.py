"""Recognises follow-up questions, and finds the earlier question whose words the search needs as well.

A search for "And for my family?" alone finds any passage about families. The rule uses grammar and no words of a special field. A question depends on the
conversation if it begins with a connective, contains a pronoun that points back, or is only a part of a sentence. The rule knows the pronouns, connectives and
question words of English, German, French, Spanish, Italian, Dutch and Portuguese. In other languages, only short questions count as follow-up questions.

Source: the classes of elliptic and anaphoric questions in M. Bertomeu et al., "Contextual phenomena and thematic relations in database QA dialogues" (2006).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final

from ragcore.text.words import UNSPACED, content_words
from ragcore.types import Turn

__all__ = ["REPORTED", "context_of", "is_follow_up"]

# The beginning of a user's turn that reports an earlier answer. Such a turn is not a question.
REPORTED: Final = "The user's program reports that this was answered before:"

# A longer question names its own subject, even if it contains a pronoun.
MOST_WORDS: Final = 10
# A question without a question word or a verb is only a part of a sentence, such as "In colour?". Longer texts may be commands: "Explain …".
MOST_FRAGMENT_WORDS: Final = 6
# "How long?", "Wie oft?", "Combien ?": a question word and a measure.
MOST_BARE_WORDS: Final = 2
# The number of a user's turns that are examined. A topic further back is rarely still the topic.
MOST_TURNS: Final = 4
# Only the beginning of an earlier turn is joined in, so that the words of the question itself keep their weight.
MOST_CONTEXT: Final = 300

CONNECTIVES: Final = frozenset(
    """
    and but or also  und aber oder auch  et mais ou aussi  y e o pero también  ma anche  en maar ook  mas também
    """.split()
)
CONNECTIVE_PHRASES: Final = (
    "what about",
    "how about",
    "what if",
    "what else",
    "was ist mit",
    "wie ist es mit",
    "wie sieht es",
    "qu'en est",
    "qu’en est",
    "qué pasa con",
    "qué tal",
    "che ne è",
    "hoe zit het",
    "e se",
)
# These words are left out, because they have another meaning in one of the languages: "one", "there", "es", "sie" (also "you"), "die", "la", "en", "ne", "ce".
POINTING_BACK: Final = frozenset(
    """
    it its they them their theirs those these this ones he she him her his hers else same too instead
    dies diese dieser dieses diesen diesem davon dafür damit dazu darin dabei daran darauf darüber dadurch ihn ihm ihnen deren dessen er auch
    cela ça celui celle ceux celles elle elles ils
    eso esto ese esa esos esas ella ellos ellas
    questo questa questi queste quello quella quelli quelle
    dit deze daarvan daarvoor daarmee
    isso isto esse essa ele ela eles elas
    """.split()
)
# These point back only at the end of a question; elsewhere they are mostly articles or relative pronouns.
POINTING_BACK_AT_THE_END: Final = frozenset("that then das dann es sie dat dan lui alors entonces".split())
# Question words, and the verbs with which questions and requests begin.
OF_SENTENCES: Final = frozenset(
    """
    what which who whom whose when where why how is are am was were do does did can could will would should may must has have had
    list name tell explain describe show give define compare
    was welche welcher welches welchen welchem wer wen wem wann wo wohin woher warum wieso weshalb wie wieviel ist sind bin war waren hat haben
    habe kann können könnte darf dürfen muss müssen soll sollte wird werden gibt
    que quoi quel quelle quels quelles qui quand où pourquoi comment combien est sont peut puis dois faut
    qué cuál cuáles quién quiénes cuándo dónde cómo cuánto cuánta cuántos cuántas es son hay puedo debo tiene
    che cosa quale quali chi quando dove perché come quanto quanta quanti quante è sono posso devo
    wat welke wie wanneer waar waarom hoe hoeveel zijn kan mag moet heeft
    quem qual quais onde como quanto quantos são posso devo tem
    """.split()
)
# Question words of Chinese, Japanese and Korean, which are written without blanks or with endings.
IN_UNSPACED: Final = (
    "什么",
    "甚么",
    "多少",
    "怎",
    "哪",
    "谁",
    "几",
    "吗",
    "何",
    "どの",
    "どう",
    "いつ",
    "いくら",
    "どこ",
    "誰",
    "なぜ",
)
IN_KOREAN: Final = ("무엇", "얼마", "언제", "어디", "어떻", "누구", "왜", "몇")
# After a verb, "that" is a pronoun: "How long does that take?".
_DEMONSTRATIVE: Final = re.compile(r"\b(?:is|was|are|do|does|did|can|will|would) that\b")
_WORD: Final = re.compile(rf"[{UNSPACED}]{{1,2}}|[^\W_{UNSPACED}]+(?:'[a-z]+)?")


def is_follow_up(question: str, /) -> bool:
    """Whether a question depends on the conversation before it.

    Examples:
        >>> is_follow_up("And for my family?"), is_follow_up("How much is it?"), is_follow_up("In colour?"), is_follow_up("How long?")
        (True, True, True, True)
        >>> is_follow_up("What is my deductible?"), is_follow_up("Welche Kündigungsfrist habe ich?")
        (False, False)
    """
    lower = question.strip().lower()
    words = _WORD.findall(lower)
    if len(words) > MOST_WORDS:
        return False
    if len(words) <= MOST_BARE_WORDS or words[0] in CONNECTIVES or lower.startswith(CONNECTIVE_PHRASES):
        return True
    if POINTING_BACK.intersection(words) or words[-1] in POINTING_BACK_AT_THE_END or not content_words(question):
        return True
    if _DEMONSTRATIVE.search(lower):
        return True
    asks = OF_SENTENCES.intersection(words) or any(part in lower for part in (*IN_UNSPACED, *IN_KOREAN))
    return len(words) <= MOST_FRAGMENT_WORDS and not asks


def context_of(question: str, history: Sequence[Turn], /) -> str:
    """Return the text to add to a follow-up question for the search: the latest question of the user that is not itself a follow-up question.

    If all of the last questions are follow-up questions, the text is the latest one. Answers are left out: they are long, and their words would outweigh the
    words of the question.

    Returns:
        At most 300 characters; "" if the question does not depend on the conversation, or if there is none.

    Examples:
        >>> history = [Turn("user", "What is my deductible?"), Turn("assistant", "$500 [1].")]
        >>> context_of("And for my family?", history)
        'What is my deductible?'
        >>> context_of("Is therapy covered?", history)
        ''
    """
    if not is_follow_up(question):
        return ""
    asked = [
        turn.content
        for turn in reversed(history)
        if turn.role == "user" and turn.content.strip() and not turn.content.startswith(REPORTED)
    ][:MOST_TURNS]
    if not asked:
        return ""
    return _without_contrasts(shortened(next((text for text in asked if not is_follow_up(text)), asked[0])), question)


def _without_contrasts(context: str, question: str) -> str:
    """Leave out the words of the context that the question replaces: other numbers, and other words before the same noun.

    "And of the silver plan?" after "What does the gold plan cost in 2025?" no longer asks about the gold plan.
    """
    asked = [_only_word(word) for word in question.split()]
    before = {noun: word for word, noun in itertools.pairwise(asked) if word and noun}
    numbers = any(map(_has_digit, asked))
    kept = []
    written = context.split()
    words = [_only_word(word) for word in written]
    for place, (text, word) in enumerate(zip(written, words, strict=True)):
        noun = words[place + 1] if place + 1 < len(words) else ""
        other_number = numbers and _has_digit(word) and word not in asked
        other_word = bool(word) and word not in asked and noun in before
        if not (other_number or other_word):
            kept.append(text)
    return " ".join(kept)


def _only_word(text: str) -> str:
    """Return the content word of a text without blanks; "" if it has none or several."""
    words = content_words(text)
    return words[0] if len(words) == 1 else ""


def _has_digit(word: str) -> bool:
    return any(map(str.isdigit, word))


def shortened(text: str, /) -> str:
    """Return the beginning of a text in one line, whole words only, at most 300 characters."""
    text = " ".join(text[: 2 * MOST_CONTEXT].split())
    if len(text) <= MOST_CONTEXT:
        return text
    head, blank, _ = text[: MOST_CONTEXT + 1].rpartition(" ")
    return head if blank else text[:MOST_CONTEXT]
