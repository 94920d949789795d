"""Classification loops with each usual shape of loss; right, unless the docstring says what is wrong."""

from itertools import islice

import torch
from torch import nn
from torch.nn import functional as F


def run(task, loss_sum, divide=None):
    for _ in range(task.epochs):
        batches = iter(task.loader)
        while window := list(islice(batches, task.accumulation_steps)):
            n = divide(window) if divide else sum(len(y) for _, y in window)
            for x, y in window:
                (loss_sum(task.model(x), y) / n).backward()
            task.optimizer.step()
            task.optimizer.zero_grad()
            task.scheduler.step()


def smoothed(task):
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    run(task, lambda out, y: criterion(out, y) * len(y))


def weighted_sum(task):
    """Class weights, the sum over the sum of the weights of the whole window."""

    def weights(out):
        return torch.linspace(0.5, 2.0, out.shape[1])

    table = torch.linspace(0.5, 2.0, 64)

    def total(window):
        return sum(float(table[y].sum()) for _, y in window)

    def loss(out, y):
        return F.cross_entropy(out, y, weight=table[: out.shape[1]].to(out.dtype), reduction="sum")

    run(task, loss, total)


def weighted_float(task):
    """Class weights in float32, as torch.tensor([...]) makes them; the sum over samples."""

    def loss(out, y):
        criterion = nn.CrossEntropyLoss(weight=torch.ones(out.shape[1]), reduction="sum")
        return criterion(out, y)

    run(task, loss)


def weighted_mean(task):
    """Class weights, mean over each micro-batch's own sum of weights: unequal sums weigh the same. Wrong."""

    def loss(out, y):
        weight = torch.linspace(0.5, 2.0, out.shape[1]).to(out)
        return nn.CrossEntropyLoss(weight=weight)(out, y) * len(y)

    run(task, loss)


def nll(task):
    criterion = nn.NLLLoss(reduction="none")
    run(task, lambda out, y: criterion(F.log_softmax(out, dim=1), y).sum())


def bce(task):
    criterion = nn.BCEWithLogitsLoss()
    run(task, lambda out, y: criterion(out, F.one_hot(y, out.shape[1]).float()) * len(y))


def bce_sum(task):
    run(
        task,
        lambda out, y: F.binary_cross_entropy_with_logits(
            out, F.one_hot(y, out.shape[1]).to(out.dtype), reduction="sum"
        ),
    )


def mse(task):
    criterion = nn.MSELoss()
    run(task, lambda out, y: criterion(out, F.one_hot(y, out.shape[-1]).float()) * len(y))


def mse_softmax(task):
    run(task, lambda out, y: (out.softmax(1) - F.one_hot(y, out.shape[1])).pow(2).sum())


def focal(task):
    def loss(out, y):
        ce = F.cross_entropy(out, y, reduction="none")
        return ((1 - torch.exp(-ce)) ** 2 * ce).sum()

    run(task, loss)


def regression(task):
    """The mean output against the class number, as a number."""
    run(task, lambda out, y: F.mse_loss(out.mean(1), y.float(), reduction="sum"))


def binary(task):
    """The first logit says whether the class is even."""
    run(task, lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], (y % 2 == 0).to(out.dtype), reduction="sum"))


def hinge(task):
    run(task, lambda out, y: F.multi_margin_loss(out, y, reduction="sum"))


def kl(task):
    def loss(out, y):
        target = 0.9 * F.one_hot(y, out.shape[1]).to(out) + 0.1 / out.shape[1]
        return F.kl_div(out.log_softmax(1), target, reduction="batchmean") * len(y)

    run(task, loss)


def sums_undivided(task):
    """reduction="sum", divided by nothing: a larger sum, yet the same with and without accumulation. Right."""
    run(task, lambda out, y: F.cross_entropy(out, y, reduction="sum"), lambda window: 1)


def sum_by_b(task):
    """reduction="sum" over b: an update is k times too large. Wrong."""
    run(task, lambda out, y: F.cross_entropy(out, y, reduction="sum"), lambda window: task.micro_batch_size)


def mean_by_k(task):
    """criterion(out, y) / k. Wrong for short windows."""
    criterion = nn.CrossEntropyLoss()
    run(task, criterion, lambda window: task.accumulation_steps)


def mean_undivided(task):
    """criterion(out, y) alone. Wrong."""
    criterion = nn.CrossEntropyLoss()
    run(task, criterion, lambda window: 1)


def smoothed_by_count(task):
    """Label smoothing, divided by len(window): short micro-batches weigh too much. Wrong."""
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    run(task, criterion, len)


def bce_by_k(task):
    """BCE on one-hot targets over k. Wrong for short windows."""
    criterion = nn.BCEWithLogitsLoss()
    run(
        task,
        lambda out, y: criterion(out, F.one_hot(y, out.shape[1]).to(out.dtype)),
        lambda window: task.accumulation_steps,
    )


def mse_undivided(task):
    """MSE on one-hot targets, divided by nothing. Wrong."""
    run(task, lambda out, y: F.mse_loss(out, F.one_hot(y, out.shape[1]).to(out.dtype)), lambda window: 1)


def balanced(task):
    """Each class of a micro-batch weighs the same, by its own count there. Wrong: it depends on who shares the micro-batch."""

    def loss(out, y):
        counts = torch.bincount(y, minlength=out.shape[1]).clamp(min=1).to(out.dtype)
        return (F.cross_entropy(out, y, reduction="none") / counts[y]).sum()

    run(task, loss)


def hardest(task):
    """Only the hardest half of each micro-batch counts (OHEM). Wrong: a full batch has another half."""

    def loss(out, y):
        each = F.cross_entropy(out, y, reduction="none")
        return each.topk(max(len(y) // 2, 1)).values.mean() * len(y)

    run(task, loss)


def tutorial(task):
    """Accuracy, running loss, device moves, as tutorials have them. Right."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, criterion = task.model.to(device), nn.CrossEntropyLoss().to(device)
    for epoch in range(task.epochs):
        model.train()
        running, correct, total = 0.0, 0, 0
        window = []
        for i, (x, y) in enumerate(task.loader):
            window.append((x.to(device), y.to(device)))
            if len(window) < task.accumulation_steps and i + 1 < len(task.loader):
                continue
            size = sum(y.size(0) for _, y in window)
            task.optimizer.zero_grad(set_to_none=True)
            for inputs, labels in window:
                outputs = model(inputs)
                loss = criterion(outputs, labels) * labels.size(0) / size
                loss.backward()
                running += loss.item()
                _, predicted = torch.max(outputs.data, 1)
                total += labels.size(0)
                correct += (predicted == labels).sum().item()
            task.optimizer.step()
            task.scheduler.step()
            window = []
        print(f"[{epoch + 1}] loss: {running:.3f} accuracy: {100 * correct / total:.1f}%")
