"""The targets of the benchmarks: the library itself, or any service over HTTP."""
