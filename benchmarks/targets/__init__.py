"""What is asked: the library itself, or anything that answers over HTTP."""
