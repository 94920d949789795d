# ---
# jupyter:
#   accumcheck:
#     author: The accumcheck maintainers
#     date: "2026-11-27"
#     language: en
#     picture: figures/contributions.png
#     pages:
#       - {file: blog_post.html, title: "Start: is yours the large batch?"}
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Gradient accumulation: the claims, one by one
#
# An article of 2025, <cite lang="zh-Hans">《LLMs-from-scratch项目中梯度累积的正确实现方式》</cite> ("How to implement
# gradient accumulation right in the LLMs-from-scratch project"), is about
# [a book's pull request](https://github.com/rasbt/LLMs-from-scratch/pull/300) and makes ten claims. The last one here is made by
# others. Each has an experiment, and a verdict. Models are small and run on the CPU, so a learning rate or a loss is no law for
# large ones. Whether two trainings are *the same* does not depend on size.
#
# **Words.** A *micro-batch* has *b* samples. A *window* is what one optimizer step is made of: *k* micro-batches, so
# *N = b · k* samples. The *tail* is the last, short window of an epoch.

# %% tags=["hide-input"]
import sys

from IPython.display import Image, display

sys.path.insert(0, "..")  # the experiments lie beside this folder

# %% [markdown]
# ## The condition steps at the first micro-batch
#
# *Claim: {{ contributions.claims.first_iteration.claim }}.* **{{ contributions.claims.first_iteration.verdict }}**
#
# `batch_idx % k == 0` is true for the first micro-batch. So the first update is made of that one alone. The figure shows
# {{ contributions.n }} samples in micro-batches of one, with *k* = {{ contributions.k }} and two epochs. The bug gets
# {{ contributions.wrong.early_first_step }} of {{ contributions.weights }} weights wrong.

# %% tags=["hide-input"]
# Alt: Four heat maps of weights, optimizer steps downwards and samples to the right. With the bug the first update holds one sample
# alone, the next are shifted, and leftovers join the next epoch. The published fix steps where it should, but its tail has
# weights of a quarter for a third, outlined as wrong. Correct accumulation equals full-batch training.
# Caption: Which sample goes into which update, and with what weight. Orange: not as in full-batch training.
# Data: contributions.csv, contributions_lengths.csv
display(Image(url="../results/figures/contributions.svg"))

# %% [markdown]
# ## Leftovers may not be handled
#
# *Claim: {{ contributions.claims.leftovers.claim }}.* **{{ contributions.claims.leftovers.verdict }}**
#
# It is worse than that. The leftovers are added to the next epoch's first update, and only those of the last epoch are lost.
# This happened at {{ contributions.lost_at | count }} of {{ contributions.lengths }} lengths. Some of them are multiples of *k*.
#
# ## The fix handles first step, tail and end
#
# *Claim: {{ contributions.claims.fix.claim }}.* **{{ contributions.claims.fix.verdict }}**
#
# The fix, `(batch_idx + 1) % k == 0 or (batch_idx + 1) == len(loader)`, steps at the right places at all
# {{ contributions.lengths }} lengths. Its weights are right at {{ contributions.fix_equal_at | count }}: the multiples of *k*,
# as a micro-batch is one sample here. The loss is divided by *k* even where fewer than *k* micro-batches are left.
#
# Step by step, with a small GPT on {{ error_by_step.n }} lines of text: the correct loop is the large batch up to rounding. So is
# the fix in full windows. At the tail its gradient is {{ error_by_step.float64.published_tail_error | .0% }} off. If you copy
# the condition without the division, the gradient of a full window is {{ error_by_step.float64.undivided_ratio | .0f }} times too large.

# %% tags=["hide-input"]
# Alt: Three panels, one for each dtype: the relative error of the gradient at each optimizer step. The correct loop stays at rounding.
# The published fix leaves it at the last step of each epoch, the tail. Two more loops are wrong at every step.
# Caption: A small GPT on lines of text, SGD. Each step starts from the same state, so an error does not spread.
display(Image(url="../results/figures/error_by_step.svg"))

