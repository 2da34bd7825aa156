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
# A deadline limits the whole call. When ragcore asks the model, it reserves a part of the remaining time for quoting the passages. So if the model is too slow,
# the answer is a quotation instead of an error.
#
# This notebook needs no API key and no network. It uses a fake model with a configurable speed.

# %%
import time

import matplotlib.pyplot as plt
import pandas as pd
import ragcore
from ragcore import testing

model = testing.FakeGenerator("The deductible is $1,500 [1].")
rag = testing.fake_rag(generator=model)
await rag.start()
await rag.add(
    [ragcore.Document("plan", "Your deductible is $1,500 per calendar year.")],
    tenant="me",
)

# %% [markdown]
# The next cell asks the same question several times, with a timeout of two seconds. The model takes longer each time.

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
            "by": answer.degraded[0].fallback
            if answer.degraded
            else "the model",
        }
    )
written = [row["model takes"] for row in rows if row["by"] == "the model"]
quoted = [row["model takes"] for row in rows if row["by"] != "the model"]
slowest = max(row["answer after"] for row in rows)
print("The model wrote the answer when it took", *written, "seconds.")
print("The answer was quoted when the model took", *quoted, "seconds.")
print(f"The slowest answer came after {slowest} s; the timeout is 2.0 s.")
pd.DataFrame(rows)

# %%
figure, plot = plt.subplots(figsize=(7, 3.2), facecolor="white")
for by, marker in (("the model", "o"), ("quotation", "s")):
    chosen = [
        row for row in rows if (row["by"] == "the model") == (by == "the model")
    ]
    plot.plot(
        [row["model takes"] for row in chosen],
        [row["answer after"] for row in chosen],
        marker,
        color="black",
        label=f"answered by {by}",
    )
plot.axhline(2.0, linestyle="--", color="0.4", label="deadline")
plot.set_xlabel("seconds that the model takes")
plot.set_ylabel("seconds until the answer")
plot.legend(frameon=False)
plt.show()

# %% [markdown]
# If the first token does not arrive within 40 % of the time that is left for the model, ragcore stops waiting and quotes the documents. A part of the timeout is
# reserved for the quotation, so here the limit is a little less than 40 % of two seconds. The table calls the quotation "extractive". `answer.degraded` reports it. To raise
# an error instead, set `Settings(degrade=False)`.

# %%
model.faults.next(testing.Slow(10.0))
strict = testing.fake_rag(
    generator=model, settings=ragcore.Settings(degrade=False, watchdog=False)
)
async with strict:
    await strict.add(
        [
            ragcore.Document(
                "plan", "Your deductible is $1,500 per calendar year."
            )
        ],
        tenant="me",
    )
    try:
        await strict.ask("What is my deductible?", tenant="me", timeout=1.0)
    except ragcore.RagcoreError as error:
        print(f"{type(error).__name__}: {error}")

# %%
await rag.aclose()
