"""Adapters that do the same job with different libraries: question, embedding, five passages of one tenant by vector, prompt, streamed answer.

Each adapter has its own file, process and virtual environment, and `benchmarks.peers.worker` drives it. So these modules import only the packages
that their group in pyproject.toml installs.
"""
