"""Texts of others in a prompt: in none of them can a fence of ours, or a turn of the conversation, begin or end.

What a fence can't do is in explanation/security.md: it keeps a text from becoming a part of the prompt's structure, not a model from believing it.
"""

from __future__ import annotations

import html
import re
import unicodedata

__all__ = ["fenced", "unfenced"]

# The names of our tags, and what a reader, or a model, may take for the signs around them.
TAGS = ("passage", "passages", "answer", "user")
ANGLE = re.compile("[<\uff1c\ufe64\u2039\u2329\u27e8\u3008\u276e\u27ea\u00ab\u226a\u02c2\u1438]")
SLASHES = str.maketrans("\u2044\u2215\u29f8\u2571", "////")
INVISIBLE = ("Cf", "Mn", "Cc")
# Characters behind an angle bracket that are looked at.
REACH = 60
# Marks with which chat templates tell turns and roles apart. A server that reads them in a text, too, would begin a turn of somebody else's there.
CONTROL = re.compile(
    r"<(?=\|[^|<>\s]{1,40}\|>|/?(?:s|bos|eos|start_of_turn|end_of_turn|start_header_id|end_header_id)>|</?SYS>>|/?SYS>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)
ESCAPES = {"<": "&lt;", "[": "&#91;"}


def fenced(text: str, /, *, quote: bool = False) -> str:
    """A text that stands between tags of ours: no tag of any name begins or ends in it.

    Args:
        quote: it stands between quotation marks.
    """
    return unfenced(html.escape(text, quote=quote))


def unfenced(text: str, /) -> str:
    """A text as it was written, in which no tag of ours begins or ends, in whichever letters and with whatever invisible between them."""
    text = CONTROL.sub(lambda match: ESCAPES[match[0]], text)
    return ANGLE.sub(lambda match: "&lt;" if _names_a_tag(text, match.end()) else match[0], text)


def _names_a_tag(text: str, start: int) -> bool:
    """Whether what follows an angle bracket looks like the name of one of our tags."""
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
