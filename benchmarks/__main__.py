"""`python -m benchmarks`."""

import signal
import sys

if __name__ == "__main__":
    try:
        from benchmarks.command import main
    except ModuleNotFoundError as error:
        sys.exit(f"{error}: the benchmarks' command line needs httpx, typer and rich: pip install httpx typer rich")
    # A shell starts a job in the background with SIGINT ignored, and then it would never stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # SIGTERM ends it like Ctrl-C, so that the servers that it started end too.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    main()
