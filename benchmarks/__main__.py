"""The command line of the benchmarks; each scenario is a module with a `run(quick) -> Figures`."""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from benchmarks.figures import Figures

SCENARIOS = {
    "imports": "milliseconds that `import ragcore` takes, beside an empty interpreter",
    "retrieval": "recall, nDCG and latency of vector, text and hybrid search over squad",
    "ingest": "chunks per second from text to table over squad, and COPY beside INSERT",
    "overhead": "microseconds of the resilience core beside anyio, asyncio and other libraries, and its memory",
    "faults": "every fault at every stage and concurrency: late, hung, wrong, leaked, unrecovered",
    "simulate": "thousands of simulated worlds drawn from seeds: what must hold, holds (--seeds N --first N --backend)",
    "soak": "mixed traffic for 20 minutes, faults coming and going: memory, file descriptors, every request accounted for",
    "overload": "ten times what the model can answer: good answers beside their peak, and how soon the rest is told",
    "coalesce": "embedding requests that concurrent questions share, and what one alone waits",
}
# These have options of their own.
WITH_ARGUMENTS = ("simulate", "soak")


def main() -> None:
    """Run one scenario, or list them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS, nargs="?")
    parser.add_argument("--json", action="store_true", help="one flat JSON object on stdout")
    parser.add_argument("--quick", action="store_true", help="less of everything: ends within 50 s on 2 cores")
    arguments, rest = parser.parse_known_args()
    if arguments.scenario is None:
        for name, what in SCENARIOS.items():
            print(f"{name:<10} {what}")
        return
    options = {"arguments": rest} if arguments.scenario in WITH_ARGUMENTS else {}
    if rest and not options:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    run = importlib.import_module(f"benchmarks.{arguments.scenario}").run
    figures: Figures = run(quick=arguments.quick, **options)
    if arguments.json:
        print(json.dumps(figures.values))
    else:
        for name, value in figures.values.items():
            print(f"{name:<32} {value:.4g}" if isinstance(value, float) else f"{name:<32} {value}")
    for failed in figures.failed:
        print(f"not reached: {failed}", file=sys.stderr)
    sys.exit(1 if figures.failed else 0)


if __name__ == "__main__":
    main()
