"""The client without await: for Flask, scripts and sync Django, from as many threads as there are."""

from ragcore.blocking.client import RAG, AnswerStream, TenantView

__all__ = ["RAG", "AnswerStream", "TenantView"]
