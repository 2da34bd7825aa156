"""Reads server-sent events, with limits on the stream, on each event, and on the time that parsing blocks the event loop.

Source: WHATWG HTML, "Server-sent events", 9.2.5 and 9.2.6: lines end with LF, CR or both; `data` lines of an event are joined; a blank line ends it; a
byte order mark, comments and unknown fields are skipped. The last event may lack its blank line, as many servers omit it.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

import anyio

from ragcore.wire.bodies import Response, pieces
from ragcore.wire.refusal import ServerError, Undecodable, read_refusal
from ragcore.wire.unsaid import NOTHING, Unsaid

__all__ = ["DONE", "DRAIN_SECONDS", "EventParser", "read_events"]

MAX_EVENT = 1024 * 1024
# The largest number of bytes of comments and blank lines between two events. A keep-alive comment has only a few bytes.
MAX_BETWEEN_EVENTS = 1024 * 1024
# The largest size of a stream in bytes. This is enough for an answer of 200,000 characters if each has 300 bytes around it.
MAX_STREAM = 64 * 1024 * 1024
# Represents the end marker "data: [DONE]".
DONE: Mapping[str, Any] = {}

# Seconds to wait for the end of the body, so that its connection can be reused.
DRAIN_SECONDS = 0.05
BLANK_LINES = re.compile(rb"\n{3,}")
BOM = b"\xef\xbb\xbf"


class EventParser:
    """Parses bytes into (type, data) events. The pieces may be cut anywhere.

    Examples:
        >>> parser = EventParser()
        >>> parser.feed(b"data: on"), parser.feed(b"e\\r\\n\\r\\ndata: two"), parser.end()
        ([], [('', b'one')], [('', b'two')])
    """

    def __init__(self) -> None:
        self._pending = bytearray()  # the beginning of an unfinished line
        self._after_cr = False
        self._begun = False
        self._type = ""
        self._data: list[bytes] = []
        self._size = 0
        self._since_event = 0

    def feed(self, piece: bytes, /) -> list[tuple[str, bytes]]:
        """Return the events that end in this piece.

        Raises:
            Undecodable: an event is larger than 1 MB, or 2 MB came without an event.
        """
        self._since_event += len(piece)
        if self._since_event > MAX_BETWEEN_EVENTS + MAX_EVENT:
            raise Undecodable("its stream sent 2 MB without an event")
        if self._after_cr and piece[:1] == b"\n":  # the second half of a CRLF that was cut in two
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return []
        self._after_cr = piece[-1:] == b"\r"
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if b"\n\n\n" in piece:
            piece = BLANK_LINES.sub(b"\n\n", piece)
        if b"\n" not in piece:
            self._pending += piece
            if len(self._pending) + self._size > MAX_EVENT:
                raise Undecodable("an event of its stream is larger than 1 MB")
            return []
        lines = piece.split(b"\n")
        if self._pending:
            lines[0] = bytes(self._pending) + lines[0]
        self._pending = bytearray(lines.pop())
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(BOM)
        events: list[tuple[str, bytes]] = []
        for line in lines:
            if line:
                self._take(line, events)
            elif self._data:
                events.append(self._dispatch())
            else:
                self._type = ""
        return events

    def end(self) -> list[tuple[str, bytes]]:
        """Return the last event, if no blank line followed it."""
        events: list[tuple[str, bytes]] = []
        line = bytes(self._pending)
        self._pending.clear()
        if line:
            self._take(line if self._begun else line.removeprefix(BOM), events)
        if self._data:
            events.append(self._dispatch())
        return events

    def _take(self, line: bytes, events: list[tuple[str, bytes]]) -> None:
        if line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
        else:
            name, _, value = line.partition(b":")
            if name == b"event":
                self._type = value.strip().decode("utf-8", "replace")[:80]
            if name == b"error":  # llama.cpp sends this non-standard field
                self._type = "error"
            elif name != b"data":
                return
            value = value.removeprefix(b" ")
        # Check this only for the first line, so that the time stays linear in the size of an event.
        if len(self._data) == 1 and (value[:1] == b"{" or value.strip() == b"[DONE]") and _is_json(self._data[0]):
            events.append(self._dispatch())  # the server omitted the blank line
        self._data.append(value)
        self._size += len(value) + 1
        if self._size > MAX_EVENT:
            raise Undecodable("an event of its stream is larger than 1 MB")

    def _dispatch(self) -> tuple[str, bytes]:
        event = self._type, self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._type, self._data, self._size, self._since_event = "", [], 0, 0
        return event


async def read_events(
    response: Response, /, *, unsaid: Unsaid = NOTHING
) -> AsyncGenerator[list[Mapping[str, Any]], None]:
    """Yield the stream's events as JSON objects, in lists of events that arrive together. `DONE` represents "[DONE]".

    If the server sends plain JSON instead of a stream, it is yielded as one event, with its message as the `delta`.

    Args:
        unsaid: hides secrets and quotations in error messages.

    Raises:
        Undecodable: an event is too large or not a JSON object, or the response is not a stream.
        ServerError: an event reports an error.
    """
    parser = EventParser()
    seen = False
    kind = response.headers.get("content-type", "").lower()
    async with aclosing(pieces(response, most=MAX_STREAM)) as body:
        async for piece in body:
            if not seen:
                begun = piece.removeprefix(BOM).lstrip()
                if not begun:
                    continue
                seen = True
                if (begun[:1] in (b"{", b"[", b"<") and "event-stream" not in kind) or begun[:1] in (b"{", b"<"):
                    yield await _instead_of_a_stream(piece, body, kind, unsaid)
                    return
            batch, failure = _decoded(parser.feed(piece), unsaid)
            if batch:
                yield batch
            if failure is not None:
                # Read the body to its end, so that the connection can be reused.
                with anyio.move_on_after(DRAIN_SECONDS):
                    async for _ in body:
                        pass
                raise failure
    batch, failure = _decoded(parser.end(), unsaid)
    if batch:
        yield batch
    if failure is not None:
        raise failure


async def _instead_of_a_stream(
    first: bytes, body: AsyncGenerator[bytes, None], kind: str, unsaid: Unsaid
) -> list[Mapping[str, Any]]:
    read = bytearray(first)
    async for piece in body:
        read += piece
        if len(read) > MAX_EVENT:
            raise Undecodable("its answer is larger than 1 MB")
    if read.lstrip()[:1] == b"<" or "html" in kind:
        raise Undecodable("its answer is not a stream but an HTML page: check the base URL")
    try:
        answer = json.loads(bytes(read).removeprefix(BOM).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        # Don't quote the body: it may be the beginning of an answer.
        raise Undecodable(f"its answer, {len(read):,} bytes of {kind or 'no type'}, is not JSON") from None
    refusal = read_refusal(answer, status=None, unsaid=unsaid, in_answer=True)
    if refusal is not None:
        raise refusal
    if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
        raise Undecodable("its answer has no choices")
    for choice in answer["choices"]:
        if isinstance(choice, dict) and isinstance(choice.get("message"), dict):
            choice["delta"] = choice["message"]
    return [answer, DONE]


def _decoded(events: Iterable[tuple[str, bytes]], unsaid: Unsaid) -> tuple[list[Mapping[str, Any]], Exception | None]:
    """Return the events up to the first failure, and the failure."""
    batch: list[Mapping[str, Any]] = []
    for kind, data in events:
        try:
            if data.strip():
                batch.append(_event(kind, data, unsaid))
        except (ServerError, Undecodable) as failure:
            return batch, failure
    return batch, None


def _event(type: str, data: bytes, unsaid: Unsaid) -> Mapping[str, Any]:
    if data.strip() == b"[DONE]":
        return DONE
    try:
        event = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        if type == "error":
            raise _reported_error(data, unsaid) from None
        raise Undecodable("an event of its stream is not JSON") from None
    if type == "error":
        raise _reported_error(event, unsaid)
    if not isinstance(event, dict):
        raise Undecodable("an event of its stream is not an object")
    if event.get("error") or (event.get("object") == "error" and "choices" not in event):
        raise _reported_error(event, unsaid)
    return event


def _reported_error(event: object, unsaid: Unsaid) -> Exception:
    refusal = read_refusal(event, status=None, unsaid=unsaid, in_answer=True)
    return refusal or ServerError("", status=None, in_answer=True)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True
