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
# with a batch of *N = b · k* samples. It is a good claim, since it can be tested.
#
# We tested it: for the loop of a well-known book, for the fix that its code got, for the claims that an article of 2025 makes
# beside that fix ("LLMs-from-scratch项目中梯度累积的正确实现方式", on
# [the book's pull request](https://github.com/rasbt/LLMs-from-scratch/pull/300)), and for the frameworks that most people
# train with. Everything here is made again by `make results`; every number in the prose is read from its results.

# %% tags=["hide-input"]
import sys
from pathlib import Path

from IPython.display import HTML, Image, display

sys.path.insert(0, "..")  # the experiments lie beside this folder

# %% [markdown]
# ## A training loop is a matrix
#
# Before each optimizer step, the gradient is a weighted sum of the samples' gradients. Write the weights down, a row for
# each update and a column for each sample, and you have all that a loop does: two loops with the same weights, the same
# optimizer and the same learning rates are the same training, whatever the model. For the full batch each row has one over
# the size of its window, and zeros elsewhere.
#
# The weights can be read off a running loop. Give it a model in which every sample owns its own parameters, and the gradient
# *is* the row. Nothing is estimated; what comes out are fractions. Here are the book's loop before its fix, the fix, a correct
# loop and the full batch, for {{ contributions.n }} samples in micro-batches of one, *k* = {{ contributions.k }} and two epochs.

# %% tags=["hide-input"]
# Alt: Four heat maps of weights, optimizer steps downwards and samples to the right. With the bug the first update holds one sample
# alone, the next are shifted, and leftovers join the next epoch. The published fix steps where it should, but its tail has
# weights of a quarter for a third, outlined as wrong. Correct accumulation equals full-batch training.
# Caption: Which sample goes into which update, and with what weight. Orange: not as in full-batch training.
# Data: contributions.csv, contributions_lengths.csv
display(Image(url="../results/figures/contributions.svg"))

# %% [markdown]
# The bug, `batch_idx % k == 0`, gets {{ contributions.wrong.early_first_step }} of {{ contributions.weights }} weights wrong.
# The published fix, `(batch_idx + 1) % k == 0 or (batch_idx + 1) == len(loader)`, gets
# {{ contributions.wrong.published_fix }} wrong: all of those in the tails. It is right about *when* to step, and the loss is
# divided by *k* even where fewer than *k* micro-batches are left. Correct accumulation gets
# {{ contributions.wrong.accumulate_samples }} wrong.
#
# ## The article's claims, measured
#
# | claim, in our words | verdict | measured |
# | --- | --- | --- |
# | {{ book.claim }} | {{ book.verdict }} | {{ book.finding }} |
# | {{ contributions.claims.first_iteration.claim }} | {{ contributions.claims.first_iteration.verdict }} | {{ contributions.claims.first_iteration.finding }} |
# | {{ contributions.claims.leftovers.claim }} | {{ contributions.claims.leftovers.verdict }} | {{ contributions.claims.leftovers.finding }} |
# | {{ contributions.claims.fix.claim }} | {{ contributions.claims.fix.verdict }} | {{ contributions.claims.fix.finding }} |
# | {{ tail_weight.claim }} | {{ tail_weight.verdict }} | {{ tail_weight.finding }} |
# | {{ tokens.claim }} | {{ tokens.verdict }} | {{ tokens.finding }} |
# | {{ learning_rate.claim }} | {{ learning_rate.verdict }} | {{ learning_rate.finding }} |
# | {{ batch_norm.claim }} | {{ batch_norm.verdict }} | {{ batch_norm.finding }} |
# | {{ smoothness.claim }} | {{ smoothness.verdict }} | {{ smoothness.finding }} |
# | {{ memory.claim }} | {{ memory.verdict }} | {{ memory.finding }} |
# | {{ precision.claim }} | {{ precision.verdict }} | {{ precision.finding }} |

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
display(Image(url="../results/figures/error_by_step.svg"))

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
# ## What the tail costs
#
# Does it matter? A tail is one window of an epoch. But its update is off by all of one minus *r/k*, the next steps start from
# there, and a short tail has a long gradient. After {{ tail_weight.epochs }} epochs of {{ tail_weight.windows }} windows with a tail of one
# micro-batch in {{ tail_weight.k }}, the run is {{ tail_weight.sgd.displacement_error.r1.windows16 | .1% }} off under SGD. AdamW does not save you:
# {{ tail_weight.adamw.displacement_error.r1.windows16 | .1% }}. It hides an error that all updates share
# ({{ tail_weight.adamw.one_window_error | .0e }} where every window is a tail), and no other.

