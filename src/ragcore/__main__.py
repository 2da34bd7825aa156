"""The entry point of `python -m ragcore` and of the console script."""

from __future__ import annotations

import sys

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError

__all__ = ["main"]


def main() -> None:
    """Run the command line. If its extra is not installed, print the command that installs it."""
    try:
        require("typer", extra="cli", purpose="the command line")
        require("rich", extra="cli", purpose="the command line")
    except ConfigurationError as error:
        print(f"ragcore: {error}", file=sys.stderr)
        sys.exit(2)
    from ragcore.cli import run

    run()


if __name__ == "__main__":
    main()
