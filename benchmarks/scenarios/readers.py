"""Measures the text that readers find in 60 generated files: words, word pairs, whole rows, right pages, boilerplate. Compares MB/s with other readers."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

import anyio
import anyio.lowlevel
from tests.support.damage import poison
from tests.support.files import MadeFile, made_files

from ragcore import Document, estimate_tokens
from ragcore.ingest import read
from ragcore.ingest.chunking import cut
from ragcore.ingest.readers import reader_of
from ragcore.loadtest.figures import Figures, Table, say
from ragcore.operating.memory import MEBI, read_memory

WORD = re.compile(r"\w+")
OFFICE = (".docx", ".xlsx", ".pptx", ".odt", ".rtf", ".epub", ".eml")
LEAST = {
    ("pdf", "words_found"): 0.95,
    ("pdf", "pairs_found"): 0.85,
    ("html", "words_found"): 0.98,
    ("html", "pairs_found"): 0.95,
    ("office", "words_found"): 0.98,
}
CHUNK_TOKENS = 60
# Largest ratio of the wall time with 20 poisoned files to the time without them.
MOST_RATIO = 1.3
MOST_GAP_MS = 100.0
Way = Callable[[MadeFile], str]


def run(*, quick: bool) -> Figures:
    """Read the files of three seeds, or of one with --quick. Each reader reads each file that it supports."""
    figures = Figures()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(1 if quick else 3):
        files = made_files(seed)
        say(f"seed {seed}: {len(files)} files, {sum(len(file.data) for file in files) / 1e6:.1f} MB …")
        for file in files:
            for name, value in _judged(file).items():
                found[_format(file)][name].append(value)
    for kind, measures in sorted(found.items()):
        for name, values in measures.items():
            figures.values[f"{kind}.{name}"] = mean = statistics.fmean(values)
            least = LEAST.get((kind, name))
            if least is not None:
                figures.expect(mean >= least, f"{kind}.{name} >= {least}")
    figures.tables.append(_beside(made_files(), repeats=1 if quick else 5))
    figures.values["through_processes_mb_s"] = anyio.run(_through_processes, made_files() * (1 if quick else 4))
    say("many files, with and without poisoned ones …")
    ratio, memory = anyio.run(_poisoned, 200 if quick else 980)
    figures.values["poisoned_ratio"] = ratio
    figures.values["poisoned_memory_mb"] = memory
    figures.expect(ratio <= MOST_RATIO, f"poisoned_ratio <= {MOST_RATIO}")
    say("the event loop's gaps …")
    figures.values["longest_gap_ms"] = gap = 1000 * anyio.run(_longest_gap, quick)
    figures.expect(gap < MOST_GAP_MS, f"longest_gap_ms < {MOST_GAP_MS}")
    return figures


def _format(file: MadeFile) -> str:
    suffix = PurePath(file.name).suffix
    return "office" if suffix in OFFICE else {".pdf": "pdf", ".html": "html"}.get(suffix, "text")


def _judged(file: MadeFile) -> dict[str, float]:
    reader = reader_of(PurePath(file.name))
    assert reader is not None
    text = reader(file.data).text
    wanted, got = _words(" ".join(file.texts)), _words(text)
    judged = {
        "words_found": _share(Counter(wanted), Counter(got)),
        "pairs_found": _share(_pairs(file.texts), Counter(pairwise(got))),
    }
    if file.rows:
        lines = text.splitlines()
        judged["rows_whole"] = statistics.fmean(
            any(all(cell in line for cell in row) for line in lines) for row in file.rows
        )
    if file.places:
        judged["pages_right"] = _places_right(file, text)
    if file.boilerplate:
        unwanted = [word for noise in file.boilerplate for word in _words(noise)]
        extra = Counter(got) - Counter(wanted)
        judged["boilerplate_share"] = sum((Counter(unwanted) & extra).values()) / len(unwanted)
    return judged


def _words(text: str) -> list[str]:
    return [word.lower() for word in WORD.findall(text)]


def _pairs(texts: Sequence[str]) -> Counter[tuple[str, str]]:
    """Return pairs of neighbouring words within a sentence."""
    return Counter(pair for text in texts for pair in pairwise(_words(text)))


def _share(wanted: Counter[Any], got: Counter[Any]) -> float:
    return sum((wanted & got).values()) / sum(wanted.values()) if wanted else 1.0


def _places_right(file: MadeFile, text: str) -> float:
    """Return the share of sentences whose chunk names the right page, sheet or heading."""
    made = cut(Document("d", text), count_tokens=estimate_tokens, chunk_tokens=CHUNK_TOKENS, overlap_tokens=0)

    def plain(some: str) -> str:
        return " ".join(_words(some))

    right = []
    for sentence, place in file.places.items():
        begins = plain(sentence)[:40]
        holding = [chunk for chunk in made.chunks if begins in plain(chunk.text)]
        key = "page" if isinstance(place, int) else "heading"
        right.append(any(chunk.metadata.get(key) == place for chunk in holding))
    return statistics.fmean(right)


def _beside(files: Sequence[MadeFile], *, repeats: int) -> Table:
    """Return words found, pairs found and MB/s of each reader for its formats. Readers run in turn; the fastest run counts."""
    rows: list[dict[str, Any]] = []
    ways = _ways()
    for kind in ("pdf", "html", "office"):
        some = [file for file in files if _format(file) == kind]
        size = sum(len(file.data) for file in some) / 1e6
        seconds: dict[str, list[float]] = defaultdict(list)
        scores: dict[str, tuple[float, float, int]] = {}
        for _ in range(repeats):
            for name, (formats, way) in ways.items():
                if kind not in formats:
                    continue
                say(f"{kind}: {name} …")
                words, pairs, failed, spent = [], [], 0, 0.0
                for file in some:
                    began = time.perf_counter()
                    try:
                        text = way(file)
                    except Exception:  # if another reader raises an error, count it as a reader that found nothing
                        text, failed = "", failed + 1
                    spent += time.perf_counter() - began
                    got = _words(text)
                    words.append(_share(Counter(_words(" ".join(file.texts))), Counter(got)))
                    pairs.append(_share(_pairs(file.texts), Counter(pairwise(got))))
                seconds[name].append(spent)
                scores[name] = statistics.fmean(words), statistics.fmean(pairs), failed
        for name, (word_share, pair_share, failed) in scores.items():
            rows.append(
                {
                    "format": kind,
                    "reader": name,
                    "words_found": round(word_share, 3),
                    "pairs_found": round(pair_share, 3),
                    "failed": failed,
                    "MB/s": round(size / min(seconds[name]), 1),
                }
            )
    return Table("Compared with other readers", rows)


def _ways() -> dict[str, tuple[set[str], Way]]:
    def ours(file: MadeFile) -> str:
        reader = reader_of(PurePath(file.name))
        assert reader is not None
        return reader(file.data).text

    ways: dict[str, tuple[set[str], Way]] = {"ragcore": ({"pdf", "html", "office"}, ours)}
    if importlib.util.find_spec("pypdf"):
        import pypdf

        ways["pypdf"] = (
            {"pdf"},
            lambda file: "\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(file.data)).pages),
        )
    if shutil.which("pdftotext"):
        ways["pdftotext"] = ({"pdf"}, _pdftotext)
    if importlib.util.find_spec("markitdown"):
        from markitdown import MarkItDown

        converter = MarkItDown()

        def convert(file: MadeFile) -> str:
            stream = io.BytesIO(file.data)
            return str(converter.convert_stream(stream, file_extension=PurePath(file.name).suffix).text_content)

        ways["markitdown"] = ({"pdf", "html", "office"}, convert)
    if importlib.util.find_spec("trafilatura"):
        import trafilatura

        ways["trafilatura"] = (
            {"html"},
            lambda file: trafilatura.extract(file.data, output_format="markdown", include_tables=True) or "",
        )
    return ways


def _pdftotext(file: MadeFile) -> str:
    with tempfile.NamedTemporaryFile(suffix=".pdf") as written:
        written.write(file.data)
        written.flush()
        done = subprocess.run(["pdftotext", "-q", "-enc", "UTF-8", written.name, "-"], capture_output=True, check=True)
    return done.stdout.decode()


async def _through_processes(files: Sequence[MadeFile]) -> float:
    """Return the MB/s of `ingest.read` over a folder, with its worker processes already started."""
    with tempfile.TemporaryDirectory() as folder:
        for number, file in enumerate(files):
            (Path(folder) / f"{number}-{file.name}").write_bytes(file.data)
        began = time.perf_counter()
        count = 0
        async for document in read(folder):
            assert isinstance(document, Document), document
            count += 1
        seconds = time.perf_counter() - began
    assert count == len(files)
    return sum(len(file.data) for file in files) / 1e6 / seconds


async def _poisoned(count: int) -> tuple[float, float]:
    """Return the ratio of the wall time with 20 poisoned files to the time without them, and the growth of this process in MiB."""
    files = made_files(3)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            file = files[number % len(files)]
            (Path(folder) / f"{number:04}-{file.name}").write_bytes(file.data)
        await _timed(folder, count)
        before = read_memory().resident
        without = statistics.median([await _timed(folder, count) for _ in range(3)])
        poison(Path(folder))
        with_them = statistics.median([await _timed(folder, count) for _ in range(3)])
        return with_them / without, (read_memory().resident - before) / MEBI


async def _timed(folder: str, count: int) -> float:
    began = time.perf_counter()
    found = [isinstance(one, Document) async for one in read(folder, read_timeout=5)]
    assert sum(found) == count
    return time.perf_counter() - began


async def _longest_gap(quick: bool) -> float:
    """Return the longest time between two turns of the event loop while reading 20 MB of HTML in one line and a PDF of 3,000 pages."""
    with tempfile.TemporaryDirectory() as folder:
        sentence = "<p>The deductible is $1,500 a year for each member of the family.</p>"
        (Path(folder) / "line.html").write_text(f"<main>{sentence * (20_000_000 // len(sentence))}</main>")
        (Path(folder) / "pages.pdf").write_bytes(_pages(300 if quick else 3_000))
        gaps: list[float] = []

        async def watch() -> None:
            last = time.perf_counter()
            while True:
                await anyio.lowlevel.checkpoint()
                now = time.perf_counter()
                gaps.append(now - last)
                last = now

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            found = [isinstance(one, Document) async for one in read(folder)]
            group.cancel_scope.cancel()
        assert found == [True, True]
    return max(gaps)


def _pages(count: int) -> bytes:
    from fpdf import FPDF

    made = FPDF()
    for number in range(count):
        made.add_page()
        made.set_font("Helvetica", "", 10)
        made.multi_cell(
            0, text=f"On page {number} the deductible is $1,500 a year for each member of the family. " * 20
        )
    return bytes(made.output())
