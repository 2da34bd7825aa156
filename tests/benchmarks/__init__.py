"""The benchmarks' own tests: a harness that can't fail proves nothing."""
