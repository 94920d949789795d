"""Loops that only tests need: the oracle, which does what a contribution matrix says, and a bug."""

from accumcheck.task import unmasked


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


def drops_tail(task):
    """Steps after every k-th micro-batch only: a short last window never contributes to its own epoch."""
    for _ in range(task.epochs):
        for batch_idx, (inputs, targets) in enumerate(task.loader):
            (task.loss_fn(task.model(inputs), targets) / task.accumulation_steps).backward()
            if (batch_idx + 1) % task.accumulation_steps == 0:
                task.optimizer.step()
                task.optimizer.zero_grad()
                task.scheduler.step()
