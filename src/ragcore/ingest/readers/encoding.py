"""Decodes text files.

It tries in this order: a byte order mark, UTF-16 without a mark, UTF-8, and detection by charset-normalizer. Without a mark, every result except UTF-8 is
reported as a guess.
Source: WHATWG Encoding, "BOM sniff"; Unicode 16, 23.8.
"""

from __future__ import annotations

import codecs
import re

from ragcore.errors import InvalidInput

__all__ = ["clean", "decode", "storable"]

# UTF-32 comes first, because its mark begins with UTF-16's mark.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Detection reads this many bytes; more bytes do not change its result.
SAMPLE = 256 * 1024
# These encodings are common in documents. Others are not tried, so that a rare one is not detected by chance.
CANDIDATES = [
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "iso8859_2", "iso8859_5", "koi8_r", "cp932", "euc_jp", "gb18030", "big5", "euc_kr",
]  # fmt: skip
# With fewer bytes beyond ASCII, encodings can't be distinguished.
FEW = 24
# UTF-8 with at most one bad byte for each 3 good characters is damaged UTF-8, not another encoding.
FEW_BAD = 3
DAMAGED = "utf-8, with some invalid bytes"
# Control characters that no text contains. A few of them are replaced; if there are many, the file is binary.
CONTROLS = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f]")
MOST_CONTROLS = 0.02


def decode(data: bytes) -> tuple[str, str]:
    """Return the text and the guessed encoding; "" if the encoding was not guessed.

    Raises:
        InvalidInput: the data is binary.
    """
    for mark, name in MARKS:
        if data.startswith(mark):
            return clean(data[len(mark) :].decode(name, "replace")), ""
    wide = _wide(data[:SAMPLE])
    if wide:
        return _checked(data.decode(wide, "replace")), wide
    try:
        return _checked(data.decode("utf-8")), ""
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        bad = text.count("\ufffd")
        # Text in another encoding has hardly any valid UTF-8 characters.
        if bad * FEW_BAD <= sum(char > "\x7f" for char in text) - bad:
            return _checked(text), DAMAGED
    if data.count(0) > MOST_CONTROLS * len(data):
        raise InvalidInput("it is binary, not text")
    data = data.replace(b"\0", b" ")  # the NULs are damage or padding
    name = _detected(data[:SAMPLE])
    return _checked(data.decode(name, "replace")), name


def _detected(sample: bytes) -> str:
    """Return the most likely encoding. With too few bytes beyond ASCII for a detection, return windows-1252, the web's default."""
    beyond = sum(byte > 0x7F for byte in sample)
    if beyond < FEW and beyond < 0.4 * len(sample):
        return "cp1252"
    # Imported here, because few files need it, and the import takes 10 ms. Files are read outside of the event loop.
    import charset_normalizer

    best = charset_normalizer.from_bytes(sample, cp_isolation=CANDIDATES).best()
    return "cp1252" if best is None else best.encoding


def clean(text: str) -> str:
    """Replace control characters with spaces, and line ends with "\\n"."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return CONTROLS.sub(" ", text)


def storable(text: str) -> str:
    """Replace characters that databases refuse in text: NUL with a space, and lone surrogates, which JSON may contain, with U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", " ")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _checked(text: str) -> str:
    sample = text[:SAMPLE]
    if len(CONTROLS.findall(sample)) > MOST_CONTROLS * max(1, len(sample)):
        raise InvalidInput("it is binary, not text")
    return clean(text)


def _wide(data: bytes) -> str:
    """Return the encoding of UTF-16 text without a mark, with its byte order; "" for other data. In UTF-16, half of the bytes of Latin text are 0."""
    if len(data) < 4:
        return ""
    even, odd = data[0::2].count(0) / (len(data) / 2), data[1::2].count(0) / (len(data) / 2)
    if odd > 0.4 and even < 0.05:
        return "utf-16-le"
    if even > 0.4 and odd < 0.05:
        return "utf-16-be"
    return ""
