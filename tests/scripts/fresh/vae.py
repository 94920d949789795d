"""VAE on digits. The objective is the ELBO summed over the samples of an update, as in the original paper's code."""

import argparse
import hashlib

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader


class VAE(nn.Module):
    def __init__(self, latent=4):
        super().__init__()
        self.enc = nn.Linear(64, 24)
        self.mu, self.logvar = nn.Linear(24, latent), nn.Linear(24, latent)
        self.dec = nn.Sequential(nn.Linear(latent, 24), nn.ReLU(), nn.Linear(24, 64))

    def forward(self, x):
        h = self.enc(x).relu()
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * (logvar / 2).exp()
        return self.dec(z).sigmoid(), mu, logvar


def elbo(recon, x, mu, logvar):
    bce = F.binary_cross_entropy(recon, x, reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--reduce", choices=["sum", "mean"], default="sum")
    ap.add_argument("--accum", type=int, default=4)
    args = ap.parse_args()
    torch.manual_seed(9)
    x = torch.tensor(load_digits().data[:200], dtype=torch.float32) / 16
    loader = DataLoader(x, batch_size=8, shuffle=True)  # 25 batches
    vae = VAE()
    optimizer = torch.optim.SGD(vae.parameters(), lr=1e-4)
    for _ in range(2):
        for i, batch in enumerate(loader, 1):
            recon, mu, logvar = vae(batch)
            loss = elbo(recon, batch, mu, logvar)
            if args.reduce == "mean":
                loss = loss / len(batch)
            loss.backward()
            if i % args.accum == 0 or i == len(loader):
                optimizer.step()
                optimizer.zero_grad()
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in vae.parameters())).hexdigest())


if __name__ == "__main__":
    main()
