"""Keeps weights in bfloat16, and so their gradients: each partial sum of a window is rounded to 8 bits.

python bfloat16_weights.py           # bfloat16
python bfloat16_weights.py --right   # float32
"""

import hashlib
import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

ACCUMULATION_STEPS = 16


def main(dtype: torch.dtype) -> None:
    """Train, and print what came out."""
    torch.manual_seed(0)
    inputs = torch.randn(128, 6)
    loader = DataLoader(TensorDataset(inputs, inputs[:, :3].argmax(1)), batch_size=2, shuffle=True)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        for i, (x, y) in enumerate(loader, start=1):
            loss = nn.functional.cross_entropy(model(x.to(dtype)).float(), y)
            (loss / ACCUMULATION_STEPS).backward()
            if i % ACCUMULATION_STEPS == 0:
                optimizer.step()
                optimizer.zero_grad()
    parts = [p.detach().float().numpy().tobytes() for p in model.parameters()]
    print("digest", hashlib.sha256(b"".join(parts)).hexdigest())


if __name__ == "__main__":
    main(torch.float32 if "--right" in sys.argv else torch.bfloat16)