# %% tags=["hide-input"]
# Alt: Errors by tail size and by the number of windows in an epoch, for SGD and AdamW. Under SGD the error of the tail's update is one minus r over k; the displacement's error falls as epochs get more windows, slower than the lost weight does.
# Caption: What dividing a tail of r micro-batches by k costs: the error of its own update, and of where training has got to.
display(Image(url="../results/figures/tail_weight.svg"))

# %% [markdown]
# ## Tokens are not samples
#
# A language model's loss is a mean over tokens, and micro-batches hold different numbers of them. If every micro-batch weighs
# the same, the tokens do not. With equal counts the error is {{ tokens.equal_counts_error | .0f }}. If counts vary by half of their mean,
# the gradient is off by {{ tokens.epochs0.error_at_half.random | .0% }} before training and {{ tokens.epochs1.error_at_half.random | .0% }} after an epoch;
# theory says {{ tokens.epochs0.theory_at_half.random | .0% }} and {{ tokens.epochs1.theory_at_half.random | .0% }}. Noise is a larger part of a trained model's
# gradient, and it is the noise that is weighed wrongly.

# %% tags=["hide-input"]
# Alt: Relative error of the gradient against the spread of token counts between micro-batches, untrained and after an epoch, with theory curves. Points follow the curves, from zero at equal counts upwards.
# Caption: Error of the mean of means against the token mean, by the spread of token counts. Lines: theory, nothing fitted.
display(Image(url="../results/figures/tokens.svg"))

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
display(Image(url="../results/figures/ragged_lengths.svg"))

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
display(Image(url="../results/figures/drift.svg"))

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
display(Image(url="../results/figures/tolerance.svg"))

# %% [markdown]
# What each kind of neutral run adds, and what a floor from one kind alone would miss:

# %% tags=["hide-input"]
import pandas as pd

from experiments.tolerance import table

display(table(pd.read_csv("../results/data/tolerance.csv")).round(4))

# %% [markdown]
# ## Batch one, accumulated eight times
#
# {{ book.finding | sentence }}. What separates them in the book's table is which
# token is read: with padding, the last one is a padding token. And the order: the script's evaluation draws from the stream that
# shuffles, so that from the second epoch on {{ book.order.same_windows_later }} of {{ book.order.steps }} windows are the same.

# %% tags=["hide-input"]
# Alt: Rows for batch one, batch one accumulated eight times, and batch eight padded, with ablations that take the differences away one by one.
# Caption: The book's classifier, trained in three ways, and what separates them.
display(Image(url="../results/figures/book.svg"))

# %% [markdown]
# ## The learning rate
#
# {{ learning_rate.finding | sentence }}. What counts is *N*: at the same *N*, the best rate is the same with or without accumulation.

# %% tags=["hide-input"]
# Alt: Best learning rate against the effective batch size, for SGD and AdamW, with the linear and the square-root rule, and what each rule costs. AdamW's best rates follow the square root; SGD's stop growing.
# Caption: Best learning rate by effective batch size, with intervals over seeds, and the loss that each rule costs.
display(Image(url="../results/figures/learning_rate.svg"))

# %% [markdown]
# ## BatchNorm, and norms that do not mind
#
# {{ batch_norm.finding | sentence }}.

# %% tags=["hide-input"]
# Alt: Errors of gradient, running mean and running variance against k, for BatchNorm with three momenta, frozen BatchNorm, GroupNorm and LayerNorm. Only BatchNorm's are above rounding.
# Caption: What accumulation changes in a normalised network, by the number of accumulation steps at one effective batch size.
display(Image(url="../results/figures/batch_norm.svg"))

# %% [markdown]
# ## Does the curve get jumpy?
#
# {{ smoothness.finding | sentence }}.

