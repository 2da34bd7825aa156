"""The client without `await`: for Flask, scripts and synchronous Django. It may be used from any number of threads."""

from ragcore.blocking.client import RAG, AnswerStream, TenantView
from ragcore.blocking.many import Answers

__all__ = ["RAG", "AnswerStream", "Answers", "TenantView"]
