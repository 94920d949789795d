# ---
# jupyter:
#   accumcheck:
#     author: The accumcheck maintainers
#     date: "2026-11-27"
#     language: en
#     picture: figures/architectures.png
#     pages:
#       - {file: claims.html, title: "The claims, one by one"}
#       - {file: blog_post.zh.html, title: 中文版, language: zh-Hans}
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Your gradient accumulation is probably not the large batch
#
# Gradient accumulation makes a promise: add up the gradients of *k* micro-batches, step once, and you train as with a
# batch *k* times as large. We checked the promise weight by weight, in {{ frameworks.known.frameworks }} frameworks and in
# the loops that people copy. It is often broken.
#
# - **Hugging Face's Trainer** trains {{ architectures.sequence classifier.ignore_count | count }} of
#   {{ architectures.sequence classifier.classes }} kinds of text classifier with a gradient *k* times too large.
# - **Unequal micro-batches and the end of an epoch** are where settings differ. In {{ frameworks.tail.differs }} of
#   {{ frameworks.settings }} settings of frameworks and recipes, the last, short window has a wrong weight. Many others keep
#   to another rule there, on purpose.
# - **The published fix** of a well-known book's loop, `(batch_idx + 1) % k == 0 or last`, is still wrong wherever an epoch does
#   not divide evenly.
#
# Everything on this page can be made again from the repository, and every number is read from the results.

# %% [markdown]
# ## See it
#
# A training loop is a table of weights. A row is an optimizer step, a column is a sample. A batch of four gives each of its
# samples `1/4`. If two loops have the same table, the same optimizer and the same learning rates, they are the same training,
# up to rounding. This holds for every model whose samples do not influence each other and that draws no random numbers.
#
# Choose a loop and move the sliders. Orange cells are wrong.

# %% tags=["hide-input"]
# Alt: Four heat maps of weights, optimizer steps downwards and samples to the right. With the bug the first update holds
# one sample alone and all others are shifted. The published fix steps where it should, but its tail has weights of a quarter for a
# third, outlined as wrong. Correct accumulation equals full-batch training.
# Caption: Micro-batches of *b* samples, *k* of them in a window. The bars show the worst step at every data set length. Loops
# that only get the end of an epoch wrong look right where the length is a multiple of *N*.
# Data: contributions.csv, contributions_lengths.csv
from accumcheck.programs.rules import Program, Shape
from accumcheck.widget import State, fragment
from IPython.display import HTML, Image, display

state = State(Program(scale="1/k"), Shape(n=7, b=1, k=4, epochs=2))
display(HTML(fragment(state, fallback='<img src="../results/figures/contributions.svg">')))

# %% [markdown]
# ## The loop to copy
#
# Draw the whole window before its first backward pass, count its samples, and give each micro-batch its share:
#
# ```diff
#  from itertools import islice
#
#  def train(model, optimizer, loss_fn, loader, k, epochs):
#      for epoch in range(epochs):
# -        for i, (inputs, targets) in enumerate(loader):
# -            loss = loss_fn(model(inputs), targets) / k
# -            loss.backward()
# -            if (i + 1) % k == 0:
# -                optimizer.step()
# -                optimizer.zero_grad()
# +        batches = iter(loader)
# +        while window := list(islice(batches, k)):  # fewer at the end of an epoch
# +            samples = sum(len(targets) for inputs, targets in window)
# +            for inputs, targets in window:
# +                loss = loss_fn(model(inputs), targets) * len(targets) / samples
# +                loss.backward()
# +            optimizer.step()
# +            optimizer.zero_grad()
# ```
#
# A language model's loss is a mean over tokens, so count `(targets != -100).sum()` in place of `len(targets)`; where the model
# shifts its labels itself, as Hugging Face's do, count `labels[:, 1:]`. Clip after the inner loop, before the step. Move the
# schedule once a step.

# %% [markdown]
# ## What frameworks do
#
# Trainer hands the number of labels in the window to every model whose `forward` takes `**kwargs`, and no longer divides the
# loss itself. Causal language models use the number: {{ architectures.causal language model.same }} of
# {{ architectures.causal language model.classes }} accumulate right. Classifiers take it and ignore it. The issue is
# [known](https://github.com/huggingface/transformers/issues/47688). Until it is fixed, set
# `model.accepts_loss_kwargs = False` before you make the Trainer. Micro-batches of unequal size still weigh the same then.

