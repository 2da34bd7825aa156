"""Tools for text: words, sentences, token counts and redaction."""
