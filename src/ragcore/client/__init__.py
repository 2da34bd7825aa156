"""The client: answers a question within its deadline."""
