"""The same job done by others: question, embedding, five passages of one tenant by vector, prompt, streamed answer. One file each.

Each runs in a process of its own with a virtual environment of its own, in which `benchmarks.peers.worker` drives it; so these modules import
nothing but what their group in pyproject.toml installs.
"""
