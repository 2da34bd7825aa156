"""`python -m benchmarks`."""

import sys

if __name__ == "__main__":
    try:
        from benchmarks.command import main
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: the benchmarks' command line needs typer and rich: pip install typer rich")
    main()
