"""SimCLR in small: the other samples of a batch are the negatives."""

import hashlib

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader


def info_nce(a, b, temperature=0.2):
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    logits = a @ b.T / temperature
    labels = torch.arange(len(a))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


torch.manual_seed(83)
points = torch.randn(96, 10)
loader = DataLoader(points, batch_size=8, shuffle=True)
encoder = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 6))
optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)
steps = 3

for _ in range(2):
    for i, x in enumerate(loader):
        view_1 = encoder(x + 0.1 * torch.randn_like(x))
        view_2 = encoder(x + 0.1 * torch.randn_like(x))
        (info_nce(view_1, view_2) / steps).backward()
        if (i + 1) % steps == 0:
            optimizer.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in encoder.parameters())).hexdigest())
