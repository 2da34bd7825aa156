"""Checks of questions, tenants, ids and options, before anything is sent."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args
from uuid import UUID

from ragcore.errors import InvalidInput
from ragcore.types import Fusion, Mode, Turn
from ragcore.types.documents import check_text

__all__ = [
    "MAX_TOP_K",
    "check_diversity",
    "check_fusion",
    "check_history",
    "check_ids",
    "check_instructions",
    "check_mode",
    "check_neighbours",
    "check_question",
    "check_relative_threshold",
    "check_shared",
    "check_tenant",
    "check_threshold",
    "check_timeout",
    "check_top_k",
]

MAX_QUESTION = 32_000
MAX_TENANT = 256
MAX_TOP_K = 1_000
MOST_SHARED = 16
MOST_NEIGHBOURS = 10
# Letters and signs that are invisible: Hangul fillers, the empty braille cell.
FILLERS = "\u115f\u1160\u3164\uffa0\u2800"
LONGEST_TIMEOUT = 10 * 365 * 86_400.0  # ten years; with larger numbers, the clocks of event loops lose resolution

# The limit of OpenAI's protocol.
MOST_STOPS = 4
MOST_STOP_CHARACTERS = 256
MOST_TOKENS = 1_000_000


def check_question(question: object, /, *, what: str = "the question") -> str:
    """Return the question unchanged if it is valid.

    Args:
        what: its name in errors.

    Raises:
        InvalidInput: the question is not a str, is blank, has over 32,000 characters, or contains a NUL character or a lone surrogate.
    """
    if not isinstance(question, str):
        raise InvalidInput(f"{what} must be a str, not {type(question).__name__}")
    if not question.strip():
        raise InvalidInput(f"{what} is empty: ask something")
    if len(question) > MAX_QUESTION:
        raise InvalidInput(
            f"{what} has {len(question):,} characters (limit {MAX_QUESTION:,}): shorten it, or add the long text as a document",
        )
    check_text(what, question)
    return question


def check_tenant(tenant: object, /) -> str:
    """Return the tenant's name as a str. `UUID(x)` and `str(UUID(x))` are the same tenant.

    Raises:
        InvalidInput: the tenant is neither a str nor a UUID, has no visible character, has over 256 characters, or contains a NUL character or a
            lone surrogate.
    """
    if isinstance(tenant, UUID):
        return str(tenant)
    if not isinstance(tenant, str):
        raise InvalidInput(f"the tenant must be a str or a UUID, not {type(tenant).__name__}")
    if not any(map(_is_visible, tenant)):
        raise InvalidInput("the tenant is blank: pass the name of the tenant that owns the documents")
    if len(tenant) > MAX_TENANT:
        raise InvalidInput(f"the tenant's name has {len(tenant):,} characters (limit {MAX_TENANT}): use a shorter name")
    check_text("the tenant's name", tenant)
    return tenant


def _is_visible(char: str) -> bool:
    """Return whether a character is visible: not white space, a control or format character, a combining mark, or a filler.

    Source: Unicode Character Database, general categories Z, C and M, and Default_Ignorable_Code_Point.
    """
    return unicodedata.category(char)[0] not in "ZCM" and char not in FILLERS


def check_ids(document_ids: Iterable[str], /) -> list[str]:
    """Return document ids as a list without duplicates.

    Raises:
        InvalidInput: `document_ids` is a single str or not iterable, or an id is not a str.
    """
    if isinstance(document_ids, str | bytes) or not isinstance(document_ids, Iterable):
        raise InvalidInput(
            f"document_ids must be a list of ids, not one {type(document_ids).__name__}: put it into a list"
        )
    return list(dict.fromkeys(check_text("a document's id", document_id) for document_id in document_ids))


def check_timeout(timeout: float | None, /, *, name: str = "timeout") -> float | None:
    """Return the timeout in seconds, or None. It must be positive and finite."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not (0 < timeout < 1e300):
        raise InvalidInput(f"{name} is {timeout!r:.40}: it must be a positive, finite number of seconds")
    return min(float(timeout), LONGEST_TIMEOUT)


def check_instructions(instructions: object, /) -> str:
    """Return the instructions if they are valid text."""
    return check_text("instructions", instructions)


def check_max_tokens(max_tokens: int | None, /) -> int | None:
    """Return the limit, or None. It must be a whole number, at least 1."""
    if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1):
        raise InvalidInput(f"max_tokens is {max_tokens!r}: it must be a whole number, at least 1")
    if max_tokens is not None and max_tokens > MOST_TOKENS:
        raise InvalidInput(f"max_tokens is too large; it must be at most {MOST_TOKENS:,}")
    return max_tokens


def check_temperature(temperature: float | None, /) -> float | None:
    """Return the temperature, or None. It must be a number from 0 to 2."""
    if temperature is not None and (
        isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= 2
    ):
        raise InvalidInput(f"temperature is {temperature!r}: it must be a number from 0 to 2")
    return temperature


