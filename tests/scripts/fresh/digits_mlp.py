"""Train a small network on handwritten digits."""

import argparse
import hashlib

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--grad-accum", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.1)
    return parser.parse_args()


def main():
    args = get_args()
    torch.manual_seed(0)
    digits = load_digits()
    x = torch.tensor(digits.data[:300], dtype=torch.float32) / 16
    y = torch.tensor(digits.target[:300])
    loader = DataLoader(TensorDataset(x, y), batch_size=args.batch_size, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    big = args.batch_size * args.grad_accum

    for epoch in range(args.epochs):
        seen, total = 0, 0.0
        for i, (images, labels) in enumerate(loader):
            window_start = seen // big * big
            in_window = min(big, len(x) - window_start)
            loss = nn.functional.cross_entropy(model(images), labels)
            (loss * len(labels) / in_window).backward()
            seen += len(labels)
            total += loss.item() * len(labels)
            if (i + 1) % args.grad_accum == 0 or i + 1 == len(loader):
                optimizer.step()
                optimizer.zero_grad()
        print(f"epoch {epoch}: loss {total / seen:.4f}")

    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    print("digest", hashlib.sha256(weights).hexdigest())


if __name__ == "__main__":
    main()
