"""The edge to OpenAI-compatible servers: requests as bytes, answers within bounds, and every foreign error translated."""