# %% tags=["hide-input"]
# Alt: Ratio of accumulated to full-batch gradient for families of models and five kinds of head. All but two causal language
# models lie at one, nearly all classifiers at k. Hollow marks, the last window of fewer micro-batches, lie at about that number.
# Caption: Small models with random weights, from their configurations; transformers {{ architectures.transformers }}, on the CPU.
display(Image(url="../results/figures/architectures.svg"))

# %% [markdown]
# All settings that we read, what spoils most first. Press a cell for the line of source, the documentation and the thread.

# %% tags=["hide-input"]
# Caption: Weights that frameworks give, for the weights that they should give. [The same in words](../results/frameworks.md).
from pathlib import Path

display(HTML(Path("../results/frameworks.html").read_text()))

# %% [markdown]
# ## Does it matter?
#
# Less than one fears, as far as a small training can tell. We fine-tuned an image classifier through Trainer, with
# {{ symptom.seeds }} seeds for each setting: one batch of {{ symptom.N }} against *k* = {{ symptom.k }} micro-batches.
#
# **In the log it shows.** The first loss and the first gradient norm that Trainer logs are
# {{ symptom.trainer.sgd_off.as_it_is.first_norm_ratio.mean | .1f }} times the right ones. If your loss jumps when you change the
# accumulation steps, look here first.
#
# **In the model, early at most.** Under SGD without clipping, held-out accuracy after three epochs changes by
# {{ symptom.trainer.sgd_off.as_it_is.early_accuracy.mean | points }} points. At the end no difference is seen. With clipping, or with
# AdamW, which divides a constant factor away, we saw no difference in accuracy at all. With the remedy, all curves are those of
# the one batch.

# %% tags=["hide-input"]
# Alt: Three rows of panels, for SGD, clipped SGD and clipped AdamW: the loss and the gradient norm that Trainer logs, and held-out
# accuracy. Accumulated as it is, the logged loss and norm start k times above those of one batch and stay far above. Under SGD
# without clipping accuracy is lower early on and recovers; elsewhere it is the same. With the remedy all curves coincide.
# Caption: {{ symptom.model }}. Data: {{ symptom.data }}. On two CPU cores, by its name:
# `python -m experiments symptom`. Bands are intervals over {{ symptom.seeds }} seeds.
# Data: symptom.csv, symptom_curves.csv, symptom_differences.csv
display(Image(url="../results/figures/symptom.svg"))

# %% [markdown]
# A wrong tail and unequal tokens [hardly show either](../results/claims.html#what-of-it-is-seen-in-training). Final accuracy differs
# in {{ symptom.told.accuracy.differ }} of {{ symptom.told.accuracy.all }} wrong trainings.
#
# So why care? You tuned the learning rate for one batch and train with another. Whoever repeats your run without accumulation
# does not repeat it. And a plot will not tell you: a check does.

# %% [markdown]
# ## Check your own script
#
# Put `accumcheck run` where `python` stood. Nothing has to be edited, and the training is the same to the bit:
#
# ```text
# $ accumcheck run train.py
# ✗ train.py is NOT full-batch training
#
#   The last, short window of each epoch is divided by k, though it holds fewer
#   than k micro-batches. Its update is too small.              [tail-scaled-by-k]
# ```
#
# It names the line, prints the fix, and exits with a status that a test can read. `accumcheck check my_loop.py:train` proves a
# function right or wrong at ten sizes, without a model or data.

# %% [markdown]
# ## Why tests do not see it
#
# We wrote {{ detection.bugs }} reported bugs as small loops and scripts, and tried the usual ways of testing on them, each
# rebuilt from its description. {{ detection.usual_all_miss | count }} bugs pass every one of these tests.

# %% tags=["hide-input"]
# Alt: A table of root causes by nine ways of testing, with how many bugs each finds. The usual ways find nearly none of the bugs of
# tails, and several find no wrong factor. accumcheck check finds nearly all.
# Caption: Bugs found, of those that a way can be tried on. [Each bug](../results/figures/detection_bugs.svg).
display(Image(url="../results/figures/detection.svg"))

