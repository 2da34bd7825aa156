"""The benchmarks\x27 own tests: a harness that can\x27t fail proves nothing."""
