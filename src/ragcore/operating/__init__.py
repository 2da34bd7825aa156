"""For operators: running calls, limits of each tenant, health, the watchdog."""
