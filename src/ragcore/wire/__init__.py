"""Talks to OpenAI-compatible servers: prepared requests, bounded responses, translated errors."""
