"""Bridges to other things: each module is imported by whoever needs it, and by nothing else."""
