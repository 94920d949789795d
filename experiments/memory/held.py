"""What one training loop holds on a GPT: counted to the byte, predicted, and measured in a process of its own."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from accumcheck.checks.saved import SavedBytes
from accumcheck.corpus.data import text_windows
from accumcheck.corpus.models import GPT, GPT_SIZES, GPTConfig
from accumcheck.task import Sizes
from accumcheck.training.problem import Case, Problem

from experiments.lab.resident import peak_megabytes
from experiments.lab.runner import Row
from experiments.memory.bytes import Ledger
from experiments.memory.loops import LOOPS

CONTEXT = {"10k": 32, "100k": 64, "1M": 64, "10M": 64, "124M": 256}  # tokens in a sample, by size of the model


def count(size: str, loop: str, n: int, b: int) -> list[Row]:
    """What one loop holds in two windows of n samples, in bytes."""
    task = _case(size, n, b, 2).task()
    parameters = list(task.model.parameters())
    own = sum(parameter.nbytes for parameter in parameters)
    gradients, carried = [], []
    saved = SavedBytes(parameters)
    with Ledger() as ledger, saved.counting():
        for parameter in parameters:
            ledger.add(parameter)

        def before(*_: Any) -> None:
            gradients.append(sum(p.grad.nbytes for p in parameters if p.grad is not None))
            carried.append(ledger.live - own - gradients[-1])

        with task.model.register_forward_pre_hook(before):
            LOOPS[loop](task)
        ledger_peak = ledger.peak
    k = n // b
    return [
        {
            **{"size": size, "loop": loop, "n": n, "b": b, "k": k, "parameter_bytes": own},
            "saved_activations": saved.peak["activations"],
            "predicted_activations": saved_by_gpt(GPT_SIZES[size], b, CONTEXT[size]),
            "saved_integers": saved.peak["integers"],
            "saved_parameters": saved.peak["parameters"],
            "gradients_first": gradients[k],
            "gradients_later": max(gradients[k + 1 :], default=None),
            "carried_bytes": max(carried),
            "peak_bytes": ledger_peak,
        }
    ]


def saved_by_gpt(config: GPTConfig, samples: int, time: int) -> int:
    """Bytes that autograd saves for one forward pass and cross-entropy, by counting tensors.

    Of every token, a block saves 16 widths: the inputs of both norms (2) and what they return (2), query, key, value
    and their mixture (4), and the hidden layer before and after GELU (8); also each norm's mean and deviation (4) and a
    normaliser for each head. Behind the blocks come one more norm, and the logarithms of the probabilities; then, once,
    the weight that the loss is divided by.
    """
    block = 16 * config.width + 4 + config.heads
    return 4 * (samples * time * (config.layers * block + 2 * config.width + 2 + config.vocabulary) + 1)


def time_and_peak(size: str, loop: str, n: int, b: int, epochs: int, repetition: int) -> list[Row]:
    """Seconds per sample and growth of the peak resident set, in a process of its own."""
    LOOPS[loop](_case("10k", 4, 2, 1).task())
    task = _case(size, n, b, epochs).task()
    held, started = peak_megabytes(), time.perf_counter()
    LOOPS[loop](task)
    seconds = time.perf_counter() - started
    return [
        {
            **{"size": size, "loop": loop, "n": n, "b": b, "k": n // b, "repetition": repetition},
            "resident_megabytes": peak_megabytes() - held,
            "seconds_per_sample": seconds / (n * epochs),
        }
    ]


def _case(size: str, n: int, b: int, epochs: int) -> Case:
    problem = Problem(f"gpt-{size}", partial(GPT, size), partial(text_windows, context=CONTEXT[size]))
    return Case(problem, Sizes(n, b, n // b, epochs), "sgd", "float32")
