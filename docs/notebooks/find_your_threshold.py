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
# A score threshold keeps passages away from the model that have nothing to do with the question. Which number does that depends on the embedding model and on
# your documents: 0.4 may be everything for one and nothing for another. So it is measured, with questions whose documents are known.
#
# This notebook runs on your machine, with no key and no network. It needs `pip install '/path/to/checkout[embedded,local,notebook]'`.

# %%
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
# Twelve short documents, and questions with the ids of the documents that answer them. Your own come from a file: `explore.load("labels.jsonl",
# tenant="me")`, with a line such as `{"question": "What is my deductible?", "relevant": ["plan.md"], "tags": ["cost"]}`.

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
# Scores are fetched once; all thresholds are then tried without another query.

# %%
sweep = await explore.thresholds(rag.retriever, labels, aim="f1")
print(sweep)
sweep.plot().figure

# %% [markdown]
# Precision rises with the threshold, since what is wrong falls away first; recall falls when what is right falls away too. The grey band is where the recommendation from other
# questions of this kind would lie. With thirteen questions it is wide: that is the honest answer, and fifty questions make it narrower.

# %%
sweep.to_frame().iloc[::8]

# %% [markdown]
# ## Right and wrong by their scores
#
# Where the two heaps overlap, no threshold tells them apart.

# %%
sweep.plot_scores().figure

# %% [markdown]
# ## Another aim
#
# Losing an answer is worse than reading a passage too many? Then ask for recall: at least 0.95, with the fewest tokens.

# %%
for aim in ("f1", "recall", "found"):
    found = await explore.thresholds(rag.retriever, labels, aim=aim)
    row = next(row for row in found.to_dicts() if row["threshold"] == found.recommended)
    print(f"{aim:<7} {found.recommended:.2f}  recall {row['recall']:.2f}  precision {row['precision']:.2f}  tokens {row['tokens']:.0f}")

# %% [markdown]
# By tag: questions about rules are asked in words that are further from the document's.

# %%
pd.DataFrame(sweep.tags_to_dicts())

# %% [markdown]
# ## With real questions
#
# Squad (Rajpurkar et al., 2016; CC BY-SA 4.0) has thousands; where it lies beside the checkout, here are two hundred of them over three hundred passages.

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
    on_squad = await explore.thresholds(rag.retriever, chosen)
    print(on_squad)
    plt.close()
    display(on_squad.plot().figure)

# %%
await rag.aclose()
