"""Patterns for paths: `*` and `?` stand for characters of one name, `[…]` for one of several characters, `**` for any folders."""

from __future__ import annotations

import re

from ragcore.errors import InvalidInput

__all__ = ["WILDCARDS", "compiled"]

WILDCARDS = re.compile(r"[*?\[]")


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the pattern as a regular expression for paths with "/"; without a pattern, all paths match.

    Raises:
        InvalidInput: the pattern has an invalid set of characters, such as `[z-a]`.
    """
    if not pattern:
        return re.compile(r".*", re.DOTALL)
    parts = []
    segments = pattern.split("/")
    for number, segment in enumerate(segments):
        is_last = number == len(segments) - 1
        if segment == "**":
            parts.append(r".*" if is_last else r"(?:[^/]+/)*")
        else:
            parts.append(_segment(segment) + ("" if is_last else "/"))
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise InvalidInput(
            f"the pattern {pattern[:200]!r} is invalid ({error.msg}): check the characters in [ ]"
        ) from None


def _segment(segment: str) -> str:
    made, at = "", 0
    while at < len(segment):
        char = segment[at]
        end = segment.find("]", at + 2) if char == "[" else -1
        if char == "*":
            made += r"[^/]*"
        elif char == "?":
            made += r"[^/]"
        elif end > 0:
            inner = segment[at + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            made += "[" + ("^/" + inner[1:] if inner[0] == "!" else inner.replace("^", r"\^")) + "]"
            at = end
        else:
            made += re.escape(char)
        at += 1
    return made
