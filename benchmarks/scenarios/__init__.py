"""The scenarios, one a module, each with a `run`."""
