"""Search: from a question to passages, or to the reason why there are none."""
