"""The client: a question in, an answer out, by its deadline."""
