"""Worlds and faults that system tests and benchmarks share: servers, models, neighbours, files and a client to measure."""
