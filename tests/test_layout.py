"""Rules of the layout: modules import only from lower floors, and `import ragcore` loads no heavy package."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ragcore"

# From the lowest floor up. A room may import only from floors below its own.
FLOORS: list[list[str]] = [
    ["value"],
    ["errors", "events"],
    ["compat", "types"],
    ["filters", "lifecycle", "loadtest"],
    ["protocols", "resilience"],
    ["audit", "text"],
    ["wire"],
    ["embedding"],
    ["store"],
    ["generation", "ingest", "retrieval"],
    ["config"],
    ["operating"],
    ["client"],
    ["blocking", "explore"],
    ["rollout"],
    ["cli", "contrib", "demo", "testing", "__main__"],
]
MOST_ROOMS = 28
MOST_METHODS, MOST_LINES = 20, 400
# Each of their methods is a call of the public interface.
FACADES = {"MemoryStore", "PgVectorStore", "RAG", "TenantView", "TableStore"}
HOMES = {
    "asyncpg": {"store/postgres"},
    "openai": {"compat/private.py", "embedding/openai.py", "generation/openai.py", "wire/client.py", "wire/failure.py"},
    "ray": {"ingest/ray"},
    "tiktoken": {"text/tokens.py"},
    "tenacity": {"resilience/retry.py", "resilience/policy.py"},
}


@cache
def modules() -> tuple[tuple[str, Path, ast.Module], ...]:
    """Return (room, file, syntax tree) of each module."""
    return tuple(
        (path.relative_to(SOURCE).parts[0].removesuffix(".py"), path, ast.parse(path.read_text(encoding="utf-8")))
        for path in sorted(SOURCE.rglob("*.py"))
    )


@cache
def imports(tree: ast.AST) -> tuple[tuple[str, bool], ...]:
    return tuple(_imports(tree))


def _imports(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Yield (dotted module, whether it is for annotations only) of each import."""
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "ragcore":
                yield from ((f"ragcore.{alias.name}", id(node) in guarded) for alias in node.names)
            yield node.module, id(node) in guarded


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of each `from module import name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def test_every_room_has_a_floor() -> None:
    rooms = {room for room, _, _ in modules()} - {"__init__"}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_the_package_has_few_rooms_with_meaningful_names() -> None:
    rooms = {room for room, _, _ in modules() if not room.startswith("__")}
    assert len(rooms) <= MOST_ROOMS
    assert not rooms & {"base", "common", "helpers", "misc", "util", "utils"}


def test_modules_import_only_from_lower_floors() -> None:
    level = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    wrong = []
    for room, path, tree in modules():
        if room == "__init__" or room in FLOORS[-1]:  # the top floor may import anything; no floor may import it
            continue
        for name, _ in imports(tree):
            if not name.startswith("ragcore."):
                continue
            target = name.split(".")[1]
            if target == room or target not in level:
                continue
            if level[target] >= level[room]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong


def test_modules_have_no_circular_imports_not_even_for_annotations() -> None:
    """So of any two modules, a reader can understand at least one without the other."""
    names = {
        ".".join(("ragcore", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): tree
        for _, path, tree in modules()
    }
    left = {
        name: {target for target, _ in imports(tree) if target in names and target != name}
        | {f"{target}.{one}" for target, one in imported_names(tree) if f"{target}.{one}" in names}
        for name, tree in names.items()
    }
    # A package that only re-exports names is not part of a circle: `from package import module` names the package and the module.
    facades = {name for name in names if any(other.startswith(f"{name}.") for other in names)}
    for name in facades:
        left.pop(name, None)
    while ready := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ready:
            del left[name]
    assert sorted(left) == []


def test_no_class_has_more_than_20_methods_and_long_files_give_a_reason() -> None:
    large, long = [], []
    for _, path, tree in modules():
        where = path.relative_to(SOURCE).as_posix()
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name not in FACADES:
                methods = [one for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
                if len(methods) > MOST_METHODS:
                    large.append(f"{where}: {node.name} has {len(methods)}")
        if len(path.read_text(encoding="utf-8").splitlines()) > MOST_LINES and "one file" not in (
            ast.get_docstring(tree) or ""
        ):
            long.append(where)
    assert (large, long) == ([], [])


def test_resilience_imports_nothing_of_retrieval() -> None:
    allowed = {"compat", "errors", "events", "lifecycle", "resilience", "value"}
    found = [
        f"{path.name} imports {name}"
        for room, path, tree in modules()
        if room == "resilience"
        for name, _ in imports(tree)
        if name.startswith("ragcore.") and name.split(".")[1] not in allowed
    ]
    assert not found


@pytest.mark.parametrize("package", sorted(HOMES))
def test_each_sdk_is_imported_only_in_its_home(package: str) -> None:
    found = {
        path.relative_to(SOURCE).as_posix()
        for _, path, tree in modules()
        for name, annotations_only in imports(tree)
        if name.partition(".")[0] == package and not annotations_only
    }
    assert {path for path in found if not any(path.startswith(home) for home in HOMES[package])} == set()


def test_import_ragcore_loads_no_heavy_package() -> None:
    # The last three are in the standard library. Together they would take a third of the time of the import.
    heavy = (
        "openai",
        "numpy",
        "tiktoken",
        "asyncpg",
        "httpx",
        "httpx2",
        "tenacity",
        "anyio",
        "pydantic",
        "json",
        "pathlib",
        "importlib.metadata",
    )
    script = f"import sys, ragcore; print([name for name in {heavy!r} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )


def test_no_blocking_call_of_asyncio_or_time_in_the_library() -> None:
    banned = {"time.sleep", "asyncio.run", "asyncio.gather", "asyncio.wait_for", "time.time", "time.monotonic"}
    found = [
        f"{path.relative_to(SOURCE)}:{node.lineno} {ast.unparse(node.func)}"
        for room, path, tree in modules()
        # These modules run without an event loop. The embedded server is started and stopped on threads, and its supervisor is a separate process. The
        # blocking client waits on threads of its callers. Files are read in worker processes.
        if not path.relative_to(SOURCE).as_posix().startswith(("store/embedded/", "blocking/", "ingest/readers/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in banned
    ]
    assert not found


def test_nothing_catches_base_exception_without_raising() -> None:
    allowed = {"resilience/threads.py", "testing/cancelling.py"}  # both pass the error on, and it is raised elsewhere
    found = []
    for _, path, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ExceptHandler) or path.relative_to(SOURCE).as_posix() in allowed:
                continue
            caught = "BaseException" if node.type is None else ast.unparse(node.type)
            raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
            if "BaseException" in caught.split("Group")[0] and "Group" not in caught and not raises:
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno}")
    assert not found