# %% tags=["hide-input"]
# Alt: Above, one training recorded in three ways: every micro-batch is jumpy, the last micro-batch before an update as well, the mean over the window is smooth. Below, jumpiness against b and k with theory lines.
# Caption: One training, three recordings; and where jumpiness comes from. Lines are theory.
# Data: smoothness.csv, smoothness_curve.csv
display(Image(url="../results/figures/smoothness.svg"))

# %% [markdown]
# ## Memory, and what keeps it
#
# {{ memory.finding | sentence }}. The variable that costs is the loss itself: whoever adds up losses and calls `backward` once at the
# window's end keeps every graph, and saves nothing. A running total without `.item()`, after its own `backward`, keeps
# nodes without activations: {{ memory.graph_kilobytes_per_micro_batch | .0f }} kB for each micro-batch.

# %% tags=["hide-input"]
# Alt: Bytes against micro-batch size and accumulation steps, measured and in theory, for correct accumulation, one backward pass at the end, and losses that keep their graphs.
# Caption: Peak of saved activations and of all tensors, counted to the byte.
display(Image(url="../results/figures/memory.svg"))

# %% [markdown]
# ## Precision
#
# {{ precision.finding | sentence }}. Yet a full batch in bfloat16 is no refuge, as kernels sum in it too: at a fixed *N* the error is least
# at *k* = {{ precision.best_k_bfloat16_at_fixed_n }}.

# %% tags=["hide-input"]
# Alt: Error of the accumulated gradient against k for several dtypes of parameters and buffers. Buffers in bfloat16 get worse with k; float32 buffers do not.
# Caption: Error against a full batch in float64, by accumulation steps.
display(Image(url="../results/figures/precision.svg"))

# %% [markdown]
# ## What frameworks do
#
# Most people let a framework write this loop, so we read the matrices of frameworks, in the versions that the table names. {{ frameworks.finding | sentence }}. Of {{ frameworks.known.other }}
# cells that differ, the documentation says so in {{ frameworks.known.documented }}, and in part in {{ frameworks.known.in_part }};
# {{ frameworks.known.threads }} have a public thread, {{ frameworks.known.neither }} have neither.
# [The table in words](../results/frameworks.md) has the links, the lines of source, and a command for
# every cell. "Stream" is another policy, in which windows run on across epochs.

# %% tags=["hide-input"]
# Alt: A table of settings of frameworks and recipes by eight behaviours. Full windows equal full-batch training nearly everywhere; tails, short micro-batches and tokens mostly do not.
# Caption: Weights that frameworks give, for the weights that they should be, in the versions named.
display(HTML(Path("../results/frameworks.html").read_text()))

# %% [markdown]
# And it depends on the model. {{ architectures.finding | sentence }}. The cause of the first is
# [known](https://github.com/huggingface/transformers/issues/47688): Trainer hands the number of labels to every model whose `forward` takes
# `**kwargs`, and leaves the division to it.

# %% tags=["hide-input"]
# Alt: Ratio of accumulated to full-batch gradient for families of models and five kinds of head. Causal language models lie at one, nearly all classifiers at k.
# Caption: Gradient that Trainer accumulates, over that of its full batch, by architecture.
display(Image(url="../results/figures/architectures.svg"))

# %% [markdown]
# ## What to write instead
#
# Weigh each micro-batch by its share of the window. The window must be collected before its first backward pass, as its
# size is not known earlier; count samples if your loss is a mean over samples, unmasked tokens if over tokens.

# %%
import inspect

from accumcheck.corpus import published as loops

print(inspect.getsource(loops.accumulate_tokens))

# %% [markdown]
# A loop of yours needs no model and no data: the weights of its samples are read off as exact fractions.

# %%
from accumcheck import check_equivalence

print(check_equivalence(loops.published_fix))

# %% [markdown]
# ## Limits
#
# What is shown holds for losses that are means over samples or tokens, on the CPU, for the sizes that were run. Models
# that mix samples (BatchNorm, in-batch negatives) cannot be accumulated exactly by any loop. Frameworks were read in one version each; learning rates, curves and
# costs of tails were measured on small models, and are no law for large ones. Dropout draws other masks
# for other batch shapes, and was off. How far apart two *equally good* trainings end is not the question here; whether
# they are the same training is.
