"""The test suites that other libraries have for their integrations pass. Each runs in an environment of its own."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.conftest import outside
from tests.support.environments import InstallError, environment

# Each test installs an environment of its own.
pytestmark = [pytest.mark.system, pytest.mark.thorough, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


def test_langchains_own_tests_of_vector_stores_and_retrievers_pass(tmp_path: Path) -> None:
    try:
        python = environment("integrations", "langchain", more=["-e", str(ROOT)], variables=outside())
    except InstallError as error:
        pytest.skip(f"LANGCHAIN'S OWN TESTS DID NOT RUN: langchain-tests can't be installed: {error}")
    suite = Path(__file__).parent / "integrations" / "langchain_standard.py"
    report = tmp_path / "report.xml"
    options = [
        "-q",
        "-rA",
        "--noconftest",
        "-c",
        "/dev/null",
        "--rootdir",
        str(tmp_path),
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
    ]
    done = subprocess.run(
        [str(python), "-m", "pytest", *options, f"--junitxml={report}", str(suite)],
        cwd=tmp_path,
        env={**outside(), "LANGSMITH_TRACING": "false"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4_000:]
    cases = [
        (case.get("classname", "").rpartition(".")[2], [child.tag for child in case])
        for case in ET.parse(report).getroot().iter("testcase")  # pytest has written it
    ]
    passed = {name: sum(one == name and not result for one, result in cases) for name, _ in cases}
    skipped = {name for name, result in cases if "skipped" in result}
    assert not re.search(r"\d+ x(failed|passed)", done.stdout)
    # The sync half of the suite is skipped for the async client, which has no sync methods. Nothing else is.
    assert skipped <= {"TestAsyncVectorStore"}
    assert passed["TestBlockingVectorStore"] >= 25
    assert passed["TestAsyncVectorStore"] >= 13
    assert passed["TestRetriever"] >= 5
    # The test that is no method of a class: the async retriever.
    assert sum(passed.values()) >= 25 + 13 + 5 + 1
