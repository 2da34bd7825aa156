"""Rerankers sort the passages of a search again, with a model that reads the question and a passage together."""
