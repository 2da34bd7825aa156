"""Text files in common encodings."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragcore import InvalidInput
from ragcore.ingest.readers.encoding import decode

GERMAN = (
    "Die Zuzahlung für einen Besuch beträgt 40 €. Größere Beträge müssen vorher genehmigt werden; Sie können zurückgehen. "
    * 4
)
RUSSIAN = (
    "Стоимость визита к специалисту составляет сорок рублей. Страховая компания оплачивает остальное в течение месяца. "
    * 3
)
JAPANESE = "専門医の診察料は四千円です。保険会社が残りを一か月以内に支払います。免責金額は年間十五万円です。" * 3


@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_byte_order_mark_decides_the_encoding(mark: bytes, name: str) -> None:
    for text in (GERMAN, JAPANESE, "A"):
        assert decode(mark + text.encode(name)) == (text, "")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (GERMAN, "cp1252"),
        ("déjà vu", "latin-1"),
        ("café", "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        ("A visit costs $40. " * 20, "utf-16-le"),
        ("A visit costs $40. " * 20, "utf-16-be"),
    ],
)
def test_without_a_mark_the_encoding_is_guessed_and_reported(text: str, name: str) -> None:
    found, guessed = decode(text.encode(name))
    assert found == text
    assert guessed


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=200))
def test_utf_8_is_not_reported_as_a_guess(text: str) -> None:
    assert decode(text.encode()) == (text.removeprefix("\ufeff"), "")


@pytest.mark.parametrize(
    "data", [bytes(range(32)) * 40, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1", b"\x7fELF\2\1\1\0" + bytes(200)]
)
def test_binary_data_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="binary"):
        decode(data)


@given(st.binary(max_size=2_000))
def test_any_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        text, _ = decode(data)
    except InvalidInput:
        return
    assert "\0" not in text
    text.encode()
