"""Server-sent events that follow the standard, and those of servers that deviate from it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore.wire.events import MAX_EVENT, EventParser
from ragcore.wire.refusal import Undecodable


def parsed(body: bytes, cuts: list[int] | None = None) -> list[tuple[str, bytes]]:
    parser = EventParser()
    events, at, number = [], 0, 0
    cuts = cuts or [max(1, len(body))]
    while at < len(body):
        size = cuts[number % len(cuts)]
        events += parser.feed(body[at : at + size])
        at, number = at + size, number + 1
    return events + parser.end()


CASES: list[tuple[bytes, list[tuple[str, bytes]]]] = [
    (b"data: a\n\ndata: b\n\n", [("", b"a"), ("", b"b")]),
    (b"data: a\r\n\r\ndata: b\r\n\r\n", [("", b"a"), ("", b"b")]),
    (b"data: a\r\rdata: b\r\r", [("", b"a"), ("", b"b")]),
    (b"data:a\n\n", [("", b"a")]),
    (b"data:  a\n\n", [("", b" a")]),  # the standard removes one space; the other belongs to the data
    (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
    (b"data\n\n", [("", b"")]),
    (b": comment\n\n:\n\ndata: a\n\n", [("", b"a")]),
    (b"retry: 3000\nid: 7\nunknown: x\nunknown\ndata: a\n\n", [("", b"a")]),
    (b"event: error\ndata: a\n\ndata: b\n\n", [("error", b"a"), ("", b"b")]),
    (b"event: ping\n\ndata: b\n\n", [("", b"b")]),  # an event without data is dropped, with its type
    (b"\xef\xbb\xbfdata: a\n\n", [("", b"a")]),
    (b"data: a", [("", b"a")]),
    (b"data: a\n", [("", b"a")]),
    (b"\n\n\n\n", []),
    (b"", []),
    (
        b'data: {"a": 1}\ndata: {"b": 2}\n',
        [("", b'{"a": 1}'), ("", b'{"b": 2}')],
    ),  # a server that omits the blank lines
    (b'data: {"a":\ndata: 1}\n\n', [("", b'{"a":\n1}')]),
    (b'error: {"message": "x"}\n\n', [("error", b'{"message": "x"}')]),
    (b'data: {"a": 1}\ndata: [DONE]\n', [("", b'{"a": 1}'), ("", b"[DONE]")]),
    ("data: ü 😀\n\n".encode(), [("", "ü 😀".encode())]),
]


@pytest.mark.parametrize(("body", "events"), CASES)
def test_events_are_parsed_by_the_standard(body: bytes, events: list[tuple[str, bytes]]) -> None:
    assert parsed(body) == events


@given(case=st.sampled_from(CASES), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_cuts_make_no_difference(case: tuple[bytes, list[tuple[str, bytes]]], cuts: list[int]) -> None:
    body, events = case
    assert parsed(body, cuts) == events


@given(
    st.lists(st.binary(min_size=1, max_size=20).filter(lambda data: not set(data) & set(b"\r\n{")), max_size=8),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.integers(1, 7), min_size=1, max_size=5),
)
def test_written_events_are_read_back(datas: list[bytes], ending: bytes, cuts: list[int]) -> None:
    body = b"".join(b"data: " + data + ending + ending for data in datas)
    assert parsed(body, cuts) == [("", data) for data in datas]


def test_the_time_for_an_event_is_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed_bytes = 0
    loads = json.loads

    def counted(data: bytes) -> object:
        nonlocal parsed_bytes
        parsed_bytes += len(data)
        return loads(data)

    monkeypatch.setattr("ragcore.wire.events.json.loads", counted)
    body = b"data:{\n" * 50_000
    parsed(body, [64 * 1024])
    assert parsed_bytes <= 2 * len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"data: " + b"x" * (MAX_EVENT + 1),
        b"data: xx\n" * (MAX_EVENT // 2),
        b":" + b"x" * (MAX_EVENT + 1),
        b"\n" * (3 * MAX_EVENT),
        b":\n" * (2 * MAX_EVENT),
    ],
)
def test_the_size_of_an_event_is_bounded(body: bytes) -> None:
    with pytest.raises(Undecodable, match="larger than 1 MB|without an event"):
        parsed(body, [10_000])