# %% [markdown]
# A test whose data divides evenly cannot see a wrong tail. Of {{ ragged_lengths.lengths }} data set lengths, the published fix is right at
# {{ ragged_lengths.published_fix.equivalent }}: the multiples of *N = b · k*.

# %% tags=["hide-input"]
# Alt: Largest relative error of the gradient against the length of the data set. The correct loop is at rounding for every length. The
# published fix is right only where the length is a multiple of the full batch.
# Caption: A small GPT on lines of text, SGD, float64, N = {{ ragged_lengths.N }}.
display(Image(url="../results/figures/ragged_lengths.svg"))

# %% [markdown]
# And Adam hides scale. It divides the gradient by its own size, so a loss that nobody divides by *k* hardly moves it. Under
# SGD the same bug ends {{ drift.sgd.float32.undivided_error | .0% }} of the whole way off. What Adam does not
# forgive is a factor on some steps only, and a tail is just that.

# %% tags=["hide-input"]
# Alt: Distance between a loop's parameters and those of full-batch training, relative to the way that training went. Under SGD the
# undivided loss ends about as far off as the whole way; under AdamW orders of magnitude nearer.
# Caption: A small GPT on lines of text, {{ drift.steps }} steps, both runs free; the grey area is what rounding explains.
display(Image(url="../results/figures/drift.svg"))

# %% [markdown]
# ## The claims, scored
#
# Ten claims of an article of 2025 on [a book's loop and its fix](https://github.com/rasbt/LLMs-from-scratch/pull/300), and
# one that others make. Each has an experiment in [The claims, one by one](../results/claims.html).
#
# | claim | verdict | measured |
# | --- | --- | --- |
# | [steps at the first micro-batch](../results/claims.html#the-condition-steps-at-the-first-micro-batch) | {{ contributions.claims.first_iteration.verdict }} | `i % k == 0` makes the first update of one micro-batch |
# | [leftovers may not be handled](../results/claims.html#leftovers-may-not-be-handled) | {{ contributions.claims.leftovers.verdict }} | they join the next epoch; only the last ones are lost |
# | [the fix handles first step, tail and end](../results/claims.html#the-fix-handles-first-step-tail-and-end) | {{ contributions.claims.fix.verdict }} | steps are right, weights only at multiples of *N* |
# | [all gradients are fully used](../results/claims.html#all-gradients-are-fully-used) | {{ tail_weight.verdict }} | only where epochs divide evenly: a tail of *r* counts *r/k* |
# | [micro-batches equal the large batch](../results/claims.html#micro-batches-equal-the-large-batch) | {{ tokens.verdict }} | for tokens, only if all micro-batches hold equally many |
# | [batch one, eight times, is batch eight](../results/claims.html#batch-one-accumulated-eight-times-is-batch-eight) | {{ book.verdict }} | up to rounding, if both are padded alike, without dropout |
# | [the learning rate may have to change](../results/claims.html#the-learning-rate-may-have-to-change) | {{ learning_rate.verdict }} | only if *N* changes; AdamW's goes about as its square root |
# | [BatchNorm needs care](../results/claims.html#batchnorm-needs-care) | {{ batch_norm.verdict }} | its gradient is {{ batch_norm.BatchNorm.gradient.k16 | .0% }} off, whatever the momentum |
# | [the curve may look jumpy](../results/claims.html#the-curve-may-look-jumpy) | {{ smoothness.verdict }} | only if you log single micro-batches or raise the rate |
# | [it saves memory](../results/claims.html#it-saves-memory) | {{ memory.verdict }} | activations yes; gradient buffers cost as much as the model |
# | [narrow buffers lose precision](../results/claims.html#narrow-buffers-lose-precision) | {{ precision.verdict }} | {{ precision.n }} sums in bfloat16: {{ precision.bfloat16.error_by_k_at_b_1.256 | .1% }} off; {{ precision.bfloat16, float32 buffer.error_by_k_at_b_1.256 | .2% }} with a float32 buffer |

# %% [markdown]
# ## Limits
#
# Losses that are means over samples or tokens, at the sizes that were run. BatchNorm and in-batch negatives mix samples, and no
# accumulation makes them the large batch; for the latter, gradient caching does. Dropout draws other masks for other batch
# shapes; it was off. Frameworks were read in the versions named.
# Whether two trainings are the same is the question here, not which of them is better.
