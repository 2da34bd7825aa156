"""Sends questions at a set concurrency or rate, and measures their outcomes and the driver's own load."""
