"""Slices of a permutation and two modules under one optimizer."""

import hashlib

import torch
from torch import nn

torch.manual_seed(93)
n, b, k = 96, 6, 4
x = torch.randn(n, 8)
y = torch.randint(0, 2, (n,)).float()
encoder, head = nn.Linear(8, 12), nn.Linear(12, 1)
optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=0.05)

for _ in range(2):
    order = torch.randperm(n)
    for j, index in enumerate(order.split(b)):
        logits = head(torch.relu(encoder(x[index]))).squeeze(1)
        loss = nn.functional.binary_cross_entropy(torch.sigmoid(logits), y[index])
        (loss / k).backward()
        if j % k == k - 1:
            optimizer.step()
            head.zero_grad()

parameters = [*encoder.parameters(), *head.parameters()]
print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in parameters)).hexdigest())
