"""The edge to OpenAI-compatible servers: requests as bytes, bounded answers, translated errors."""
