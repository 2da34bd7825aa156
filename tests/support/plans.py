"""Makes sets of documents with questions.

In the plans, only the titles name the plan; in the handbook, only the headings do. The titles of the notices say nothing about their content.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from ragcore import Document

__all__ = ["Asked", "handbook", "notices", "plans"]

# Topics of members' questions: the name, the statement with a placeholder for the amount, the question.
TOPICS = [
    (
        "Deductible",
        "Before the plan pays anything you pay {} each year yourself.",
        "How much do I pay before coverage begins",
    ),
    ("Primary care", "A visit to your family doctor costs {}.", "What does seeing my general practitioner cost"),
    (
        "Specialists",
        "Seeing a specialist, such as a cardiologist, costs {}.",
        "What is the price of a visit to a heart doctor",
    ),
    (
        "Emergency room",
        "The emergency room costs {}, which is waived if you are admitted.",
        "What do I owe for emergency care",
    ),
    (
        "Urgent care",
        "Urgent care centers charge {} for each visit.",
        "What is the charge at a walk-in clinic for urgent problems",
    ),
    (
        "Generic drugs",
        "Generic medicine costs {} for a supply of thirty days.",
        "How expensive are generic prescriptions",
    ),
    ("Brand drugs", "Preferred brand medicine costs {} for thirty days.", "How much are brand name prescriptions"),
    (
        "Hospital stay",
        "A stay in hospital costs {} a day for the first five days.",
        "What does being hospitalised cost per day",
    ),
    ("Outpatient surgery", "Surgery without a night in hospital costs {}.", "What is my share of same day surgery"),
    ("Imaging", "Scans such as MRI and CT cost {}.", "How much is a magnetic resonance scan"),
    ("Laboratory", "Blood tests and other laboratory work cost {}.", "What do blood tests cost me"),
    ("Maternity", "Care before and after birth costs {} altogether.", "What do I pay for having a baby"),
    ("Mental health", "An hour of psychotherapy costs {}.", "What is the cost of seeing a therapist"),
    (
        "Physical therapy",
        "Physical therapy costs {} a session, for thirty sessions a year.",
        "How much is a physiotherapy session",
    ),
    (
        "Chiropractic",
        "A chiropractor charges {} a visit, twelve times a year.",
        "What does back adjustment by a chiropractor cost",
    ),
    ("Ambulance", "A ride in an ambulance costs {}.", "What will I be billed for ambulance transport"),
    ("Hearing aids", "Hearing aids are paid up to {} every three years.", "What is the allowance for hearing devices"),
    ("Glasses", "Frames and lenses are paid up to {} a year.", "How much can I spend on eyeglasses"),
    ("Dental cleaning", "Two dental cleanings a year cost {} each.", "What does a teeth cleaning cost"),
    ("Out-of-pocket limit", "After {} in a year the plan pays everything.", "What is the most I could pay in one year"),
]
METALS = ["Bronze", "Silver", "Gold", "Platinum", "Copper", "Titanium"]
KINDS = ["HMO", "PPO", "EPO", "POS"]
PLACES = ["Lakeside", "Northwind", "Riverbend", "Oakridge"]
GENERAL = [
    "Information for members",
    "Notice",
    "Frequently asked questions",
    "Important changes",
    "Your benefits",
    "Letter",
]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, the document that answers it, and the text that the right passage contains."""

    question: str
    document: str
    contains: str


def plans(seed: int = 1, count: int = 48) -> tuple[list[Document], list[Asked]]:
    """Return plans with the same sections and different amounts. Only the title names the plan."""
    draw = random.Random(seed)
    names = [f"{place} {metal} {kind}" for place in PLACES for metal in METALS for kind in KINDS]
    documents, asked = [], []
    for name in draw.sample(names, count):
        sections = []
        for topic, statement, question in TOPICS:
            amount = f"${draw.randint(5, 9_500):,}"
            sections.append(f"## {topic}\n\n{statement.format(amount)}\n")
            asked.append(Asked(f"{question} with the {name} plan?", name, statement.format(amount)))
        documents.append(Document(name, "\n".join(sections), title=name))
    return documents, draw.sample(asked, 400)


def handbook(seed: int = 1, count: int = 48) -> tuple[list[Document], list[Asked]]:
    """Return the same plans as parts of one document."""
    documents, asked = plans(seed, count)
    text = "\n".join(f"# {document.title}\n\n{document.text}" for document in documents)
    return [Document("handbook", text, title="Member handbook")], [replace(one, document="handbook") for one in asked]


def notices(seed: int = 2, count: int = 240) -> tuple[list[Document], list[Asked]]:
    """Return notices, each about one topic for one group of members. Their titles and headings are generic."""
    draw = random.Random(seed)
    groups = [
        f"{work} in {place}"
        for work in ("Teachers", "Nurses", "Drivers", "Cooks", "Farmers", "Pilots")
        for place in PLACES
    ]
    pairs = draw.sample([(topic, group) for topic in TOPICS for group in groups], count)
    documents, asked = [], []
    for number, ((_, statement, question), group) in enumerate(pairs):
        said = f"{statement.format(f'${draw.randint(5, 9_500):,}')} This holds for {group.lower()}."
        title = f"{draw.choice(GENERAL)} {draw.randint(1, 99)}"
        documents.append(Document(f"notice-{number}", f"## {draw.choice(GENERAL)}\n\n{said}\n", title=title))
        asked.append(Asked(f"{question} for {group.lower()}?", f"notice-{number}", said))
    return documents, asked
