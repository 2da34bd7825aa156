"""Talks to OpenAI-compatible servers: prepares requests, limits responses and translates errors."""
