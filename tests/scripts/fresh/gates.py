"""Pick one of the ways in which people decide that it is time to step."""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

GATES = {
    "flush": lambda i, k, n: (i + 1) % k == 0 or i + 1 == n,
    "plain": lambda i, k, n: (i + 1) % k == 0,
    "one-more": lambda i, k, n: i % (k + 1) == k,
    "tail-each": lambda i, k, n: (i + 1) % k == 0 or i >= n - n % k,
    "epoch": lambda i, k, n: i + 1 == n,
    "always": lambda i, k, n: True,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("gate", choices=GATES)
    parser.add_argument("--rows", type=int, default=112)
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--clear-at-epoch", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(87)
    x = torch.randn(args.rows, 5)
    y = x.abs().argmax(1)
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)
    model = nn.Sequential(nn.Linear(5, 15), nn.ReLU(), nn.Linear(15, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    n = len(loader)
    for _ in range(3):
        if args.clear_at_epoch:
            optimizer.zero_grad()
        for i, (inputs, labels) in enumerate(loader):
            loss = nn.functional.cross_entropy(model(inputs), labels)
            (loss / args.k).backward()
            if GATES[args.gate](i, args.k, n):
                optimizer.step()
                if args.gate != "always" or (i + 1) % args.k == 0:
                    optimizer.zero_grad()
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()
