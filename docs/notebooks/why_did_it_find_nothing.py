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
# A search can find nothing for several reasons, and each reason needs a different correction. ragcore reports the reason. This notebook shows three of them, one
# after the other. It needs no API key and no network.

# %%
import tempfile

import ragcore

folder = tempfile.mkdtemp()
rag = ragcore.RAG.from_config(ragcore.Config.local(folder))
await rag.start()
await rag.add(
    [
        ragcore.Document(
            "plan",
            "Your deductible is $1,500 per calendar year.",
            metadata={"year": 2026},
        ),
        ragcore.Document(
            "visits",
            "A visit to a specialist costs a copay of $40.",
            metadata={"year": 2026},
        ),
        ragcore.Document(
            "drugs",
            "Generic drugs cost $10 for a supply of 30 days.",
            metadata={"year": 2025},
        ),
    ],
    tenant="ann",
)


async def why(question, **options):
    found = await rag.retrieve(question, **options)
    return (
        f"{found.empty.code}: {found.empty.message}"
        if found.empty
        else f"{len(found.passages)} passages"
    )


# %% [markdown]
# ## The tenant has no documents
#
# A search never finds another tenant's documents. If the store contains documents of other tenants, the name of the tenant may be wrong.

# %%
await why("What is my deductible?", tenant="bob")

# %% [markdown]
# ## No score reaches the threshold
#
# The message contains the best score. Lower the threshold, or [measure it](../find_your_threshold/).

# %%
await why("What is my deductible?", tenant="ann", score_threshold=0.95)

# %% [markdown]
# ## No document matches the filter
#
# The tenant has documents, but none of them has this value in its metadata.

# %%
await why(
    "What is my deductible?", tenant="ann", filter=ragcore.meta("year").eq(2019)
)

# %% [markdown]
# ## The similarity report
#
# The similarity report does not apply the threshold. It shows the scores of all chunks of the tenant, the effect of the threshold, and the score of each passage in
# text search (`text score`).

# %%
await rag.similarity(
    "What is my deductible?", tenant="ann", score_threshold=0.95
)

# %%
print(await rag.similarity("What is my deductible?", tenant="ann"))

# %%
await rag.aclose()
