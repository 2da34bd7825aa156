"""Adapters that do the same job with different libraries. They embed a question, find five passages of one tenant by vector, and stream an answer.

Each adapter has its own file, process and virtual environment, and `benchmarks.peers.worker` drives it. So these modules import only the packages
that their group in pyproject.toml installs.
"""
