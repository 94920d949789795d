"""Mixup: inputs and labels of two samples are blended."""

import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

np.random.seed(65)
torch.manual_seed(65)


def mixup(x, y, alpha=0.4):
    lam = np.random.beta(alpha, alpha)
    other = torch.randperm(len(x))
    return lam * x + (1 - lam) * x[other], y, y[other], lam


digits = load_digits()
images = torch.tensor(digits.data[:160], dtype=torch.float32) / 16
loader = DataLoader(TensorDataset(images, torch.tensor(digits.target[:160])), batch_size=10, shuffle=True)
model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
accum_steps = 4

for _ in range(2):
    for step, (x, y) in enumerate(loader):
        x, y_a, y_b, lam = mixup(x, y)  # noqa: PLW2901
        logits = model(x)
        loss = lam * criterion(logits, y_a) + (1 - lam) * criterion(logits, y_b)
        (loss / accum_steps).backward()
        if (step + 1) % accum_steps == 0:
            optimizer.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
