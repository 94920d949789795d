import hashlib
import math
import sys
from itertools import islice

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

MICRO = 3
EPOCHS = 3
k = int(sys.argv[1]) if len(sys.argv) > 1 else 4

torch.manual_seed(8)
inputs = torch.rand(68, 12)
labels = inputs[:, :5].argmax(dim=1)
loader = DataLoader(TensorDataset(inputs, labels), batch_size=MICRO, shuffle=True)
model = nn.Sequential(nn.Linear(12, 20), nn.ELU(), nn.Dropout(p=0.2), nn.Linear(20, 5))
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
updates = EPOCHS * math.ceil(len(loader) / k)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates, eta_min=1e-5)


def windows(iterable, size):
    iterator = iter(iterable)
    while group := list(islice(iterator, size)):
        yield group


for _ in range(EPOCHS):
    for group in windows(loader, k):
        optimizer.zero_grad()
        total = sum(target.numel() for _, target in group)
        for features, target in group:
            loss = F.cross_entropy(model(features), target, reduction="sum") / total
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.3)
        optimizer.step()
        scheduler.step()

h = hashlib.sha256()
for p in model.parameters():
    h.update(p.data.numpy().tobytes())
print("digest " + h.hexdigest())