# %% [markdown]
# ## All gradients are fully used
#
# *Claim: {{ tail_weight.claim }}.* **{{ tail_weight.verdict }}**
#
# Where every epoch divides evenly, this holds. Elsewhere none is left out, but a tail of *r* micro-batches gets *r/k* of its gradient, and every later step starts from the wrong place. Take
# {{ tail_weight.windows }} windows an epoch and a tail of one micro-batch in {{ tail_weight.k }}. After {{ tail_weight.epochs }}
# epochs the model is {{ tail_weight.sgd.displacement_error.r1.windows16 | .1% }} off course under SGD. Under AdamW it is
# {{ tail_weight.adamw.displacement_error.r1.windows16 | .1% }}, a mean over {{ tail_weight.seeds }} seeds. Adam forgives a factor
# on *every* step. It does not forgive a factor on one step of many.

# %% tags=["hide-input"]
# Alt: Errors by tail size and by the number of windows in an epoch, for SGD and AdamW. The shorter the tail, the larger the error of
# its update; what it costs falls as epochs get more windows.
# Caption: What dividing a tail of r micro-batches by k costs: the error of its own update, and of where training has got to. An MLP
# on scikit-learn's digits.
display(Image(url="../results/figures/tail_weight.svg"))

# %% [markdown]
# ## Micro-batches equal the large batch
#
# *Claim: {{ tokens.claim }}.* **{{ tokens.verdict }}**
#
# A language model's loss is a mean over tokens. If all micro-batches hold equally many, accumulating means is exact. If their
# counts vary by half of their mean, the gradient is {{ tokens.epochs0.error_at_half.random | .0% }} off before training. After
# one epoch it is {{ tokens.epochs1.error_at_half.random | .0% }} off. It gets worse, because what is left of the gradient is
# mostly noise, and wrong weights act on the noise.

# %% tags=["hide-input"]
# Alt: Relative error of the gradient against the spread of token counts between micro-batches, untrained and after an epoch, with
# theory curves. Points follow the curves, from zero at equal counts upwards.
# Caption: Error of the mean of means against the token mean, by the spread of token counts. A small GPT on lines of text. Lines are
# theory for random masks, nothing is fitted.
display(Image(url="../results/figures/tokens.svg"))

# %% [markdown]
# ## Batch one, accumulated eight times, is batch eight
#
# *Claim: {{ book.claim }}.* **{{ book.verdict }}**
#
# Pad both in the same way, without dropout, and they are the same up to rounding. Without padding the classifier reads another token,
# which accumulation has no part in. Accuracy hardly moves: {{ book.accuracy.1 × 8, padded | .1% }} padded and
# {{ book.accuracy.1 × 8, not padded | .1% }} not, over {{ book.seeds }} seeds. The script's evaluation also draws from the
# stream that shuffles. So from the second epoch on, {{ book.order.same_windows_later }} of {{ book.order.steps }} windows are
# the same.

# %% tags=["hide-input"]
# Alt: A table of ways to train the book's classifier with batch one accumulated eight times, and whether each is the same training as
# batch eight. It is the same where both are padded alike or the last real token is read.
# Caption: The book's classifier in small, on lines of help text, trained in several ways.
display(Image(url="../results/figures/book.svg"))

# %% [markdown]
# ## The learning rate may have to change
#
# *Claim: {{ learning_rate.claim }}.* **{{ learning_rate.verdict }}**
#
# What counts is *N*. At the same *N* the best rate is the same with accumulation and without: accumulation itself asks for no
# change. If *N* grows and the number of samples stays, AdamW's best rate grows as *N* to the power
# {{ learning_rate.adamw.exponent.0 | .2f }}, close to the square root. SGD's stops growing. At *N* = {{ learning_rate.largest_N }} a
# rate scaled linearly costs AdamW {{ learning_rate.adamw.by_N.512.linear.cost.0 | .0f }} times the best loss.

# %% tags=["hide-input"]
# Alt: Best learning rate against the effective batch size, for SGD and AdamW, with the linear and the square-root rule, and what each
# rule costs. AdamW's best rates follow the square root; SGD's stop growing.
# Caption: An MLP on scikit-learn's digits, {{ learning_rate.seeds }} seeds with intervals.
display(Image(url="../results/figures/learning_rate.svg"))

# %% [markdown]
# ## BatchNorm needs care
#
# *Claim: {{ batch_norm.claim }}.* **{{ batch_norm.verdict }}**
#
# BatchNorm sees *b* samples where the large batch shows it *N* = {{ batch_norm.N }}. With sixteen micro-batches its gradient is
# {{ batch_norm.BatchNorm.gradient.k16 | .0% }} off, and no momentum repairs that. Momentum only repairs the running statistics.
# GroupNorm, LayerNorm and a frozen BatchNorm are exact.

