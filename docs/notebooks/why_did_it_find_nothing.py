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
# # Why did it find nothing?
#
# "No documents found" has many causes, and each has another remedy. ragcore says which one it was: here they are, one after the other. No key, no network.

# %%
import tempfile

import ragcore

folder = tempfile.mkdtemp()
rag = ragcore.RAG.from_config(ragcore.Config.local(folder))
await rag.start()
await rag.add(
    [
        ragcore.Document("plan", "Your deductible is $1,500 per calendar year.", metadata={"year": 2026}),
        ragcore.Document("visits", "A visit to a specialist costs a copay of $40.", metadata={"year": 2026}),
        ragcore.Document("drugs", "Generic drugs cost $10 for a supply of 30 days.", metadata={"year": 2025}),
    ],
    tenant="ann",
)


async def why(question, **options):
    found = await rag.retrieve(question, **options)
    return f"{found.empty.code}: {found.empty.message}" if found.empty else f"{len(found.passages)} passages"


# %% [markdown]
# ## The tenant has nothing
#
# Another tenant's documents don't count, but that there are some points to a wrong tenant rather than an empty store.

# %%
await why("What is my deductible?", tenant="bob")

# %% [markdown]
# ## Everything is below the threshold

# %%
await why("What is my deductible?", tenant="ann", score_threshold=0.95)

# %% [markdown]
# ## The filter matches nothing

# %%
await why("What is my deductible?", tenant="ann", filter=ragcore.meta("year").eq(2019))

# %% [markdown]
# ## The similarity report
#
# It never filters what it is to explain: all scores of the tenant's chunks, what a threshold would do to them, and beside each passage its rank by words.

# %%
await rag.similarity("What is my deductible?", tenant="ann", score_threshold=0.95)

# %%
print(await rag.similarity("What is my deductible?", tenant="ann"))

# %%
await rag.aclose()
