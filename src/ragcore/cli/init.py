"""`ragcore init`: the files of a new project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ragcore.cli.session import results

__all__ = ["FILES", "init"]

SETTINGS = """\
# Settings of ragcore, written by `ragcore init`. Load them with: set -a; . ./.env; set +a
# Keep this file out of version control once it holds a key or a password.

# The folder of the embedded PostgreSQL. It needs no server and no port.
RAGCORE_DATA=data

# The tenant that the command line uses without --tenant.
RAGCORE_TENANT=me

# --- Your own PostgreSQL. If DATABASE_URL is set, RAGCORE_DATA is not used. The role must own nothing.
# DATABASE_URL=postgresql://app:password@localhost:5432/app

# --- A model that writes the answers. Without a key, ragcore quotes the documents.
# OPENAI_API_KEY=
# The URL of your own server with OpenAI's protocol:
# OPENAI_BASE_URL=http://localhost:8080/v1
# The models, in the order in which ragcore tries them:
# RAGCORE_MODELS=gpt-4o-mini,gpt-4o

# --- The embedding model. A collection is made for one model. all-MiniLM-L6-v2 runs on this machine.
RAGCORE_EMBEDDING_MODEL=all-MiniLM-L6-v2

# --- Retrieval: the number of passages, the minimum score (none by default), and vector, text or hybrid.
# RAGCORE_TOP_K=5
# RAGCORE_SCORE_THRESHOLD=0.5
# RAGCORE_MODE=hybrid

# --- Limits: the timeout of a call in seconds, and the connections to PostgreSQL.
# RAGCORE_TIMEOUT=30
# RAGCORE_POOL_SIZE=10
"""

PROGRAM = '''\
"""Add the documents of a folder, and ask a question about them.

    set -a; . ./.env; set +a
    python first_answer.py "How long does a repair take?"
"""

import os
import sys

import anyio
import ragcore
from ragcore.ingest import read


async def main(question: str) -> None:
    if "DATABASE_URL" in os.environ:
        config = ragcore.Config.from_env()
    else:
        config = ragcore.Config.local(os.environ.get("RAGCORE_DATA", "data"))
    async with ragcore.RAG.from_config(config) as rag:
        # A document that has not changed is not embedded again.
        report = await rag.add(read("documents"), tenant="me")
        print(f"{report.added} added, {report.unchanged} unchanged, {len(report.failed)} failed")
        answer = await rag.ask(question, tenant="me", timeout=30)
    print(answer.text)
    for citation in answer.citations:
        print(f"[{citation.number}] {citation.passage.document_id}")


anyio.run(main, sys.argv[1] if len(sys.argv) > 1 else "How long does a repair take?")
'''

DOCUMENT = """\
# Warranty

The warranty is two years from the day of delivery. It covers the frame and the motor.

# Repairs

A repair takes five working days. We call you when the bicycle is ready.
"""

FILES: dict[str, str] = {".env": SETTINGS, "first_answer.py": PROGRAM, "documents/example.md": DOCUMENT}


def init(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the project. It is created if it doesn't exist.", show_default=True)
    ] = Path(),
) -> None:
    """Write a commented .env, a first program and an example document. Overwrites nothing."""
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise typer.BadParameter(
            f"{folder} already has {' and '.join(there)}: name another folder, or remove these files"
        )
    try:
        for name, text in FILES.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot write to {folder}: {error.strerror}") from None
    for name in FILES:
        results.print(f"wrote {folder / name}", markup=False)
    results.print("\nNext:", markup=False)
    if folder != Path():
        results.print(f"  cd {folder}", markup=False)
    results.print("  set -a; . ./.env; set +a\n  python first_answer.py", markup=False)