# %% tags=["hide-input"]
# Alt: Errors of gradient, running mean and running variance against the number of accumulation steps, for BatchNorm with three
# momenta and for norms without batch statistics. Only BatchNorm's are above rounding.
# Caption: A small convolutional network on scikit-learn's digits, float64.
display(Image(url="../results/figures/batch_norm.svg"))

# %% [markdown]
# ## The curve may look jumpy
#
# *Claim: {{ smoothness.claim }}.* **{{ smoothness.verdict }}**
#
# Accumulation does not make training noisier. Logging does. Plot every micro-batch of {{ smoothness.b }}, and the curve looks
# {{ smoothness.mlp.micro_batch_ratio.4 | .1f }} times as rough as the batch of {{ smoothness.N }} that it belongs to. Plot the
# window's mean, and the two curves are one.

# %% tags=["hide-input"]
# Alt: Above, one training recorded in three ways: every micro-batch is jumpy, the last micro-batch before an update as well, the mean
# over the window is smooth. Below, jumpiness against b and k with theory lines.
# Caption: One training, three recordings, and where jumpiness comes from. Above, a small GPT on lines of text; below, an MLP on
# scikit-learn's digits. Coloured lines are theory.
# Data: smoothness.csv, smoothness_curve.csv
display(Image(url="../results/figures/smoothness.svg"))

# %% [markdown]
# ## It saves memory
#
# *Claim: {{ memory.claim }}.* **{{ memory.verdict }}**
#
# With *N* = {{ memory.n }}, micro-batches of one cut a small GPT's saved activations from {{ memory.saved_by_full_batch | MiB }} to
# {{ memory.saved_at_b_1 | MiB }} MiB. But gradients must be kept between micro-batches, in a buffer as large as the model. So with
# two steps the peak of all tensors can be higher than the full batch's:
# {{ memory.sizes.10M.peak_over_full_batch.2 | .2f }} times for the largest model here. If you add up losses and call `backward`
# once, every graph is kept and nothing is saved.

# %% tags=["hide-input"]
# Alt: Bytes against micro-batch size and accumulation steps, measured and in theory, for correct accumulation, one backward pass at
# the end, and losses that keep their graphs.
# Caption: Peak of saved activations and of all tensors, counted to the byte. Small GPTs of three sizes.
display(Image(url="../results/figures/memory.svg"))

# %% [markdown]
# ## Narrow buffers lose precision
#
# *Claim: {{ precision.claim }}.* **{{ precision.verdict }}**
#
# {{ precision.n }} gradients summed in bfloat16 are {{ precision.bfloat16.error_by_k_at_b_1.256 | .1% }} off. {{ precision.bfloat16.lost_additions | .0% }} of the
# additions are too small to change the sum. With a float32 buffer {{ precision.bfloat16, float32 buffer.error_by_k_at_b_1.256 | .2% }} is left. A full batch in bfloat16 is no refuge either, because kernels sum
# in it too.

# %% tags=["hide-input"]
# Alt: Error of the accumulated gradient against the number of accumulation steps for several dtypes of parameters and buffers. Buffers
# in bfloat16 get worse; float32 buffers do not.
# Caption: Error against a full batch in float64. A small GPT on lines of text.
display(Image(url="../results/figures/precision.svg"))

# %% [markdown]
# ## What of it is seen in training
#
# A wrong tail, in the same fine-tuning as on [the first page](../results/blog_post.html#does-it-matter): epochs end with a window of
# {{ symptom.tail_micro_batches }} of {{ symptom.k }} micro-batches. No difference in final accuracy is seen. What differs is small: leftovers
# that are carried on raise the held-out loss by {{ symptom.tail.sgd_off.carried.held_out_loss.mean | .3f }} under SGD.

# %% tags=["hide-input"]
# Alt: Two rows of panels, for SGD and AdamW: training loss, gradient norm and held-out accuracy of right accumulation and of three
# loops with a wrong tail. The curves lie within each other's bands nearly everywhere.
# Caption: {{ symptom.model }}. Data: {{ symptom.data }}. {{ symptom.seeds }} seeds, bands are intervals.
# Data: symptom.csv, symptom_curves.csv, symptom_differences.csv
display(Image(url="../results/figures/symptom_tail.svg"))

