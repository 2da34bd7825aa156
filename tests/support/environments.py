"""Virtual environments for other projects' programs. An environment is made at its first use, and again when its requirements change."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["InstallError", "environment"]

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
INSTALL_SECONDS = 900.0


class InstallError(Exception):
    """An environment can't be made. The message is the end of the installer's output."""


def environment(kind: str, name: str, *, more: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> Path:
    """Return the Python of an environment of `environments.toml`.

    Args:
        kind, name: a table of the file, and a key in it.
        more: further arguments for `pip install`.
        variables: the environment of pip; None: this process's.

    Raises:
        InstallError: the environment can't be made.
    """
    needed = tomllib.loads((Path(__file__).parent / "environments.toml").read_text())[kind][name]
    folder = CACHE / kind / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(json.dumps([needed, *more, sys.version]).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", *needed, *more],
    ):
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS,
                check=False,
                env=dict(os.environ if variables is None else variables),
            )
        except subprocess.TimeoutExpired:
            raise InstallError(f"pip did not end within {INSTALL_SECONDS:g} s") from None
        if done.returncode:
            raise InstallError(done.stderr.strip()[-300:])
    stamp.write_text(wanted)
    return python
