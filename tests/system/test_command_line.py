"""The command line as a user types it, with its own embedded database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from ragcore.demo.questions import DOCUMENTS
from ragcore.store import embedded, migrate
from tests.support.servers import without_fsync

pytestmark = pytest.mark.system

NOWHERE = {
    "DATABASE_URL": "postgresql://a:canary@127.0.0.1:9/x",
    "OPENAI_API_KEY": "k",
    "RAGCORE_EMBEDDING_MODEL": "local",
}


@pytest.fixture(scope="module")
def data() -> Iterator[str]:
    """Return the folder of a database with a collection, and keep its server running: other tests start and stop it with each command."""
    with tempfile.TemporaryDirectory(prefix="ragcore-cli-") as folder:
        running = embedded.start(Path(folder))
        try:
            anyio.run(without_fsync, running.owner_dsn.reveal())
            assert ragcore(folder, "ingest", str(DOCUMENTS / "chen"), "--tenant", "first").returncode == 0
            yield folder
        finally:
            embedded.stop(Path(folder))


def ragcore(data: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "RAGCORE_DATA": data, "COLUMNS": "200", **environment}
    return subprocess.run(
        [sys.executable, "-m", "ragcore", *arguments], capture_output=True, text=True, env=env, timeout=100, check=False
    )


def test_a_question_is_answered_from_ingested_documents(data: str) -> None:
    first = ragcore(data, "ingest", str(DOCUMENTS / "chen"), "--tenant", "chen")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.startswith("1 added, 0 updated, 0 unchanged, 0 failed")
    assert ragcore(data, "ingest", str(DOCUMENTS / "chen"), "--tenant", "chen").stdout.startswith(
        "0 added, 0 updated, 1 unchanged"
    )

    answer = ragcore(data, "ask", "What is my deductible?", "--tenant", "chen")
    assert answer.returncode == 0
    assert "$3,200" in answer.stdout
    assert "[1] bronze-hdhp.pdf, page 1, Deductible" in answer.stdout
    written = json.loads(ragcore(data, "ask", "What is my deductible?", "-t", "chen", "--json").stdout)
    assert written["citations"][0]["passage"]["metadata"]["page"] == 1
    nothing = ragcore(data, "ask", "What is my deductible?", "-t", "nobody")
    assert (nothing.returncode, "no documents" in nothing.stderr) == (1, True)

    found = ragcore(data, "search", "ambulance", "-t", "chen", "--mode", "hybrid", "--json")
    assert "ambulance" in json.loads(found.stdout)["passages"][0]["text"]
    assert ragcore(data, "documents", "-t", "chen").stdout.strip() == "bronze-hdhp.pdf"
    assert ragcore(data, "delete", "bronze-hdhp.pdf", "-t", "chen").returncode == 0
    assert ragcore(data, "documents", "-t", "chen").stdout == ""


@pytest.mark.thorough
def test_a_stream_a_file_of_questions_and_the_scores_of_all_chunks_are_shown(data: str, tmp_path: Path) -> None:
    ragcore(data, "ingest", str(DOCUMENTS / "chen"), "--tenant", "chen")
    assert (
        "$3,200" in ragcore(data, "ask", "What is my deductible?", "-t", "chen", "--stream", "--show-passages").stdout
    )
    (tmp_path / "questions.txt").write_text("What is my deductible?\n\nWhat is the copay for a specialist?\n")
    file = str(tmp_path / "questions.txt")
    lines = ragcore(data, "ask", "--file", file, "-t", "chen", "--json").stdout.splitlines()
    results = sorted((json.loads(line) for line in lines), key=lambda result: int(result["index"]))
    assert ["$3,200" in results[0]["answer"]["text"], "30 percent" in results[1]["answer"]["text"]] == [True, True]
    many = ragcore(data, "ask", "--file", file, "-t", "chen")
    assert (many.returncode, "2. What is the copay for a specialist?" in many.stdout) == (0, True)
    assert ragcore(data, "ask", "--file", str(tmp_path / "missing"), "-t", "chen").returncode == 2
    assert ragcore(data, "ask", "-t", "chen").returncode == 2

    for mode in ("vector", "text"):
        found = ragcore(data, "search", "ambulance", "-t", "chen", "--mode", mode, "--json")
        assert "ambulance" in json.loads(found.stdout)["passages"][0]["text"]
    assert (
        "No chunk passes 0.99"
        in ragcore(data, "similarity", "deductible", "-t", "chen", "--score-threshold", "0.99").stdout
    )
    assert json.loads(ragcore(data, "similarity", "deductible", "-t", "chen", "--json").stdout)["chunks"] > 3
    assert ragcore(data, "delete", "bronze-hdhp.pdf", "-t", "chen").returncode == 0


@pytest.mark.thorough
def test_a_tenant_can_be_shared(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plan.md").write_text("The platinum plan costs $77.")
    assert ragcore(data, "ingest", str(tmp_path / "plan.md"), "-t", "plans").returncode == 0
    monkeypatch.setenv("RAGCORE_SHARED", "plans")
    refused = ragcore(data, "ask", "What does the platinum plan cost?", "-t", "someone")
    assert (refused.returncode, "ragcore share" in refused.stderr) == (2, True)
    assert "RAGCORE_SHARED=plans" in ragcore(data, "share", "plans").stdout
    answered = ragcore(data, "ask", "What does the platinum plan cost?", "-t", "someone").stdout
    assert "$77" in answered
    assert "plan.md (shared: plans)" in answered
    assert ragcore(data, "documents", "-t", "someone").stdout == ""
    assert ragcore(data, "unshare", "plans").returncode == 0
    assert ragcore(data, "ask", "What does the platinum plan cost?", "-t", "someone").returncode == 2


@pytest.mark.thorough
def test_a_recommended_threshold_is_marked_and_says_what_it_costs(data: str, tmp_path: Path) -> None:
    texts = {
        "deductible": "Your deductible is $1,500.",
        "ambulance": "A ride costs $150.",
        "dental": "Fillings cost 20 %.",
    }
    (tmp_path / "files").mkdir()
    for name, text in texts.items():
        (tmp_path / "files" / f"{name}.md").write_text(text)
    assert ragcore(data, "ingest", str(tmp_path / "files"), "--tenant", "sweep").returncode == 0
    labels = tmp_path / "labels.csv"
    questions = {
        "What is my deductible?": "deductible",
        "What does an ambulance cost?": "ambulance",
        "Fillings?": "dental",
    }
    rows = [f"{question},{document}.md,x" for question, document in questions.items()]
    labels.write_text("\n".join(["question,relevant,tags", *rows]))

    page = tmp_path / "page.html"
    shown = ragcore(data, "thresholds", str(labels), "--tenant", "sweep", "--html", str(page))
    assert shown.returncode == 0, shown.stderr
    (marked, aim) = (line for line in shown.stdout.splitlines() if line.rstrip().endswith("◀"))
    assert aim.split()[:2] == ["f1", "absolute"]
    assert "recall is" in shown.stdout
    assert "nothing is found for" in shown.stdout
    assert page.read_text().count("<svg") == 3

    written = json.loads(ragcore(data, "thresholds", str(labels), "-t", "sweep", "--json").stdout)
    assert written["recommended"]["threshold"] == pytest.approx(float(marked.split()[0]))
    assert {"recall", "nothing_found", "f1"} <= written["recommended_relative"].keys()
    assert [row["aim"] for row in written["aims"]] == ["f1", "recall", "found"] * 2
    assert sum(row["recommended"] for row in written["rows"]) == 1
    assert written["notes"]

    measured = ragcore(data, "evaluate", str(labels), "--tenant", "sweep")
    assert "nothing found: 0.000 (95 % 0.000 to" in measured.stdout
    measures = json.loads(ragcore(data, "evaluate", str(labels), "-t", "sweep", "--json").stdout)["measures"]
    assert [row["measure"] for row in measures] == ["recall@10", "precision@10", "mrr@10", "ndcg@10", "nothing found"]


@pytest.mark.thorough
def test_documents_expire(data: str, tmp_path: Path) -> None:
    folder, audit = tmp_path / "documents", tmp_path / "audit.jsonl"
    folder.mkdir()
    (folder / "letter.md").write_text("The letter says that your copay is $20.")
    refused = ragcore(data, "ingest", str(folder), "-t", "late", "--expires-at", "soon")
    assert (refused.returncode, "2030-01-31" in refused.stderr) == (2, True)
    assert ragcore(data, "ingest", str(folder), "-t", "late", "--expires-at", "2090-01-31").returncode == 0
    assert ragcore(data, "search", "letter copay", "-t", "late").returncode == 0
    assert ragcore(data, "expire").stdout == "documents removed: 0; tenants: 0\n"
    again = ragcore(data, "ingest", str(folder), "-t", "late", "--expires-at", "2020-01-31T12:00+01:00")
    assert "1 updated" in again.stdout
    assert ragcore(data, "search", "letter copay", "-t", "late").returncode == 1
    done = ragcore(data, "expire", "--audit", str(audit), "--json")
    assert json.loads(done.stdout) == {"expired": 1, "tenants": {"late": 1}}
    assert ragcore(data, "documents", "-t", "late").stdout == ""
    (line,) = [json.loads(line) for line in audit.read_text().splitlines()]
    assert (line["action"], line["tenant"], line["documents"], line["route"]) == ("expire", "late", 1, "ragcore expire")


def test_a_broken_file_is_named_and_the_exit_code_says_so(data: str, tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("Your copay is $20.")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-broken")
    done = ragcore(data, "ingest", str(tmp_path), "-t", "x")
    assert done.returncode == 1
    assert "broken.pdf: it is broken" in done.stderr
    assert "1 added" in done.stdout
    empty = tmp_path / "empty"
    empty.mkdir()
    done = ragcore(data, "ingest", str(empty), "-t", "x")
    assert (done.returncode, "no readable file" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_the_doctor_checks_each_part_and_reports_problems(data: str) -> None:
    done = ragcore(data, "doctor")
    assert done.returncode == 0
    for line in ("interpreter", "database", "role", "schema", "embedder", "model", "tokenizer", "logging"):
        assert f"{line}:" in done.stdout
    refused = ragcore(
        data,
        "doctor",
        DATABASE_URL="postgresql://app:canary@127.0.0.1:9/x",
        OPENAI_API_KEY="canary",
        RAGCORE_EMBEDDING_MODEL="local",
    )
    assert refused.returncode == 1
    assert "can't be reached" in refused.stdout
    assert "canary" not in refused.stdout + refused.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        (("ask", "", "-t", "x"), {}, 2, "the question is empty"),
        (("ask", "q", "-t", " "), {}, 2, "the tenant is blank"),
        (("ask", "q", "-t", "x", "--mode", "fuzzy"), {}, 2, "mode is 'fuzzy'"),
        (("ask", "q"), {}, 2, "tenant"),
        (("ask", "q", "-t", "x"), {"RAGCORE_TOPK": "5"}, 2, "did you mean RAGCORE_TOP_K"),
        (("ask", "q", "-t", "x"), NOWHERE, 3, "can't be reached"),
        (("ingest", str(Path(__file__).parents[2] / "README.md"), "-t", "x", "--data", "/proc/x"), {}, 2, "can't be written"),
        (("--data", "/proc/x", "ask", "q", "-t", "x"), {}, 2, "there is no database in /proc/x"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_and_an_exit_code(
    data: str, arguments: tuple[str, ...], environment: dict[str, str], code: int, said: str
) -> None:
    done = ragcore(data, *arguments, **environment)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "canary" not in done.stderr


def test_the_demo_reports_that_all_answers_are_right() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ragcore.demo"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "All answers are right." in done.stdout
    assert "✗" not in done.stdout


def test_migrate_reads_the_environment_and_version_is_printed(server: tuple[str, str]) -> None:
    done = ragcore(
        "/nowhere",
        "migrate",
        "--role",
        "ragcore",
        RAGCORE_OWNER_DSN=server[1],
        RAGCORE_EMBEDDING_MODEL="all-MiniLM-L6-v2",
    )
    assert (done.returncode, "up to date for all-MiniLM-L6-v2 (384 dimensions)" in done.stdout) == (0, True), (
        done.stderr
    )
    assert ragcore("/nowhere", "--version").stdout.startswith("ragcore ")


def test_index_builds_the_index_of_the_collection(server: tuple[str, str]) -> None:
    anyio.run(lambda: migrate(server[1], model="m", dimension=8, role="ragcore", schema="indexed"))
    environment = {"RAGCORE_OWNER_DSN": server[1], "RAGCORE_SCHEMA": "indexed"}
    # Another kind of index would keep the replaced one for a minute, so only a parameter is changed.
    done = ragcore("/nowhere", "index", "--m", "8", "--json", **environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["index"] == {"kind": "vector", "m": 8, "ef_construction": 64}
    done = ragcore("/nowhere", "index", "--kind", "ivfflat", **environment)
    assert (done.returncode, "it must be one of vector, halfvec, binary, none" in done.stderr) == (2, True)


def test_without_the_extra_the_error_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['ragcore']; from ragcore.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, "[cli]'" in done.stderr) == (2, True)
