"""`python -m benchmarks`."""

import signal
import sys

if __name__ == "__main__":
    try:
        from benchmarks.command import main
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: the benchmarks' command line needs httpx, typer and rich: pip install httpx typer rich")
    # A shell starts background jobs with SIGINT ignored. Without this line, Ctrl-C and `kill -INT` would never stop such a job.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Handle SIGTERM like Ctrl-C, so that the servers that this process started end as well.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    main()
