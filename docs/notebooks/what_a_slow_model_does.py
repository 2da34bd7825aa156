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
# # What a slow model does to a deadline
#
# A deadline is for the whole call. Of what is left when the model is asked, a part is kept for quoting from the passages: a model that is too slow costs its words, not the answer.
# No key, no network: the model is a fake whose speed is set.

# %%
import time

import matplotlib.pyplot as plt
import pandas as pd
import ragcore
from ragcore import testing

model = testing.FakeGenerator("The deductible is $1,500 [1].")
rag = testing.fake_rag(generator=model)
await rag.start()
await rag.add([ragcore.Document("plan", "Your deductible is $1,500 per calendar year.")], tenant="me")

# %% [markdown]
# The same question, with two seconds, while the model gets slower and slower.

# %%
rows = []
for seconds in (0.0, 0.3, 0.6, 1.0, 2.0, 10.0):
    model.faults.next(testing.Slow(seconds))
    began = time.perf_counter()
    answer = await rag.ask("What is my deductible?", tenant="me", timeout=2.0)
    rows.append(
        {
            "model takes": seconds,
            "answer after": round(time.perf_counter() - began, 2),
            "by": answer.degraded[0].fallback if answer.degraded else "the model",
        }
    )
pd.DataFrame(rows)

# %%
figure, plot = plt.subplots(figsize=(7, 3.2), facecolor="white")
for by, marker in (("the model", "o"), ("quotation", "s")):
    chosen = [row for row in rows if (row["by"] == "the model") == (by == "the model")]
    plot.plot(
        [row["model takes"] for row in chosen], [row["answer after"] for row in chosen], marker, color="black", label=f"answered by {by}"
    )
plot.axhline(2.0, linestyle="--", color="0.4", label="deadline")
plot.set_xlabel("seconds that the model takes")
plot.set_ylabel("seconds until the answer")
plot.legend(frameon=False)
plt.show()

# %% [markdown]
# Where the first word doesn't come within 40 % of the time, the model is given up and the answer is quoted from the documents; it says so in `answer.degraded`. Who would rather
# have an error sets `Settings(degrade=False)`.

# %%
model.faults.next(testing.Slow(10.0))
strict = testing.fake_rag(generator=model, settings=ragcore.Settings(degrade=False, watchdog=False))
async with strict:
    await strict.add([ragcore.Document("plan", "Your deductible is $1,500 per calendar year.")], tenant="me")
    try:
        await strict.ask("What is my deductible?", tenant="me", timeout=1.0)
    except ragcore.RagcoreError as error:
        print(f"{type(error).__name__}: {error}")

# %%
await rag.aclose()
