"""Compatibility: optional packages, private names of other libraries, and ragcore's own old import paths."""
