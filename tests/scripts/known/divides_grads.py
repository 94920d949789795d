"""Gradients are summed over the batches, and divided just before the step by how many there were."""

import hashlib

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Accumulator:
    def __init__(self, module, optimizer, accum_steps, clip_value):
        self.module = module
        self.optimizer = optimizer
        self.accum_steps = accum_steps
        self.clip_value = clip_value
        self.pending = 0

    def backward(self, loss):
        loss.backward()
        self.pending += 1
        if self.pending == self.accum_steps:
            self.flush()

    def flush(self):
        if not self.pending:
            return
        for parameter in self.module.parameters():
            if parameter.grad is not None:
                parameter.grad /= self.pending
        nn.utils.clip_grad_value_(self.module.parameters(), self.clip_value)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.pending = 0


torch.manual_seed(36)
x = torch.randn(69, 7)
y = (x[:, 0] > x[:, 1]).long() + (x[:, 2] > 0).long()
model = nn.Linear(7, 3)
accumulator = Accumulator(model, torch.optim.Adam(model.parameters(), lr=2e-2), accum_steps=4, clip_value=0.02)
loader = DataLoader(TensorDataset(x, y), batch_size=3, shuffle=True)
for _ in range(2):
    for inputs, labels in loader:
        accumulator.backward(F.cross_entropy(model(inputs), labels))
    accumulator.flush()
print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
