"""Text as it is searched, counted and redacted: words, sentences, tokens, and what must not be sent."""
