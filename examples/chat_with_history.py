"""A chat in the terminal that keeps the history of the conversation and prints each answer while it arrives.

Ctrl-C stops an answer; Ctrl-D ends the chat. The history has a limit, so the prompt of a long conversation does not grow without limit.

Needs the extras embedded and local.
Run it in this folder, and ask "How long is the warranty on the frame?", then "And on the battery?":

    python chat_with_history.py

The search for a follow-up question also uses the question before it. Set DATABASE_URL and OPENAI_API_KEY for your own database and a model. A model sees the
whole history. Without a model, ragcore quotes the documents.
"""

import os

import ragcore
from ragcore import blocking
from ragcore.ingest import read

TENANT = "shop"
MOST_TURNS = 10  # five questions with their answers


def answer(rag: blocking.RAG, question: str, history: list[ragcore.Turn]) -> list[ragcore.Turn]:
    """Print the answer to a question. Return the history with the question and the answer."""
    with rag.stream(question, tenant=TENANT, history=history, timeout=30) as stream:
        for event in stream:
            match event:
                case ragcore.Delta(text):
                    print(text, end="", flush=True)
                case ragcore.Done(answer):
                    print()
                    for citation in answer.citations:
                        print(f"  [{citation.number}] {citation.passage.document_id}")
                    for degradation in answer.degraded:
                        print(f"  ({degradation.stage} failed, used {degradation.fallback}: {degradation.reason})")
                    return [*history, *answer.turns][-MOST_TURNS:]
    return history


def main() -> None:
    """Ask for questions until the input ends."""
    config = ragcore.Config.from_env() if "DATABASE_URL" in os.environ else ragcore.Config.local("data")
    with blocking.RAG.from_config(config) as rag:
        rag.add(read("documents"), tenant=TENANT)
        history: list[ragcore.Turn] = []
        while True:
            try:
                question = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if not question:
                continue
            try:
                history = answer(rag, question, history)
            except ragcore.RagcoreError as error:
                print(f"\nNo answer: {error}")
            except KeyboardInterrupt:
                print("\nStopped.")


if __name__ == "__main__":
    main()
