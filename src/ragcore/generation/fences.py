"""Escapes texts that go into a prompt, so that none of them can begin or end one of ragcore's tags or a turn of the conversation.

A fence keeps a text from becoming part of the prompt's structure. It can't keep a model from believing the text: see explanation/security.md.
"""

from __future__ import annotations

import html
import re
import unicodedata

__all__ = ["fenced", "unfenced"]

# The names of ragcore's tags, and the characters that a parser or a model may take for "<" and "/".
TAGS = ("passage", "passages", "answer", "user", "conversation", "turn")
ANGLE = re.compile("[<\uff1c\ufe64\u2039\u2329\u27e8\u3008\u276e\u27ea\u00ab\u226a\u02c2\u1438]")
SLASHES = str.maketrans("\u2044\u2215\u29f8\u2571", "////")
INVISIBLE = ("Cf", "Mn", "Cc")
# The number of characters after an angle bracket that are checked.
REACH = 60
# Marks that separate turns and roles in chat templates. If a server interprets them inside a text, the text can forge a turn.
CONTROL = re.compile(
    r"<(?=\|[^|<>\s]{1,40}\|>|/?(?:s|bos|eos|start_of_turn|end_of_turn|start_header_id|end_header_id)>|</?SYS>>|/?SYS>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)
ESCAPES = {"<": "&lt;", "[": "&#91;"}


def fenced(text: str, /, *, quote: bool = False) -> str:
    """Escape a text that stands between ragcore's tags. No tag of any name begins or ends in the result.

    Args:
        quote: whether the text stands between quotation marks.
    """
    return unfenced(html.escape(text, quote=quote))


def unfenced(text: str, /) -> str:
    """Escape only the marks of chat templates, and the tags of ragcore, even if similar letters or invisible characters hide them."""
    text = CONTROL.sub(lambda match: ESCAPES[match[0]], text)
    return ANGLE.sub(lambda match: "&lt;" if _names_a_tag(text, match.end()) else match[0], text)


def _names_a_tag(text: str, start: int) -> bool:
    """Whether the text after an angle bracket looks like the name of one of ragcore's tags."""
    word = ""
    for char in text[start : start + REACH]:
        if unicodedata.category(char) in INVISIBLE and not char.isspace():
            continue
        for sign in unicodedata.normalize("NFKC", char.translate(SLASHES)).casefold():
            if not word and (sign.isspace() or sign == "/"):
                continue
            if not (sign.isalnum() or sign == "_"):
                return word in TAGS
            word += sign
            if not any(tag.startswith(word) for tag in TAGS):
                return False
    return word in TAGS
