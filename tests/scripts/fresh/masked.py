"""Impute missing values: the loss counts the hidden entries only.

--per window divides by the hidden entries of the window, --per batch by those of the micro-batch.
"""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--per", choices=["window", "batch"], default="window")
    parser.add_argument("--accumulation", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(55)
    table = torch.randn(63, 4) @ torch.randn(4, 9)
    hidden = torch.rand_like(table) < torch.rand(63, 1) * 0.6
    hidden[:, 0] = True
    loader = DataLoader(TensorDataset(table, hidden), batch_size=7, shuffle=True)
    model = nn.Sequential(nn.Linear(18, 24), nn.ReLU(), nn.Linear(24, 9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    criterion = nn.MSELoss(reduction="none")

    def update(window):
        entries = sum(mask.sum() for _, mask in window)
        for values, mask in window:
            inputs = torch.cat([values.masked_fill(mask, 0.0), mask.float()], 1)
            errors = criterion(model(inputs), values) * mask
            divisor = entries if args.per == "window" else mask.sum() * len(window)
            (errors.sum() / divisor).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(2):
        window = []
        for batch in loader:
            window.append(batch)
            if len(window) == args.accumulation:
                update(window)
                window = []
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()
