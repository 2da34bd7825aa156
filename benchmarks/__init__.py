"""Benchmarks: `python -m benchmarks NAME`. Each prints a table, or one flat JSON object with --json. Progress goes to stderr."""
