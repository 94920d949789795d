"""No loader: slices of a shuffled tensor."""

import hashlib

import torch

torch.manual_seed(12)
n, micro, k = 107, 5, 4
X = torch.randn(n, 3)
Y = X @ torch.tensor([1.0, -2.0, 0.5]) + 0.3

w = torch.zeros(3, requires_grad=True)
b = torch.zeros(1, requires_grad=True)
optimizer = torch.optim.SGD([{"params": [w]}, {"params": [b], "lr": 0.2}], lr=0.1)

for _ in range(2):
    order = torch.randperm(n)
    for start in range(0, n, micro * k):
        window = order[start : start + micro * k]
        optimizer.zero_grad()
        for piece in window.split(micro):
            error = X[piece] @ w + b - Y[piece]
            loss = (error**2).sum() / len(window)
            loss.backward()
        optimizer.step()

print("digest", hashlib.sha256(w.detach().numpy().tobytes() + b.detach().numpy().tobytes()).hexdigest())
