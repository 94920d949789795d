"""Validates every few batches, also in the middle of a window."""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

parser = argparse.ArgumentParser()
parser.add_argument("--buggy", action="store_true", help="clear gradients before each validation")
parser.add_argument("--accum-steps", default=4, type=int)
parser.add_argument("--eval-every", default=7, type=int)
opt = parser.parse_args()

torch.manual_seed(14)
signals = torch.randn(140, 9)
spikes = (signals.amax(dim=1) > 1.6).float()
train_part, valid_part = random_split(TensorDataset(signals, spikes), [112, 28])
train_batches = DataLoader(train_part, batch_size=4, shuffle=True)
valid_batches = DataLoader(valid_part, batch_size=7)

net = nn.Sequential(nn.Linear(9, 18), nn.Hardswish(), nn.Linear(18, 1), nn.Flatten(0))
adam = torch.optim.Adam(net.parameters(), lr=3e-3)
bce = nn.BCEWithLogitsLoss()


def validate():
    if opt.buggy:
        adam.zero_grad()
    net.eval()
    losses = []
    with torch.no_grad():
        for signal, spike in valid_batches:
            losses.append(bce(net(signal), spike).item())
    net.train()
    return sum(losses) / len(losses)


seen = 0
for _ in range(2):
    for signal, spike in train_batches:
        seen += 1
        loss = bce(net(signal), spike) / opt.accum_steps
        loss.backward()
        if seen % opt.accum_steps == 0:
            adam.step()
            adam.zero_grad()
        if seen % opt.eval_every == 0:
            print(f"after {seen} batches: {validate():.4f}")

parts = [p.detach().numpy().tobytes() for p in net.parameters()]
print("digest", hashlib.sha256(b"".join(parts)).hexdigest())
