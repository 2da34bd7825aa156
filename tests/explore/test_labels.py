"""Labels can be loaded as people save them, with byte order marks, semicolons and ids with spaces. Messages name the file, the line and the column."""

from __future__ import annotations

import csv
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


LABELS = [
    Labelled("What is it?", ("price list 2026.csv",), tenant="t", tags=("money", "old")),
    Labelled("=SUM(A1)?", ("a.md", "b.md"), tenant="t", answer="-5 %"),
    Labelled("'=quoted?", ("a.md",), tenant="t"),
    Labelled("Who won?", (), tenant="t", unanswerable=True),
    Labelled("An answer alone,\nin two lines?", (), tenant="t", answer="$1,500"),
]


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_labels_that_are_saved_load_again(name: str, tmp_path: Path) -> None:
    explore.save(LABELS, tmp_path / name)
    assert explore.load(tmp_path / name) == LABELS


def test_graded_labels_need_json_lines(tmp_path: Path) -> None:
    graded = [Labelled("q", {"a": 2, "b": 1}, tenant="t")]
    explore.save(graded, tmp_path / "labels.jsonl")
    assert explore.load(tmp_path / "labels.jsonl") == graded
    with pytest.raises(InvalidInput, match="can't hold the grades"):
        explore.save(graded, tmp_path / "labels.csv")
    with pytest.raises(InvalidInput, match="names with a bar"):
        explore.save([Labelled("q", ("a|b",), tenant="t")], tmp_path / "labels.csv")
    with pytest.raises(InvalidInput, match=r"ends with .jsonl or .csv"):
        explore.save(graded, tmp_path / "labels.xlsx")


def test_a_spreadsheet_program_runs_no_cell_as_a_formula(tmp_path: Path) -> None:
    explore.save(LABELS, tmp_path / "labels.csv")
    with (tmp_path / "labels.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=SUM(A1)?" in cells
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1), min_size=1, max_size=4))
def test_any_question_survives_a_csv_file(questions: list[str]) -> None:
    labels = [Labelled(question, ("a",), tenant="t") for question in questions if question.strip()]
    with TemporaryDirectory() as folder:
        explore.save(labels, Path(folder) / "labels.csv")
        assert explore.load(Path(folder) / "labels.csv") == labels


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "unanswerable": True, "relevant": ["a"]}, "can't have relevant documents"),
        ({"question": "q", "unanswerable": "perhaps"}, "unanswerable is 'perhaps': write 1 or 0"),
        ({"question": "q", "unanswerable": 0}, "relevant documents, or an answer"),
        ({"question": "q", "answer": "x", "tenant": None}, "has no tenant"),
        ({"question": "q", "document_id": "d", "relevant": "maybe", "tenant": "t"}, "relevant is 'maybe'"),
        ({"question": "", "document_id": "d", "tenant": "t"}, "must have a question and a document_id"),
    ],
)
def test_a_row_that_contradicts_itself_is_named(row: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"row 1 of the labels.*{message}"):
        explore.load([row])


def test_a_csv_needs_no_relevant_documents_if_it_has_answers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer,unanswerable\nHow much?,$40,\nWho won?,,x\n")
    assert explore.load(tmp_path / "a.csv", tenant="t") == [
        Labelled("How much?", (), tenant="t", answer="$40"),
        Labelled("Who won?", (), tenant="t", unanswerable=True),
    ]


def test_a_table_with_a_row_for_each_document_becomes_labels() -> None:
    rows = [
        ("one", "a", "x", ""),
        ("one", "b", "", "$40"),
        ("one", "a", "0", ""),  # another chunk of the same document
        ("graded", "a", 2, None),
        ("graded", "b", 1.0, None),
        ("none", "a", "0", ""),
        ("none", "b", "no", ""),
        ("not labelled", "a", "", ""),
    ]
    names = ("question", "document_id", "relevant", "answer")
    assert explore.load([dict(zip(names, row, strict=True)) for row in rows], tenant="t") == [
        Labelled("one", ("a",), tenant="t", answer="$40"),
        Labelled("graded", {"a": 2, "b": 1}, tenant="t"),
        Labelled("none", (), tenant="t", unanswerable=True),
    ]


ROWS: list[dict[str, object]] = [
    {"question": "q", "relevant": ["a", "b"], "tenant": None, "tags": ["x"], "answer": None, "unanswerable": None},
    {"question": "r", "relevant": None, "tenant": "other", "tags": None, "answer": "$40", "unanswerable": None},
    {"question": "s", "relevant": None, "tenant": None, "tags": None, "answer": None, "unanswerable": True},
]
FROM_ROWS = [
    Labelled("q", ("a", "b"), tenant="t", tags=("x",)),
    Labelled("r", (), tenant="other", answer="$40"),
    Labelled("s", (), tenant="t", unanswerable=True),
]


def test_frames_of_pandas_and_polars_load_with_missing_values() -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for frame in (pandas.DataFrame(ROWS), pandas.DataFrame(ROWS).convert_dtypes(), polars.DataFrame(ROWS)):
        assert explore.load(frame, tenant="t") == FROM_ROWS
    numbers = pandas.DataFrame({"question": ["q", "r"], "relevant": ["a", None], "unanswerable": [None, 1]})
    assert [label.unanswerable for label in explore.load(numbers, tenant="t")] == [False, True]
    grades = polars.DataFrame({"question": ["q", "r"], "relevant": [{"a": 2, "b": None}, {"a": None, "b": 1}]})
    assert [label.grades() for label in explore.load(grades, tenant="t")] == [{"a": 2}, {"b": 1}]
    array = pandas.DataFrame({"question": ["q"], "relevant": [np.array(["a", "b"])]})
    assert explore.load(array, tenant="t")[0].relevant == ("a", "b")


def test_a_table_of_pyarrow_loads() -> None:
    class Table:
        def to_pylist(self) -> list[dict[str, object]]:
            return ROWS

    assert explore.load(Table(), tenant="t") == FROM_ROWS
