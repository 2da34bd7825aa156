"""Questions sent at a set concurrency or rate, what became of each, and what the driver itself cost."""
