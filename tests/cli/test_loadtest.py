"""`ragcore loadtest` as a user runs it: against a service on a port, in a terminal of 80 columns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.loadtest.report.test_results import figures

from ragcore.loadtest.report.results import write

pytestmark = pytest.mark.blocking_allowed
TOKEN = "a-long-random-token"


class Service(BaseHTTPRequestHandler):
    """Answers questions with a valid token. At /wrong, every second answer is wrong."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        json.loads(self.rfile.read(int(self.headers["content-length"])))
        type(self).asked += 1
        wrong = self.path == "/wrong" and self.asked % 2
        allowed = self.headers["authorization"] == f"Bearer {TOKEN}"
        self._send(200 if allowed else 401, {"answer": "It is $50." if wrong else "It is $1,500."})

    def do_GET(self) -> None:
        self._send(200, {"status": "ready"})

    def _send(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "What is my deductible?", "fact": "$1,500"}\n', encoding="utf-8")
    return path


def loadtest(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ragcore", "loadtest", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=100,
        env={**os.environ, "COLUMNS": "80", "CHAT_TOKEN": TOKEN},
    )


def fits(done: subprocess.CompletedProcess[str]) -> bool:
    return all(len(line) <= 80 for line in (done.stdout + done.stderr).splitlines())


def test_a_service_with_right_answers_passes_the_ladder(url: str, questions: Path, tmp_path: Path) -> None:
    asking = ("--url", f"{url}/chat", "--questions", questions.name, "--token-env", "CHAT_TOKEN")
    short = ("--quick", "--levels", "1,2,5", "--steady-seconds", "1", "--pid", str(os.getpid()))
    done = loadtest("ladder", *asking, *short, "--health-url", url, "--out", "run", cwd=tmp_path)
    told = " ".join(done.stdout.split())
    assert done.returncode in (0, 3), (
        done.stderr
    )  # 3: one second may be too short to measure the memory of this process
    assert fits(done)
    assert "met no hang at 5 or more at once: none of" in told
    assert "met success 100 % (more than 95 %)" in told
    assert "NOT MET" not in told
    assert "note: health before: ready" in done.stderr
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert TOKEN not in report
    assert "ragcore 0" in report


@pytest.mark.slow
def test_a_service_with_wrong_answers_fails_the_ladder(url: str, questions: Path, tmp_path: Path) -> None:
    asking = ("--url", f"{url}/wrong", "--questions", questions.name, "--token-env", "CHAT_TOKEN")
    done = loadtest("ladder", *asking, "--quick", "--levels", "1,2", "--steady-seconds", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert fits(done)
    assert "NOT MET success" in " ".join(done.stdout.split())
    assert "NOT ALL CRITERIA MET" in done.stderr


@pytest.mark.slow
def test_load_and_sweep_fit_in_80_columns(url: str, questions: Path, tmp_path: Path) -> None:
    asking = ("--url", f"{url}/chat", "--questions", questions.name, "--token-env", "CHAT_TOKEN")
    load = loadtest(
        "load", *asking, "--seconds", "1", "--repeats", "2", "--warm-up", "0.2", "--rate", "10", cwd=tmp_path
    )
    sweep = loadtest("sweep", *asking, "--seconds", "1", "--steps", "1", "--start", "5000", cwd=tmp_path)
    assert load.returncode in (0, 3), load.stderr
    assert "met right answers within 10 s: 100 % (at least 95 %)" in " ".join(load.stdout.split())
    assert "highest rate with 95 % right answers within 10 s: 0 per second" in " ".join(sweep.stdout.split())
    assert fits(load)
    assert fits(sweep)


@pytest.mark.slow
def test_a_comparison_of_runs_fits_in_80_columns(tmp_path: Path) -> None:
    for side, seconds in (("before", 1.0), ("after", 2.0)):
        for number in range(3):
            write(tmp_path / side / str(number), "ladder", figures(seconds=seconds + number / 50, seed=number))
    done = loadtest("compare", "before", "after", cwd=tmp_path)
    assert done.returncode == 1
    assert fits(done)
    assert "regression concurrency 5, p50 1.03 s 2.03 s 1.98" in " ".join(done.stdout.split())
    assert "regression: concurrency 5, p50: 1" in done.stderr
    assert loadtest("compare", "before", "before", cwd=tmp_path).returncode == 0


@pytest.mark.slow
def test_json_is_one_flat_object(url: str, questions: Path, tmp_path: Path) -> None:
    asking = ("--url", f"{url}/chat", "--questions", questions.name, "--token-env", "CHAT_TOKEN")
    done = loadtest("ladder", *asking, "--quick", "--levels", "1,2", "--steady-seconds", "1", "--json", cwd=tmp_path)
    values = json.loads(done.stdout)
    assert (values["hung"], values["success_rate"]) == (0, 1.0)
    assert not any(isinstance(value, dict | list) for value in values.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ladder", "--question", "q"), "--url"),
        (("ladder", "--url", "http://127.0.0.1:9/chat"), "no questions: pass --question"),
        (("ladder", "--url", "nowhere", "--question", "q"), "is not a valid URL"),
        (("load", "--url", "http://127.0.0.1:9/chat", "--question", "q", "--rate", "-1"), "must be positive"),
        (("compare", "missing", "gone"), "contains no summary.json"),
    ],
)
def test_an_invalid_command_prints_a_message_and_exits_with_2(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    done = loadtest(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("results/*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "token", "said"),
    [("http://127.0.0.1:9/chat", TOKEN, "ConnectError"), ("", "a-wrong-token", "answered 401")],
    ids=["closed port", "wrong token"],
)
def test_a_ladder_that_gets_no_answer_at_all_ends_at_once(
    url: str, questions: Path, tmp_path: Path, target: str, token: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", token)
    arguments = ("--url", target or f"{url}/chat", "--questions", str(questions), "--token-env", "WRONG")
    done = loadtest("ladder", *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stdout
    told = " ".join(done.stderr.split())
    assert "none of the first 5 questions was accepted" in told
    assert said in told
