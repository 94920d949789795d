"""What can be wrong with a loop: the laws, how each is fixed, and a finding, which is a law that was broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Law:
    """What holds in a loop that accumulates as it claims; how to fix one that breaks it; a public thread, if any."""

    text: str
    fix: str
    thread: str = ""


GATE = "if (i + 1) % k == 0 or i + 1 == len(loader): optimizer.step(); optimizer.zero_grad()"
SHARE = "loss = loss_fn(outputs, targets) * len(targets) / samples_in_window"
GITHUB = "https://github.com/"

# Root causes first: what spoils every update stands before what spoils some of them.
LAWS = {
    "nondeterministic": Law(
        "two runs under one seed are the same run",
        "draw from torch's, random's or NumPy's global stream only, and keep no state between two calls of the loop",
    ),
    "batch-coupled": Law(
        "a sample's gradient does not depend on which samples share its micro-batch",
        "replace BatchNorm by GroupNorm or LayerNorm; compute a contrastive loss once, on the whole window",
        GITHUB + "pytorch/pytorch/issues/46516",
    ),
    "unsynchronised-replicas": Law(
        "all ranks step with the same gradient and the same learning rate",
        "run each window's last micro-batch outside no_sync(), its forward pass too; step at the same time on all "
        "ranks",
        GITHUB + "karpathy/build-nanogpt/pull/30",
    ),
    "step-per-micro-batch": Law("a window of k micro-batches makes one optimizer step", GATE),
    "early-first-step": Law(
        "the first optimizer step comes after k micro-batches",
        GATE,
        GITHUB + "rasbt/LLMs-from-scratch/issues/299",
    ),
    "wrong-window": Law(
        "a window holds accumulation_steps micro-batches, fewer only at the end of an epoch",
        GATE,
        GITHUB + "Lightning-AI/litgpt/issues/1927",
    ),
    "gradients-lost": Law(
        "gradients are kept from a window's first micro-batch to its optimizer step",
        "call optimizer.zero_grad() right after optimizer.step(), and nowhere else",
        GITHUB + "bytetriper/RAE/issues/67",
    ),
    "gradients-not-reset": Law(
        "a window starts with gradients of zero",
        "call optimizer.zero_grad() right after every optimizer.step()",
        GITHUB + "salesforce/corr_based_prediction/issues/1",
    ),
    "clipped-per-micro-batch": Law(
        "gradients are clipped and unscaled once per optimizer step, when the window is complete",
        "move clip_grad_norm_() and unscale_() to right before optimizer.step(), under the same condition",
        GITHUB + "facebookresearch/lingua/pull/59",
    ),
    "unscaled-loss": Law(
        "an update is made with the mean of its window, not with the sum of its micro-batches",
        SHARE,
        GITHUB + "Lightning-AI/pytorch-lightning/issues/87",
    ),
    "over-scaled-loss": Law(
        "the window's loss is divided once",
        "divide either the loss or the gradients by accumulation_steps, not both; not at all if loss_fn has done so",
        GITHUB + "huggingface/transformers/issues/40052",
    ),
    "wrong-scale": Law(
        "a window's loss is divided by what the window holds, not by another number",
        SHARE,
        GITHUB + "huggingface/transformers/pull/46204",
    ),
    "scheduler-per-micro-batch": Law(
        "the learning rate goes by optimizer steps, not by micro-batches",
        "call scheduler.step() right after optimizer.step(); count its total in optimizer steps",
        GITHUB + "huggingface/accelerate/issues/963",
    ),
    "sample-order": Law(
        "the order of the samples does not depend on the micro-batch size",
        "give the loader a stream of its own: DataLoader(..., generator=torch.Generator().manual_seed(seed))",
        GITHUB + "deepmodeling/Uni-Mol/pull/196",
    ),
    "low-precision-accumulation": Law(
        "partial sums are kept at least in float32",
        "accumulate in float32: buffer = torch.zeros_like(parameter, dtype=torch.float32)",
        GITHUB + "pytorch/pytorch/issues/106395",
    ),
    "token-weighting": Law(
        "every unmasked token of a window weighs the same",
        "loss = loss_fn(outputs, targets) * (targets != -100).sum() / tokens_in_window, counted beforehand",
        GITHUB + "huggingface/transformers/issues/34242",
    ),
    "split-tail": Law(
        "the last window of an epoch makes one optimizer step, however short it is",
        GATE,
    ),
    "carried-tail": Law(
        "a window holds samples of one epoch",
        GATE,
        GITHUB + "huggingface/transformers/issues/22082",
    ),
    "dropped-tail": Law(
        "every sample goes into one update of each epoch",
        GATE,
        GITHUB + "huggingface/transformers/issues/2995",
    ),
    "tail-scaled-by-k": Law(
        "a short window is divided by its own size",
        SHARE,
        GITHUB + "Lightning-AI/pytorch-lightning/issues/19987",
    ),
    "mean-of-means": Law("every sample of a window weighs the same", SHARE),
    "unexplained": Law(
        "the contribution matrix is the window mean",
        "compare the matrix with the window mean, row by row: report.frame(), or accumcheck check --figure FILE",
    ),
}


def severity(finding_id: str) -> int:
    """Its place in ``LAWS``: root causes come first."""
    return list(LAWS).index(finding_id)


def runs(numbers: Sequence[int]) -> str:
    """Whole numbers, ascending, as people write them.

    >>> runs([0, 1, 2, 5]), runs([7])
    ('0 to 2, 5', '7')
    """
    groups: list[list[int]] = []
    for number in sorted(set(numbers)):
        if groups and groups[-1][-1] == number - 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(f"{g[0]}" if len(g) == 1 else f"{g[0]} to {g[-1]}" for g in groups)
