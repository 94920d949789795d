"""Warm restarts, SGD."""

import hashlib

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(90)
N_ACC = 3
x = torch.randn(108, 4)
y = torch.sin(x.sum(1, keepdim=True))
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=5)
loader = DataLoader(TensorDataset(x, y), batch_size=9, shuffle=True)

for _ in range(2):
    for idx, (inputs, targets) in enumerate(loader):
        loss = (model(inputs) - targets).pow(2).mean()
        loss.backward()
        scheduler.step()
        if (idx + 1) % N_ACC == 0:
            optimizer.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
