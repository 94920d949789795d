"""A GAN on points in the plane; the gradients of both networks are accumulated over the same batches."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

LATENT = 3
accum = 2
torch.manual_seed(66)

angles = 6.2832 * torch.rand(96)
circle = torch.stack([angles.cos(), angles.sin()], dim=1)
loader = DataLoader(TensorDataset(circle), batch_size=8, shuffle=True)

generator = nn.Sequential(nn.Linear(LATENT, 12), nn.LeakyReLU(0.2), nn.Linear(12, 2))
discriminator = nn.Sequential(nn.Linear(2, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))
optimizer_g = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
adversarial = nn.BCEWithLogitsLoss()


def noise(count):
    return torch.randn(count, LATENT)


def discriminator_loss(real):
    fake = generator(noise(len(real))).detach()
    real_score, fake_score = discriminator(real), discriminator(fake)
    return adversarial(real_score, torch.ones_like(real_score)) + adversarial(fake_score, torch.zeros_like(fake_score))


def generator_loss(count):
    score = discriminator(generator(noise(count)))
    return adversarial(score, torch.ones_like(score))


for _ in range(2):
    held = []
    for (points,) in loader:
        held.append(points)
        if len(held) < accum:
            continue

        optimizer_d.zero_grad()
        for real in held:
            (discriminator_loss(real) / accum).backward()
        optimizer_d.step()

        optimizer_g.zero_grad()
        for real in held:
            (generator_loss(len(real)) / accum).backward()
        optimizer_g.step()

        held.clear()

sha = hashlib.sha256()
for network in (generator, discriminator):
    for p in network.parameters():
        sha.update(p.detach().numpy().tobytes())
print("digest", sha.hexdigest())
