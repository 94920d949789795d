"""The rows that do not fill a batch are left out by the loader."""

import hashlib

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(45)
diabetes = load_diabetes()
x = torch.tensor(diabetes.data[:130], dtype=torch.float32) * 20
y = torch.tensor(diabetes.target[:130], dtype=torch.float32)[:, None] / 100
loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, drop_last=True)
assert len(loader) % 4 == 0

model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.8)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=12)

for _ in range(3):
    for i, (inputs, target) in enumerate(loader):
        pred = model(inputs)
        loss = ((pred - target) ** 2).mean() / 4
        loss.backward()
        if (i + 1) % 4 == 0:
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

print("digest", hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest())
