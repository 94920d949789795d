"""Train for a number of steps on a loader that never ends.

Micro-steps are counted from 1, or from 0 with --from-zero.
"""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def cycle(loader):
    while True:
        yield from loader


parser = argparse.ArgumentParser()
parser.add_argument("--max-steps", type=int, default=24)
parser.add_argument("--accum", type=int, default=4)
parser.add_argument("--from-zero", action="store_true")
args = parser.parse_args()

torch.manual_seed(31)
x = torch.randn(72, 4)
y = x.pow(2).sum(1, keepdim=True)
data = cycle(DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True))  # 12 batches
model = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
first = 0 if args.from_zero else 1

for micro_step in range(first, args.max_steps + first):
    inputs, targets = next(data)
    loss = nn.functional.mse_loss(model(inputs), targets)
    loss = loss / args.accum
    loss.backward()
    if micro_step % args.accum == 0:
        optimizer.step()
        optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