def check_stop(stop: str | Sequence[str] | None, /) -> tuple[str, ...]:
    """Return the stop texts as a tuple. `stop` is one text, or up to four."""
    given = () if stop is None else (stop,) if isinstance(stop, str) else stop
    if (
        not isinstance(given, Sequence)
        or len(given) > MOST_STOPS
        or not all(isinstance(one, str) and one for one in given)
    ):
        raise InvalidInput(f"stop must be a text or up to {MOST_STOPS} texts, none of them empty")
    if any(len(one) > MOST_STOP_CHARACTERS for one in given):
        raise InvalidInput(f"a stop text has more than {MOST_STOP_CHARACTERS} characters: shorten it")
    return tuple(given)


def check_top_k(top_k: int, /) -> int:
    """Return `top_k`. It must be a whole number from 1 to 1,000."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or not 1 <= top_k <= MAX_TOP_K:
        raise InvalidInput(f"top_k is {top_k!r}: it must be a whole number from 1 to {MAX_TOP_K:,}")
    return top_k


def check_threshold(score_threshold: float, /) -> float:
    """Return the threshold. It must be a cosine similarity in [-1, 1]. False becomes -1, which means that there is no threshold."""
    if score_threshold is False:  # without this branch, False would count as 0.0
        return -1.0
    if (
        isinstance(score_threshold, bool)
        or not isinstance(score_threshold, int | float)
        or not -1 <= score_threshold <= 1
    ):
        raise InvalidInput(
            f"score_threshold is {score_threshold!r}: it must be a cosine similarity in [-1, 1], or False for no threshold"
        )
    return float(score_threshold)


def check_relative_threshold(relative_threshold: float, /) -> float | None:
    """Return the share of the best score, from 0 to 1. False and 0 become None: no relative threshold."""
    if relative_threshold is False:
        return None
    if (
        isinstance(relative_threshold, bool)
        or not isinstance(relative_threshold, int | float)
        or not 0 <= relative_threshold <= 1
    ):
        raise InvalidInput(
            f"relative_threshold is {relative_threshold!r}: it must be a share of the best score from 0 to 1, or False for none"
        )
    return float(relative_threshold) or None


def check_mode(mode: str, /) -> Mode:
    """Return the mode if it is known."""
    for known in get_args(Mode):
        if mode == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    raise InvalidInput(f"mode is {mode!r}: it must be one of {', '.join(get_args(Mode))}")


def check_fusion(fusion: str, /) -> Fusion:
    """Return `fusion` if it is known."""
    for known in get_args(Fusion):
        if fusion == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    raise InvalidInput(f"fusion is {fusion!r}: it must be one of {', '.join(get_args(Fusion))}")


def check_shared(shared: Iterable[object], /) -> tuple[str, ...]:
    """Return the names of shared tenants, each once.

    Raises:
        InvalidInput: it is one str or an iterator instead of a sequence, a name is invalid, or there are over 16 names.
    """
    # An iterator can be read only once, and a client plans a search more than once.
    if isinstance(shared, str | bytes | Iterator) or not isinstance(shared, Iterable):
        raise InvalidInput(f"shared is {shared!r}: it must be a sequence of tenants, such as ('plans-2026',)")
    names = tuple(dict.fromkeys(map(check_tenant, shared)))
    if len(names) > MOST_SHARED:
        raise InvalidInput(f"shared has {len(names)} tenants (limit {MOST_SHARED})")
    return names


def check_diversity(diversity: float, /) -> float:
    """Return `diversity`. It must be a number from 0 to 1."""
    if isinstance(diversity, bool) or not isinstance(diversity, int | float) or not 0 <= diversity <= 1:
        raise InvalidInput(f"diversity is {diversity!r}: it must be a number from 0 to 1")
    return float(diversity)


def check_neighbours(neighbours: int, /) -> int:
    """Return `neighbours`. It must be a whole number from 0 to 10."""
    if isinstance(neighbours, bool) or not isinstance(neighbours, int) or not 0 <= neighbours <= MOST_NEIGHBOURS:
        raise InvalidInput(f"neighbours is {neighbours!r}: it must be a whole number from 0 to {MOST_NEIGHBOURS}")
    return neighbours


def check_history(history: Sequence[Turn | Mapping[str, object]], /) -> tuple[Turn, ...]:
    """Return the history as turns. Mappings with "role" and "content" become turns; other keys are ignored.

    Raises:
        InvalidInput: a role is neither "user" nor "assistant", or a content is not text.
    """
    if not isinstance(history, Sequence) or isinstance(history, str | bytes):
        raise InvalidInput(f"history must be a sequence of turns, not one {type(history).__name__}")
    return tuple(_turn(number, turn) for number, turn in enumerate(history))


def _turn(number: int, turn: Turn | Mapping[str, object]) -> Turn:
    if isinstance(turn, Turn):
        role, content = turn.role, turn.content
    elif isinstance(turn, Mapping):
        role, content = turn.get("role"), turn.get("content")  # type: ignore[assignment]  # checked below
    else:
        raise InvalidInput(f"history[{number}] must be a Turn or a mapping, not {type(turn).__name__}")
    if role not in ("user", "assistant"):
        raise InvalidInput(
            f"history[{number}] has the role {str(role)[:40]!r}; it must be 'user' or 'assistant': pass system messages as instructions="
        )
    if not isinstance(content, str):
        raise InvalidInput(f"history[{number}] has no text as its content: it must be a str")
    check_text(f"history[{number}]", content)
    return Turn(role, content)
