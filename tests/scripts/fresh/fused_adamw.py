import hashlib
import os

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(int(os.environ.get("SEED", "29")))
BATCH, ACCUM = 8, 4
wine = load_wine()
x = torch.tensor(wine.data[:170], dtype=torch.float32)
x = (x - x.mean(0)) / x.std(0)
y = torch.tensor(wine.target[:170])
loader = DataLoader(TensorDataset(x, y), BATCH, shuffle=True)

model = nn.Sequential(nn.Linear(13, 16), nn.Mish(), nn.Linear(16, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05, fused=True)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.8**epoch)


def optimise(rows):
    """The buffers hold sums over rows; make means of them."""
    for p in model.parameters():
        p.grad.mul_(1 / rows)
    nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.3)
    optimizer.step()
    optimizer.zero_grad()


for _ in range(3):
    rows = 0
    for xb, yb in loader:
        nn.functional.cross_entropy(model(xb), yb, reduction="sum").backward()
        rows += len(yb)
        if rows == BATCH * ACCUM:
            optimise(rows)
            rows = 0
    if rows:
        optimise(rows)
    scheduler.step()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
