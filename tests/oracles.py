"""A loop that does what a contribution matrix says, sample by sample: the oracle that all other loops are held to."""

from harness.data import unmasked


def units_of(case):
    """The units of each sample: one, or its unmasked tokens."""
    if case.problem.objective == "sample":
        return [1] * case.sizes.samples
    return [unmasked(targets) for targets in case.dataset().tensors[1]]


def weighted(matrix, units):
    """A loop whose s-th update is made with the sum of ``matrix[s][i]`` × the gradient of sample i's summed loss."""

    def weighted_loop(task):
        inputs, targets = task.dataset.tensors
        for row in matrix:
            task.optimizer.zero_grad()
            for i, weight in enumerate(row):
                if weight:
                    loss = task.loss_fn(task.model(inputs[i : i + 1]), targets[i : i + 1])
                    (loss * float(weight * units[i])).backward()
            task.optimizer.step()
            task.scheduler.step()

    return weighted_loop
