"""A GAN on a ring of points; both networks are updated once per window."""

import hashlib
from math import pi

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(4)
WINDOW = 4
angle = torch.rand(128) * 2 * pi
ring = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(128, 2)

G = nn.Sequential(nn.Linear(3, 16), nn.LeakyReLU(0.2), nn.Linear(16, 2))
D = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
opt_g = torch.optim.Adam(G.parameters(), lr=1e-3, betas=(0.5, 0.999))
opt_d = torch.optim.Adam(D.parameters(), lr=1e-3, betas=(0.5, 0.999))


def bce(logits, value):
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, value))


def windows(loader):
    window = []
    for (real,) in loader:
        window.append((real, torch.randn(len(real), 3)))
        if len(window) == WINDOW:
            yield window
            window = []


loader = DataLoader(TensorDataset(ring), batch_size=8, shuffle=True)
for _ in range(2):
    for window in windows(loader):
        opt_d.zero_grad()
        for real, noise in window:
            fake = G(noise).detach()
            loss_d = bce(D(real), 1.0) + bce(D(fake), 0.0)
            (loss_d / WINDOW).backward()
        opt_d.step()

        D.requires_grad_(False)
        opt_g.zero_grad()
        for _real, noise in window:
            loss_g = bce(D(G(noise)), 1.0)
            (loss_g / WINDOW).backward()
        opt_g.step()
        D.requires_grad_(True)

state = b"".join(p.detach().numpy().tobytes() for net in (G, D) for p in net.parameters())
print("digest", hashlib.sha256(state).hexdigest())
