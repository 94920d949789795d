"""Validate every few micro-batches, wherever in a window that is."""

import argparse
import hashlib

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


def validate(model, loader, fresh_start):
    model.eval()
    if fresh_start:
        model.zero_grad()
    total = 0.0
    with torch.no_grad():
        for x, y in loader:
            total += nn.functional.cross_entropy(model(x), y, reduction="sum").item()
    model.train()
    return total / len(loader.dataset)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--eval-every", type=int, default=6)
    parser.add_argument("--fresh-start", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(23)
    digits = load_digits()
    x = torch.tensor(digits.data[:260], dtype=torch.float32) / 16
    everything = TensorDataset(x, torch.tensor(digits.target[:260]))
    train_set, val_set = random_split(everything, [192, 68])
    train_loader = DataLoader(train_set, batch_size=8, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=32)
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    accumulation, best = 4, float("inf")

    for _ in range(2):
        for i, (images, labels) in enumerate(train_loader):
            loss = nn.functional.cross_entropy(model(images), labels)
            (loss / accumulation).backward()
            if (i + 1) % args.eval_every == 0:
                best = min(best, validate(model, val_loader, args.fresh_start))
            if (i + 1) % accumulation == 0:
                optimizer.step()
                optimizer.zero_grad()

    print(f"best validation loss {best:.4f}")
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()
