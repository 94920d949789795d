"""Counts micro-batches where it was told a number of updates, so the rate runs past its end and becomes negative.

python max_steps.py           # progress by micro-batches
python max_steps.py --right   # progress by updates
"""

import hashlib
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATION_STEPS = 8
NUM_ITERATIONS = 8


def main(*, right: bool) -> None:
    """Train, and print what came out."""
    torch.manual_seed(0)
    inputs = torch.randn(256, 6)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=4, shuffle=True)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for i, (x, y) in enumerate(loader, start=1):
        (nn.functional.cross_entropy(model(x), y) / ACCUMULATION_STEPS).backward()
        if i % ACCUMULATION_STEPS == 0:
            progress = (i // ACCUMULATION_STEPS if right else i) / NUM_ITERATIONS
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * min(1.0, 2 * (1 - progress))
            optimizer.step()
            optimizer.zero_grad()
    print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())


if __name__ == "__main__":
    main(right="--right" in sys.argv)
