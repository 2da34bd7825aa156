"""The scenarios. Each is a module with a `run`."""
