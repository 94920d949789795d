"""A stack trains every model as it would be trained alone, each at its own learning rate, and none disturbs another."""

from itertools import product

import pytest
import torch
from accumcheck.corpus import data
from accumcheck.corpus.models import mlp
from accumcheck.corpus.published import accumulate_samples
from accumcheck.task import cross_entropy
from accumcheck.training.problem import seeded
from torch.optim import SGD, AdamW
from torch.utils.data import DataLoader, TensorDataset

from experiments.learning_rate.stack import losses, stacked_task

SIZES = {"micro_batch_size": 8, "accumulation_steps": 2, "epochs": 2}


@pytest.fixture
def datasets():
    return [TensorDataset(x.float(), y) for x, y in (data.digits(64, seed).tensors for seed in range(2))]


def alone(dataset, make, rate, seed):
    """Plain torch: one model, one optimizer, batches of 16 in the order of the stack."""
    model = seeded(mlp, seed)
    optimizer = make(model.parameters(), lr=rate)
    loader = DataLoader(dataset, 16, shuffle=True, generator=torch.Generator().manual_seed(0))
    for _ in range(SIZES["epochs"]):
        for inputs, targets in loader:
            optimizer.zero_grad()
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    inputs, targets = dataset.tensors
    return cross_entropy(model(inputs), targets).item()


@pytest.mark.parametrize(("make", "rates"), [(SGD, [0.05, 0.4]), (AdamW, [1e-3, 1e-2])])
def test_a_stacked_model_is_trained_as_it_would_be_alone(make, rates, datasets):
    task = stacked_task(mlp, datasets, make, rates, **SIZES)
    accumulate_samples(task)
    found = losses(task.model(task.dataset.tensors[0]), task.dataset.tensors[1]).tolist()
    due = [alone(datasets[seed], make, rate, seed) for rate, seed in product(rates, range(2))]
    assert found == pytest.approx(due, rel=1e-4)
    assert found != pytest.approx(due[::-1], rel=1e-2)


def test_a_model_that_diverges_leaves_the_others_alone(datasets):
    task = stacked_task(mlp, datasets, SGD, [0.05, float("inf")], **SIZES)
    accumulate_samples(task)
    found = losses(task.model(task.dataset.tensors[0]), task.dataset.tensors[1])
    assert found[2:].isnan().all()
    assert found[:2].tolist() == pytest.approx([alone(datasets[seed], SGD, 0.05, seed) for seed in range(2)], rel=1e-4)
