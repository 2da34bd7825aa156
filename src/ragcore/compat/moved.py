"""Old import paths of modules that have moved. They work until 1.0, with a DeprecationWarning that names the new path."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "find_moved_modules"]

# The old and the new name of each module, below `ragcore`.
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
    """Finds a module by its old name if no other finder has found it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        return ModuleSpec(name, self) if package == "ragcore" and rest in MOVED else None  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None for an empty new module, which `exec_module` replaces with the module under its new name."""

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = f"ragcore.{MOVED[old.partition('.')[2]]}"
        warnings.warn(
            f"{old} has moved to {new}; the old name works until ragcore 1.0. Import from `ragcore` itself where possible",
            DeprecationWarning,
            stacklevel=2,  # Python does not count the frames of the import system
        )
        # The import system returns the entry of `sys.modules`. So both names refer to the same module, and each of its classes exists only once.
        sys.modules[old] = importlib.import_module(new)


def find_moved_modules() -> None:
    """Install the finder for old names. Called once, when `ragcore` is imported."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
