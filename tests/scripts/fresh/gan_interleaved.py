"""A GAN on a ring of points, one pass over the data, both networks in the same loop."""

import argparse
import hashlib
import math

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset


def make_data(n):
    angle = torch.rand(n) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--n_accum", type=int, default=4)
    opt = parser.parse_args()
    torch.manual_seed(40)
    generator = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2))
    discriminator = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())
    adversarial_loss = nn.BCELoss()
    optimizer_g = optim.SGD(generator.parameters(), lr=0.05)
    optimizer_d = optim.SGD(discriminator.parameters(), lr=0.05)
    loader = DataLoader(TensorDataset(make_data(96)), batch_size=6, shuffle=True)

    for _ in range(2):
        for i, (real,) in enumerate(loader):
            valid = torch.ones(real.size(0), 1)
            fake = torch.zeros(real.size(0), 1)

            # generator
            if i % opt.n_accum == 0:
                optimizer_g.zero_grad()
            generated = generator(torch.randn(real.size(0), 3))
            g_loss = adversarial_loss(discriminator(generated), valid) / opt.n_accum
            g_loss.backward()

            # discriminator
            if i % opt.n_accum == 0:
                optimizer_d.zero_grad()
            real_loss = adversarial_loss(discriminator(real), valid)
            fake_loss = adversarial_loss(discriminator(generated.detach()), fake)
            d_loss = (real_loss + fake_loss) / 2 / opt.n_accum
            d_loss.backward()

            if (i + 1) % opt.n_accum == 0:
                optimizer_g.step()
                optimizer_d.step()

    h = hashlib.sha256()
    for p in [*generator.parameters(), *discriminator.parameters()]:
        h.update(p.detach().numpy().tobytes())
    print("digest", h.hexdigest())


if __name__ == "__main__":
    main()
