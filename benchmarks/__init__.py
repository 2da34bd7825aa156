"""Measurements: `python -m benchmarks NAME`. Each prints a table, or with --json one flat JSON object; progress goes to stderr."""
