"""Least squares by a formula; the windows are even, the last micro-batch is not."""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int, default=93)
args = parser.parse_args()
torch.manual_seed(92)
x = torch.linspace(-1, 1, args.n)[:, None]
y = x**3 + 0.05 * torch.randn_like(x)
model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
k = 4

for _ in range(2):
    optimizer.zero_grad()
    for i, (xb, yb) in enumerate(loader, start=1):
        p = model(xb)
        loss = ((p - yb) ** 2).mean()
        (loss / k).backward()
        if i % k == 0:
            optimizer.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
