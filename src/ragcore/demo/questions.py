"""The members' questions, and for each member the fact that a right answer contains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["DOCUMENTS", "FOLLOW_UPS", "MEMBERS", "PARAPHRASES", "QUESTIONS", "UNANSWERABLE", "Question"]

DOCUMENTS = Path(__file__).parent / "documents"
MEMBERS = ("amara", "bruno", "chen")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and for each member the words that a right answer contains."""

    text: str
    facts: dict[str, str]


QUESTIONS = (
    Question("What is my deductible?", {"amara": "$500", "bruno": "$1,500", "chen": "$3,200"}),
    Question("What is the copay for a specialist?", {"amara": "$35", "bruno": "$60", "chen": "30 percent"}),
    Question("How much do I pay for an ambulance?", {"amara": "$150", "bruno": "20 percent", "chen": "30 percent"}),
    Question(
        "What does outpatient mental health therapy cost?", {"amara": "$15", "bruno": "$40", "chen": "30 percent"}
    ),
    Question(
        "What do I pay for advanced imaging like an MRI?",
        {"amara": "$150", "bruno": "20 percent", "chen": "30 percent"},
    ),
    Question("Is my plan an HMO or a PPO?", {"amara": "HMO", "bruno": "PPO", "chen": "PPO"}),
)
# These use other words than the documents, so they need a model or an embedder that compares meanings.
PARAPHRASES = (
    Question("What do I pay before the plan pays?", {"amara": "$500", "bruno": "$1,500", "chen": "$3,200"}),
    Question(
        "What is my coinsurance percentage?", {"amara": "10 percent", "bruno": "20 percent", "chen": "30 percent"}
    ),
    Question(
        "How high is my copayment for seeing a specialist?", {"amara": "$35", "bruno": "$60", "chen": "30 percent"}
    ),
    Question("What would psychotherapy cost me?", {"amara": "$15", "bruno": "$40", "chen": "30 percent"}),
)
# Each is asked after another question, without which it can't be understood. Members whose documents don't answer it are not asked.
FOLLOW_UPS = (
    (QUESTIONS[0], Question("And for my family?", {"amara": "$1,000", "chen": "$6,400"})),
    (QUESTIONS[2], Question("And by air?", {"amara": "10 percent", "bruno": "20 percent"})),
    (QUESTIONS[1], Question("And for urgent care?", {"amara": "$50", "bruno": "$75"})),
)
UNANSWERABLE = Question("What is the allowance for dental implants?", {})
