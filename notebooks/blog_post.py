# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Gradient accumulation equals the large batch. Does yours?
#
# The claim is everywhere: add up the gradients of *k* micro-batches of *b* samples, step once, and you have trained
# with a batch of *N = b · k* samples. It is a good claim, since it can be tested: train two identical models, one with
# batches of N, one with micro-batches, and compare them at every optimizer step.
#
# We did, for the correct loop and for three that are in print or follow from it. One is the fix that an article of 2025 recommends
# ("LLMs-from-scratch项目中梯度累积的正确实现方式"), and that
# [the book's own code](https://github.com/rasbt/LLMs-from-scratch/pull/300) has had since 2024: step when
# `(batch_idx + 1) % k == 0 or (batch_idx + 1) == len(loader)`. The model is a small GPT, the text is what Python's own
# `help()` prints. Everything here is made again by `make results`; every number in the prose is read from its results.

# %% tags=["hide-input"]
import sys

from IPython.display import SVG, display

sys.path.insert(0, "..")  # the experiments lie beside this folder

# %% [markdown]
# ## Rounding or bug? First measure the noise
#
# No two ways to add up a gradient agree to the last bit, so the comparison needs a tolerance, and a tolerance that is
# chosen by taste hides bugs or invents them. Ours is measured: we run the full batch again with the samples of each
# window in another order, and with inputs and layers' outputs moved by a unit in the last place. These runs are as right as the
# reference; how far they move is the *noise floor* of each tensor at each step. The tolerance is
# {{ tolerance.safety | .0f }} times that.
#
# On {{ tolerance.cases }} random cases (seven problems, two of them with trained models, three optimizers, random sizes and seeds) that raised
# {{ tolerance.float64.false_alarms }} false alarms in float64, {{ tolerance.float32.false_alarms }} in float32 and
# {{ tolerance.bfloat16.false_alarms }} in bfloat16. It missed
# {{ tolerance.float64.missed_bugs }}, {{ tolerance.float32.missed_bugs }} and {{ tolerance.bfloat16.missed_bugs }} wrong
# loops. The mildest of them lies {{ tolerance.float64.lowest_bug | .1f }} decades above the floor in float64,
# {{ tolerance.float32.lowest_bug | .1f }} in float32. In bfloat16 the noise is as large as a mild bug; there the
# honest verdict is often "inconclusive" ({{ tolerance.bfloat16.inconclusive }} times, in float32
# {{ tolerance.float32.inconclusive }} times), and never "equivalent".

# %% tags=["hide-input"]
# Alt: Three panels, one for each dtype. Every dot is a case; its place is the worst distance from the full batch, in decades above
# the noise floor. Dots of the correct loop lie around zero, left of a line that marks the tolerance. Dots of four wrong loops lie
# far right of it in float64 and float32; in bfloat16 they come close to the line and cross it.
# Caption: How far each loop is from the full batch, in decades above the measured noise floor; one dot for each random case.
display(SVG("../results/figures/tolerance.svg"))

# %% [markdown]
# What each kind of neutral run adds, and what a floor from one kind alone would miss:

# %% tags=["hide-input"]
import pandas as pd

from experiments.tolerance import table

display(table(pd.read_csv("../results/data/tolerance.csv")).round(4))

# %% [markdown]
# ## One step at a time
#
# Here are {{ error_by_step.n }} samples in micro-batches of {{ error_by_step.b }}, with {{ error_by_step.k }}
# accumulation steps, so every epoch ends in a *tail*: a window shorter than the others. Both runs start each step from
# the same state, so an error does not spread to later steps.

# %% tags=["hide-input"]
# Alt: Three panels, one for each dtype: the relative error of the gradient at each optimizer step, on a logarithmic axis. The
# correct loop stays inside the grey band of the tolerance. The published fix lies on it, but leaps out of the band at the last step
# of each epoch, the tail. The same without the division, and the gate that opens too early, are far above the band at every step.
# Caption: Relative error of the gradient, step by step; grey is the measured tolerance.
display(SVG("../results/figures/error_by_step.svg"))

