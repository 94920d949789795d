"""Two worker processes prepare the batches."""

import argparse
import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset


class Waves(Dataset):
    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        t = torch.linspace(0, 1, 16)
        return torch.sin((i % 5 + 1) * 6.28 * t + i), torch.tensor(i % 5)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(61)
    data = Subset(Waves(200), range(0, 200, 3))  # 67 samples
    loader = DataLoader(data, batch_size=4, shuffle=True, num_workers=args.workers, persistent_workers=args.workers > 0)
    model = nn.Sequential(nn.Unflatten(1, (1, 16)), nn.Conv1d(1, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(2):
        done = 0
        pending = 0
        span = 4 * args.accumulate
        for x, y in loader:
            span_rows = min(span, len(data) - done)
            loss = nn.functional.cross_entropy(model(x), y, reduction="none").sum() / span_rows
            loss.backward()
            pending += len(y)
            if pending == span_rows:
                optimizer.step()
                optimizer.zero_grad()
                done += pending
                pending = 0
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main()