# %% [markdown]
# The mean of means, in a small GPT whose micro-batches differ in tokens by {{ symptom.token_spread | .0% }}. Held-out loss under AdamW:
# {{ symptom.tokens.adamw_off.mean_of_means.held_out_loss.mean | +.3f }}
# ({{ symptom.tokens.adamw_off.mean_of_means.held_out_loss.verdict }}).
#
# "No difference seen" has a limit: the widest interval of an accuracy reaches {{ symptom.told.accuracy.widest | .1% }} to either side.

# %% tags=["hide-input"]
# Alt: Two rows of panels, for SGD and AdamW: training loss, gradient norm and held-out loss of a mean over tokens and of a mean of
# means. The curves are close to each other.
# Caption: A small GPT on {{ symptom.text }}. {{ symptom.seeds }} seeds, bands are intervals.
# Data: symptom.csv, symptom_curves.csv, symptom_differences.csv
display(Image(url="../results/figures/symptom_tokens.svg"))

# %% [markdown]
# ## How we tell rounding from a bug
#
# No two ways to add up a gradient agree to the last bit. A tolerance that is chosen by taste hides bugs or invents them, so
# ours is measured. We run the full batch again with the samples of each window in another order, and with inputs and outputs of
# layers moved by a unit in the last place. How far these runs move is the *noise floor*. The tolerance is
# {{ tolerance.safety | .0f }} times that.
#
# On {{ tolerance.cases }} random cases no right loop was called wrong, and no wrong one right. In float64 the mildest bug stands
# {{ tolerance.float64.lowest_bug | .0f }} decades above the noise. In float32
# {{ tolerance.float32.inconclusive }} right loops stay "inconclusive". In bfloat16 nothing is ever cleared: there
# {{ tolerance.bfloat16.inconclusive }} verdicts are "inconclusive", those of all right loops and of some wrong ones.

# %% tags=["hide-input"]
# Alt: Three panels, one for each dtype. Every dot is a case; its place is the worst distance from the full batch, in decades above
# the noise floor. Right loops lie around zero. Wrong loops lie far right in float64 and float32, where two
# right loops are inconclusive; in bfloat16 all right loops and some wrong ones are.
# Caption: How far each loop is from the full batch, in decades above the measured noise. Seven problems, two with trained models.
display(Image(url="../results/figures/tolerance.svg"))

# %% [markdown]
# What reads weights, as exact fractions, needs no tolerance at all. The matrix of frameworks is made in that way.
#
# ## How often accumcheck itself is wrong
#
# Right loops, written in many ways, got {{ reliability.right.verdicts | , }} verdicts at random sizes:
# {{ reliability.right.false_alarms }} false alarms. Wrong loops were tried {{ reliability.bugs.cases | , }} times where they show.
# {{ reliability.bugs.missed }} were missed. Where there is a full window, several epochs and, for bugs of tails, a tail, the
# cause that they were written for comes first in {{ reliability.bugs.named_first | , }} of {{ reliability.bugs.causes_tell | , }} cases.
#
# Then {{ reliability.edits.cases | , }} right loops were edited at random, at one place each. An oracle that shares nothing with
# accumcheck trained a small network with each. It sees a difference in {{ reliability.edits.wrongly_equivalent }} of those that accumcheck calls
# equivalent.

# %% tags=["hide-input"]
# Alt: On the left, for each root cause, how many cases were tried; all of them are found, and nearly all whose sizes tell
# causes apart are named first. On the right, what accumcheck and the oracle say of random edits; they agree nearly always.
# Caption: Right loops, wrong loops and random edits, at random sizes. Where nothing was seen, the rate is below three over the number of cases.
display(Image(url="../results/figures/reliability.svg"))

# %% [markdown]
# ## What came and went
#
# The same reading of old releases. {{ history.changes | count }} behaviours changed from one to the next. The famous token fix of
# October 2024 shows. A later release lost it, and the next one that we read has it again.

# %% tags=["hide-input"]
# Alt: Rows are behaviours of frameworks, columns their releases. Most cells never change; Trainer's token cell becomes right, is lost
# in one release and comes back.
# Caption: Behaviours by release, old releases installed with pip.
display(Image(url="../results/figures/history.svg"))

# %% [markdown]
# ## Limits
#
# Losses are means over samples or tokens. Dropout draws other masks for other batch shapes, and was off. Frameworks were read
# in one version each, but for the last figure. How far apart two *equally good* trainings end is not asked here.
