"""Ingestion on Ray Data: the local engine's steps on many processes or machines. Needs the extra `ray`.

Ray's collection of usage data is switched off, and a cluster that ragcore starts listens on 127.0.0.1 only. `import ragcore` does not import Ray.
"""

from ragcore.ingest.ray.embedding import embed_dataset
from ragcore.ingest.ray.engine import ingest

__all__ = ["embed_dataset", "ingest"]
