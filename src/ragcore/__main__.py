"""`python -m ragcore`, and the console script."""

from __future__ import annotations

import sys

from ragcore.compat.extras import require
from ragcore.errors import ConfigurationError

__all__ = ["main"]


def main() -> None:
    """Run the command line; without its extra, say what to install."""
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
