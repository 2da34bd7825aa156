"""Modules that have moved are found by their old names, once, with a warning."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from ragcore.compat.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_the_same_module_and_warns_with_the_new_name(old: str) -> None:
    name = f"ragcore.{old}"
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=rf"^{name} has moved to ragcore\.{MOVED[old]};"):
        found = importlib.import_module(name)
    real = importlib.import_module(f"ragcore.{MOVED[old]}")
    assert found is real
    assert real.__name__ == real.__spec__.name == f"ragcore.{MOVED[old]}"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "statement",
    [
        "import ragcore.rag",
        "from ragcore.rag import RAG",
        "from ragcore import rag",
        "import ragcore.resilience.owner as owner",
    ],
)
def test_the_warning_points_to_the_importing_line(statement: str) -> None:
    script = f"import warnings; warnings.simplefilter('always')\n\n{statement}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.count("DeprecationWarning") == 1
    assert "<string>:3: DeprecationWarning" in done.stderr


def test_an_unknown_module_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match="ragcore.nowhere"):
        importlib.import_module("ragcore.nowhere")
