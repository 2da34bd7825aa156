"""Makes damaged files from seeds, and poisoned files. Each poisoned file attacks a reader in a different way."""

from __future__ import annotations

import gzip
import os
import random
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from tests.support.files import made_files

__all__ = ["damaged_files", "poison"]


def damaged_files(count: int, *, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes of files of all formats with flipped bits, or with pieces cut off, overwritten, moved or inserted."""
    draw = random.Random(seed)
    files = made_files(seed)
    for number in range(count):
        file = files[number % len(files)]
        how = draw.choice(["flip", "flips", "cut", "zeros", "swap", "insert"])
        yield f"{number:05}-{how}-{file.name}", _damaged(bytearray(file.data), how, draw)


def _damaged(data: bytearray, how: str, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    match how:
        case "flip":
            data[at] ^= 1 << draw.randrange(8)
        case "flips":
            for _ in range(draw.randint(2, 200)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        case "cut":
            del data[at:]
        case "zeros":
            data[at : at + draw.randint(1, 500)] = b"\0" * draw.randint(1, 500)
        case "swap":
            first, second = sorted((at, draw.randrange(len(data))))
            data = data[:first] + data[second:] + data[first:second]
        case _:
            data[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 300)))
    return bytes(data)


def poison(folder: Path) -> list[str]:
    """Write 20 poisoned files into a folder and return their names. Each attacks a reader in a different way."""
    bomb = BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * 300_000_000)
    files: dict[str, bytes] = {
        "deep.json": b"[" * 100_000,
        "deep.xml": b"<a>" * 100_000,
        "entities.xml": b'<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
        "broken.pdf": b"%PDF-1.7 and nothing of it",
        "empty.pdf": b"",
        "no-pages.pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "broken.docx": b"PK\x03\x04 and nothing of it",
        "bomb.docx": bomb.getvalue(),
        "old.docx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 2_000,
        "broken.xlsx": bytes(random.Random(1).randrange(256) for _ in range(2_000)),
        "broken.epub": b"PK\x05\x06" + b"\0" * 18,
        "broken.msg": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\xff" * 2_000,
        "binary.txt": bytes(range(32)) * 40,
        "empty.md": b" \n ",
        "binary.csv": bytes(range(256)) * 10,
        "no-text.html": b"<script>" + b"x = 1;" * 1_000 + b"</script>",
        "damaged.jsonl.gz": gzip.compress(b'{"id": "x", "text": "t"}\n')[:20] + b"\0" * 200,
        "line.jsonl": b"{" * 10_000,
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    os.mkfifo(folder / "pipe.txt")
    (folder / "device.txt").symlink_to("/dev/zero")
    return [*files, "pipe.txt", "device.txt"]
