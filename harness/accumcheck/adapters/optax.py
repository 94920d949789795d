"""optax.MultiSteps, read by a probe of its own in JAX."""

from __future__ import annotations

from typing import Any

import numpy as np

from accumcheck.adapters import need
from accumcheck.probing.model import CLASSES, MATRIX, Samples
from accumcheck.probing.reading import Reading
from accumcheck.probing.run import LOW, RATE
from accumcheck.task import DECAY, IGNORE_INDEX, Objective, Sizes


def read(
    sizes: Sizes, objective: Objective = "sample", gain: float = LOW, seed: int = 0, max_norm: float | None = None
) -> Reading:
    """What ``accumcheck.probing.run.probe`` reads off a loop, for a hand-written loop around MultiSteps.

    Parameters stay zero, so that all responses are alike; the inner optimizer is SGD with a schedule.
    """
    jax, jnp, optax = need("jax", "jax"), need("jax.numpy", "jax"), need("optax", "optax")

    drawn = Samples.draw(sizes.samples, objective, seed)
    inputs, targets = np.asarray(drawn.inputs), np.asarray(drawn.targets)
    rates = [RATE * DECAY**step for step in range(sizes.micro_batches * sizes.epochs + 1)]

    def loss(weight: Any, rows: Any, labels: Any) -> Any:
        kept = labels != IGNORE_INDEX
        each = optax.softmax_cross_entropy_with_integer_labels(gain * weight[rows], jnp.where(kept, labels, 0))
        return (each * kept).sum() / kept.sum()

    gradients: list[Any] = []
    with jax.enable_x64(True):
        chain = [optax.clip_by_global_norm(max_norm)] if max_norm else []
        inner = optax.chain(*chain, optax.sgd(lambda count: RATE * DECAY**count))
        optimizer = optax.MultiSteps(inner, every_k_schedule=sizes.accumulation_steps)
        weight = jnp.zeros((targets.size, CLASSES), dtype=jnp.float64)
        state = optimizer.init(weight)
        slope, update = jax.jit(jax.grad(loss)), jax.jit(optimizer.update)
        for _ in range(sizes.epochs):
            for start in range(0, sizes.samples, sizes.micro_batch_size):
                batch = slice(start, start + sizes.micro_batch_size)
                updates, state = update(slope(weight, inputs[batch], targets[batch]), state, weight)
                if optimizer.has_updated(state):
                    gradients.append(-np.asarray(updates) / rates[len(gradients)] / gain)
    responses = drawn.responses(drawn.point("zero")).numpy()
    by_row = [(gradient * responses).sum(1) / np.maximum((responses**2).sum(1), 1e-30) for gradient in gradients]
    matrix = [row.reshape(sizes.samples, -1).sum(1) / np.asarray(drawn.units) for row in by_row]
    return Reading(
        loop="optax.MultiSteps",
        objective=objective,
        sizes=sizes,
        units=drawn.units,
        matrices={MATRIX: [row.tolist() for row in matrix]},
        settings={MATRIX: [{"lr": rate} for rate in rates[: len(gradients)]]},
    )
