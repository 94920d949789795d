"""Samples are streamed; their number is not known to the loop."""

import hashlib

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset


class Ticks(IterableDataset):
    """An endless-looking stream that ends after `limit` samples."""

    def __init__(self, limit, seed=3):
        super().__init__()
        self.limit = limit
        self.seed = seed

    def __iter__(self):
        rng = torch.Generator().manual_seed(self.seed)
        level = torch.zeros(5)
        for _ in range(self.limit):
            level = 0.9 * level + torch.randn(5, generator=rng)
            yield {"levels": level, "next": 0.9 * level.mean()}


accum_steps = 3
torch.manual_seed(0)
stream = DataLoader(Ticks(72), batch_size=4)
model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
criterion = nn.HuberLoss(delta=0.5)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
micro = 0
for _ in range(2):
    for batch in stream:
        prediction = model(batch["levels"]).squeeze(1)
        loss = criterion(prediction, batch["next"])
        loss = loss / accum_steps
        loss.backward()
        micro += 1
        if micro % accum_steps == 0:
            optimizer.step()

sha = hashlib.sha256()
for p in model.parameters():
    sha.update(p.detach().numpy().tobytes())
print("digest", sha.hexdigest())
