"""Labels as people save them: byte order marks, semicolons, ids with spaces; messages name the file, the line and the column."""

from __future__ import annotations

from pathlib import Path

import pytest

from ragcore import InvalidInput, explore
from ragcore.explore import Labelled


@pytest.mark.parametrize(
    "text",
    [
        "question,relevant,tags\nWhat is it?,a.md b.md,money\n",
        "\ufeffquestion,relevant,tags\r\nWhat is it?,a.md b.md,money\r\n",
        "\ufeffquestion;relevant;tags\nWhat is it?;a.md|b.md;money\n",
        " question \t relevant \t tags \nWhat is it?\ta.md b.md\tmoney\n",
    ],
    ids=["commas", "byte order mark", "semicolons", "tabs"],
)
def test_a_csv_loads_as_spreadsheet_programs_write_it(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    assert explore.load(path, tenant="t") == [Labelled("What is it?", ("a.md", "b.md"), tenant="t", tags=("money",))]


def test_ids_with_spaces_are_separated_by_bars(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("question,relevant\nWhat is it?,price list 2026.csv|hours.html\n")
    (label,) = explore.load(path, tenant="t")
    assert label.relevant == ("price list 2026.csv", "hours.html")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"frage,relevant\nx,y\n", "has the columns frage, relevant: it also needs question"),
        ("a.csv", b"", r"has the columns \(none\): it also needs question and relevant"),
        ("a.jsonl", b'{"question": "q", "relevant": ["d"]}\n\n{"question": \n', "line 3: not JSON"),
        (
            "a.csv",
            "question,relevant\nGröße?,größe.md\n".encode("cp1252"),
            "not encoded in UTF-8: save it as UTF-8",
        ),
    ],
)
def test_a_broken_file_of_labels_names_the_place(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        explore.load(path, tenant="t")


def test_a_line_ends_only_where_the_format_says_so(tmp_path: Path) -> None:
    """A cell of CSV may hold a line end, and a text of JSON the line separator of Unicode."""
    table = tmp_path / "labels.csv"
    table.write_text('question,relevant\r\n"What is it,\nexactly?",a.md\r\n', encoding="utf-8", newline="")
    lines = tmp_path / "labels.jsonl"
    lines.write_text('{"question": "What is it,\u2028exactly?", "relevant": ["a.md"]}\n', encoding="utf-8")
    assert [label.question for label in explore.load(table, tenant="t")] == ["What is it,\nexactly?"]
    assert [label.question for label in explore.load(lines, tenant="t")] == ["What is it,\u2028exactly?"]
