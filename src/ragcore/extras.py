"""Optional dependencies: imported when a component that needs them is made; missing, one line says what to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from ragcore.errors import ConfigurationError

__all__ = ["require"]


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
            f"{purpose} needs the package {name!r}, which can't be imported ({error}): pip install 'ragcore[{extra}]'"
        ) from error
