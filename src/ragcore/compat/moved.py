"""Import paths of the first release whose modules have moved: they work until 1.0, with a DeprecationWarning that says where to look now."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "find_moved_modules"]

# Below `ragcore`: what a module was called, and what it is called now.
MOVED = {
    "calls": "operating.calls",
    "components": "client.components",
    "emptiness": "retrieval.emptiness",
    "extras": "compat.extras",
    "health": "operating.health",
    "memory": "operating.memory",
    "quota": "operating.quota",
    "rag": "client.rag",
    "redacting": "text.redacting",
    "redaction": "text.redaction",
    "resilience.closing": "lifecycle.closing",
    "resilience.owner": "lifecycle.owner",
    "resilience.part": "lifecycle.part",
    "retriever": "retrieval.retriever",
    "secret": "types.secret",
    "shown": "types.shown",
    "similarity": "retrieval.similarity",
    "stages": "lifecycle.stages",
    "stream": "client.stream",
    "timings": "value",
    "tokens": "text.tokens",
    "validation": "types.validation",
    "vectors": "embedding.vectors",
    "view": "client.rag",
    "watchdog": "operating.watchdog",
    "words": "text.words",
}


class _Moved:
    """Finds what is asked for by its old name, once nothing else has found it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        return ModuleSpec(name, self) if package == "ragcore" and rest in MOVED else None  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, spec: ModuleSpec) -> None:
        """The usual new module, in whose place `exec_module` puts the one that was meant."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = f"ragcore.{MOVED[old.partition('.')[2]]}"
        warnings.warn(
            f"{old} is called {new} now; the old name works until ragcore 1.0. Most names are in `ragcore` itself",
            DeprecationWarning,
            stacklevel=2,  # the frames of the import system don't count
        )
        # The import system hands out what stands here afterwards: one module under two names, so that its classes exist once.
        sys.modules[old] = importlib.import_module(new)


def find_moved_modules() -> None:
    """Let old names be found. Called once, when `ragcore` is imported."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
