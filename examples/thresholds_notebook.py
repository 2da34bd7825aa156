# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
"""
# A threshold for the bicycle shop

This notebook measures score thresholds with a few labelled questions. It computes every number that it prints from the results.

It needs the extras embedded, local and notebook. Open it in Jupyter with jupytext, or run it as a script: `python thresholds_notebook.py`
"""

# %%
import ragcore
from anyio.from_thread import start_blocking_portal
from ragcore import explore
from ragcore.ingest import read

labels = explore.load(
    [
        {"question": "How many years is the frame covered?", "relevant": ["warranty.md"]},
        {"question": "What if the battery dies after a year?", "relevant": ["warranty.md"]},
        {"question": "How long until my bicycle is fixed?", "relevant": ["repairs.md"]},
        {"question": "What do you charge for a flat tyre?", "relevant": ["repairs.md"]},
        {"question": "What does a cargo bicycle cost per day?", "relevant": ["rental.md"]},
        {"question": "Do I get the deposit back?", "relevant": ["rental.md"]},
    ],
    tenant="shop",
)

# %% [markdown]
# The client runs on its own event loop, in another thread. So this cell works in a script, and in Jupyter, where an event loop already runs.


# %%
async def measure() -> explore.Sweep:
    async with ragcore.RAG.from_config(ragcore.Config.local("data")) as rag:
        await rag.add(read("documents"), tenant="shop")
        return await explore.thresholds(rag.retriever, labels, aim="recall")


with start_blocking_portal() as portal:
    sweep = portal.call(measure)
print(sweep)
sweep.plot().figure

# %%
rows = sweep.to_dicts()
lowest = rows[0]
best = next(row for row in rows if row["threshold"] == sweep.recommended)
for row in (lowest, best):
    print(f"At {row['threshold']:.2f}, recall is {row['recall']:.2f} and precision {row['precision']:.2f}.")
print(f"The passages of a prompt have {best['tokens']:.0f} tokens on average, instead of {lowest['tokens']:.0f}.")
low, high = sweep.interval
print(f"With {sweep.questions} questions, the 95 % interval of the recommendation is {low:.2f} to {high:.2f}.")

# %% [markdown]
# The next plot shows the scores of right chunks (of relevant documents) and of wrong chunks.

# %%
first = next(number for number, right in enumerate(sweep.right) if right)
print(f"The lowest score of a right chunk is between {sweep.bins[first]:.2f} and {sweep.bins[first + 1]:.2f}.")
print(f"{sum(sweep.wrong[first:])} of {sum(sweep.wrong)} wrong chunks have a score in this range or a higher one.")
sweep.plot_scores().figure