# %% [markdown]
# The correct loop stays within {{ error_by_step.float64.correct_error | .1e }} of the full batch in float64, and within
# {{ error_by_step.float32.correct_error | .1e }} in float32: it *is* the large batch, up to rounding. So is the
# published fix, on full windows. On the tail it is not: there its gradient is
# {{ error_by_step.float64.published_tail_ratio | .2f }} times the one that is due, and
# {{ error_by_step.float64.published_tail_error | .0%}} off. The condition does step at the tail, as promised. But the loss
# was divided by *k* while fewer than *k* micro-batches were left to add up.
#
# Whoever copies the condition without the division steps with {{ error_by_step.float64.undivided_ratio | .0f }} times the
# gradient. And `batch_idx % k == 0`, the bug that the fix is for, starts with an update made from the first micro-batch
# alone.

# %% [markdown]
# ## The teeth
#
# Why did nobody notice? One reason: test sets divide evenly. This is the same comparison for every data set length from one
# sample to three full batches of {{ ragged_lengths.N }}.

# %% tags=["hide-input"]
# Alt: Largest relative error of the gradient against the length of the data set, on a logarithmic axis. The correct loop is inside
# the grey band of the tolerance at every length. The published fix touches the band only where the length is a multiple of the full
# batch, and stands far above it between those, like teeth. Two more wrong loops are above it at nearly all lengths.
# Caption: Largest error of each loop at every length of the data set, float64; grey is the measured tolerance.
display(SVG("../results/figures/ragged_lengths.svg"))

# %% [markdown]
# Of {{ ragged_lengths.lengths }} lengths, the published fix is equivalent at
# {{ ragged_lengths.published_fix.equivalent }}: the multiples of {{ ragged_lengths.N }}. Everywhere else it errs by
# {{ ragged_lengths.published_fix.smallest_wrong_error | .0% }} to {{ ragged_lengths.published_fix.largest_error | .0% }}.
# The correct loop is equivalent at {{ ragged_lengths.correct.equivalent }} of them.

# %% [markdown]
# ## Adam hides the bug, and cries wolf
#
# Let both runs go, for {{ drift.steps }} steps, and watch them drift apart.

# %% tags=["hide-input"]
# Alt: Six panels: SGD above, AdamW below, one column for each dtype. They show the distance between a loop's parameters and those of
# the full-batch run over the steps, relative to the way that the full batch went, on a logarithmic axis. Under SGD the undivided loss
# ends about as far off as the whole way. Under AdamW it ends orders of magnitude nearer, and in float32 the correct loop's key bias, a
# dotted line, lies above it.
# Caption: Distance from the full-batch run as both train on freely; grey is the measured tolerance.
display(SVG("../results/figures/drift.svg"))

# %% [markdown]
# Under SGD a loss that is not divided by *k* takes the model somewhere else: the distance is
# {{ drift.sgd.float64.undivided_error | .0% }} of the way that the full-batch run went. Under AdamW the same bug moves the
# model by {{ drift.adamw.float64.undivided_error | .1e }} of the way, since Adam divides the gradient by its own size.
# A test that trains with Adam and compares parameters will pass it.
#
# And then there is the dotted line. The bias of the attention's *key* shifts all scores of a query alike, which softmax
# ignores, so its true gradient is zero and what reaches the optimizer is rounding. SGD makes nothing of it. Adam
# normalises it, to steps as large as any other: in float32 the *correct* loop's key bias ends
# {{ drift.adamw.float32.correct_key_bias_error | .1e }} of the way from the full batch's, farther than the bug moved all
# other tensors ({{ drift.adamw.float32.undivided_error | .1e }}), which in the correct loop are apart by
# {{ drift.adamw.float32.correct_error | .1e }}. No fixed tolerance can be right for both. The measured one is: it knows that
# the key bias is noise, and that the rest is not.

# %% [markdown]
# ## What to write instead
#
# Weigh each micro-batch by its share of the window. The window must be collected before its first backward pass, as its
# size is not known earlier; count samples if your loss is a mean over samples, unmasked tokens if over tokens.

# %%
import inspect

from harness import loops

print(inspect.getsource(loops.accumulate_tokens))

# %% [markdown]
# A loop of yours needs no model and no data: the weights of its samples are read off as exact fractions.

# %%
from harness import check_equivalence

print(check_equivalence(loops.published_fix))

# %% [markdown]
# ## Limits
#
# What is shown holds for losses that are means over samples or tokens, on the CPU, for the sizes that were run. Models
# that mix samples (BatchNorm, in-batch negatives) cannot be accumulated exactly by any loop. Dropout draws other masks
# for other batch shapes, and was off. How far apart two *equally good* trainings end is not the question here; whether
# they are the same training is.
