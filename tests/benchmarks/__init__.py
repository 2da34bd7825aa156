"""Tests of the benchmarks: they check that the benchmarks find the faults that they measure."""
